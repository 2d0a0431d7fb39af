from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.data.negatives import read_negatives
from mmrns.errors import DataError
from toy import ENTITIES, write_negatives


def test_rows_are_positives_and_negatives(toy: Dataset, tmp_path: Path) -> None:
    path = write_negatives(tmp_path / "n.tsv")
    positive, negative = read_negatives(path, toy.graph)
    lines = path.read_text().splitlines()
    assert len(positive) == len(lines)
    e, r = toy.graph.entities, toy.graph.relations
    for line, p, n in list(zip(lines, positive.tolist(), negative.tolist(), strict=True))[::7]:
        assert line.split("\t") == [e[p[0]], r[p[1]], e[p[2]], e[n[0]], r[n[1]], e[n[2]]]
    assert toy.graph.train_index.contains(*positive.unbind(1)).all()
    assert ((positive != negative).sum(1) == 1).all()


def test_what_is_not_fit_is_one_line(toy: Dataset, tmp_path: Path) -> None:
    graph, path = toy.graph, tmp_path / "n.tsv"
    good = write_negatives(path).read_text().splitlines()[0].split("\t")
    h, r, t, *_ = good
    others = [e for e in ENTITIES if not graph.train_index.contains(*_ids(toy, h, r, e)) and e != t]
    other = next(row for row in graph.train.tolist() if row[1] == graph.relations.id("likes"))
    names = [graph.entities[other[0]], "likes", graph.entities[other[2]]]
    true = next(
        e
        for e in range(len(ENTITIES))
        if e != other[2] and graph.train_index.contains(*(torch.tensor([x]) for x in (other[0], other[1], e)))
    )
    cases = {
        f"{h}\t{r}\t{t}": "3 columns where head TAB relation TAB tail TAB negative head",
        f"{h}\t{r}\t{t}\t{h}\t{r}\te4x": "unknown entity 'e4x'; did you mean 'e",
        f"{h}\t{r}z\t{t}\t{h}\t{r}\t{others[0]}": f"unknown relation '{r}z'; did you mean '{r}'",
        f"{h}\t{r}\t{t}\t{h}\t{r}\t{t}": "the negative is its positive; replace either the head or the tail",
        f"{h}\t{r}\t{t}\t{t}\t{r}\t{h}": "differs from its positive in more than one place",
        f"{h}\t{r}\t{t}\t{h}\tnext_to_\t{t}": "unknown relation",
        f"{h}\t{r}\t{t}\t{h}\t{'likes' if r != 'likes' else 'knows'}\t{t}": "has another relation than its positive",
        f"e39\t{r}\t{t}\te38\t{r}\t{t}": "the positive is no triple of train",
        "\t".join([*names, names[0], "likes", ENTITIES[true]]): "the negative is a triple of train; delete the row",
    }
    for row, message in cases.items():
        path.write_text("\t".join(good) + "\n" + row + "\n")
        with pytest.raises(DataError) as caught:
            read_negatives(path, graph)
        assert str(caught.value).startswith(f"{path}:2: ")
        assert message in str(caught.value)
    path.write_text("")
    with pytest.raises(DataError, match="holds no negative"):
        read_negatives(path, graph)


def test_the_first_bad_row_is_named_whatever_is_wrong_with_it(toy: Dataset, tmp_path: Path) -> None:
    path = write_negatives(tmp_path / "n.tsv")
    h, r, t, *_ = path.read_text().splitlines()[0].split("\t")
    path.write_text(f"{h}\t{r}\t{t}\t{h}\t{r}\t{t}\nnobody\t{r}\t{t}\t{h}\t{r}\t{t}\n")
    with pytest.raises(DataError, match=r"n\.tsv:1: the negative is its positive"):
        read_negatives(path, toy.graph)


def _ids(toy: Dataset, h: str, r: str, t: str) -> list[torch.Tensor]:
    e = toy.graph.entities
    return [torch.tensor([i]) for i in (e.id(h), toy.graph.relations.id(r), e.id(t))]
