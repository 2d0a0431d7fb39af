"""Triples by id or by name beside lists of names: which of both, where names are small numbers; LibKGE folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmrns.data.datasets import load_dataset
from mmrns.errors import DataError
from mmrns.prepare.formats import convert, sniff

SHUFFLED = {"entities.dict": "0\t2\n1\t0\n2\t1\n"}
"""Names that are small numbers, and not their own ids."""


def put(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def train(folder: Path) -> list[tuple[str, ...]]:
    return [tuple(line.split("\t")) for line in (folder / "train.tsv").read_text().splitlines()]


def test_relations_decide_too(tmp_path: Path) -> None:
    files = SHUFFLED | {"relations.dict": "0\t5\n", "train.txt": "0\t0\t1\n1\t0\t2\n"}
    done = convert(put(tmp_path / "in", files), tmp_path / "out")
    assert train(tmp_path / "out") == [("2", "5", "0"), ("0", "5", "1")]
    assert done.notes == []


def test_all_splits_are_read_alike(tmp_path: Path) -> None:
    """Of the second by itself both would be possible."""
    files = SHUFFLED | {"relations.dict": "0\t5\n5\t0\n".replace("5\t0", "1\t0")}
    files |= {"train.txt": "0\t1\t1\n", "valid.txt": "1\t0\t2\n"}
    convert(put(tmp_path / "in", files), tmp_path / "out")
    assert train(tmp_path / "out") == [("2", "0", "0")]
    assert (tmp_path / "out/valid.tsv").read_text() == "0\t5\t1\n"


def test_where_both_are_possible_it_is_said_and_can_be_chosen(tmp_path: Path) -> None:
    files = SHUFFLED | {"relations.dict": "0\t1\n1\t0\n", "train.txt": "0\t0\t1\n1\t0\t2\n"}
    source = put(tmp_path / "in", files)
    done = convert(source, tmp_path / "named")
    assert train(tmp_path / "named") == [("0", "0", "1"), ("1", "0", "2")]
    (note,) = done.notes
    assert note.startswith(
        "the triples were read by name; the ids of entities.dict and relations.dict fit them as well"
    )
    assert note.endswith("--from by-id reads them so")
    done = convert(source, tmp_path / "numbered", layout="by-id")
    assert train(tmp_path / "numbered") == [("2", "1", "0"), ("0", "1", "1")]
    assert done.notes == []


def test_names_that_are_their_own_ids_need_no_word(tmp_path: Path) -> None:
    files = {"entities.dict": "0\t0\n1\t1\n", "relations.dict": "0\t0\n", "train.txt": "0\t0\t1\n"}
    assert convert(put(tmp_path / "in", files), tmp_path / "out").notes == []


@pytest.mark.parametrize(
    ("triples", "message"),
    [
        ("a\tr\tb\nb\tq\ta\n", "train.txt:2: relation 'q' is not in relations.dict; add it"),
        ("a\tr\tb\nb\tr\tz\n", "train.txt:2: entity 'z' is not in entities.dict; add it"),
        ("0\t0\t1\n1\t1\t0\n", r"train.txt:2: relation '1' is no relation id \(0 to 0\)"),
        ("0\t0\t1\n1\t0\t7\n", r"train.txt:2: tail '7' is no entity id \(0 to 1\)"),
        ("0\t0\t1\n1\t0\t1.0\n", r"train.txt:2: tail '1.0' is no entity id"),
        ("0\t0\t1\n99999999999999999999\t0\t1\n", r"train.txt:2: head '99999999999999999999' is no entity id"),
    ],
)
def test_what_the_lists_lack_is_refused_by_line(tmp_path: Path, triples: str, message: str) -> None:
    files = {"entities.dict": "0\ta\n1\tb\n", "relations.dict": "0\tr\n", "train.txt": triples}
    with pytest.raises(DataError, match=message):
        convert(put(tmp_path / "in", files), tmp_path / "out")


def test_blanks_in_lists_and_triples_do_not_matter(tmp_path: Path) -> None:
    lists = {"entities.dict": "0\ta \n1\t b\n", "relations.dict": "0\tr\n"}
    convert(put(tmp_path / "names", lists | {"train.txt": "a\tr \tb\n"}), tmp_path / "one")
    convert(put(tmp_path / "ids", lists | {"train.txt": "0 \t0\t 1\n"}), tmp_path / "two")
    assert train(tmp_path / "one") == train(tmp_path / "two") == [("a", "r", "b")]


def test_a_list_of_numbers_has_its_ids_in_the_column_that_counts(tmp_path: Path) -> None:
    files = {"entities.dict": "7\t0\n5\t1\n", "relations.dict": "0\tr\n", "train.txt": "0\t0\t1\n"}
    convert(put(tmp_path / "in", files), tmp_path / "out")
    assert train(tmp_path / "out") == [("7", "r", "5")]


DGL_KE = {"entities.tsv": "0\tann\n1\tbob\n2\tcem\n", "relations.tsv": "0\tknows\n"}


@pytest.mark.parametrize("triples", ["0\t0\t1\n1\t0\t2\n", "ann\tknows\tbob\nbob\tknows\tcem\n"])
def test_tables_of_ids_without_a_header_as_dgl_ke_has_them(tmp_path: Path, triples: str) -> None:
    files = DGL_KE | {f"{split}.tsv": triples for split in ("train", "valid", "test")}
    done = convert(put(tmp_path / "in", files), tmp_path / "out")
    assert done.layout == "ids"
    assert train(tmp_path / "out") == [("ann", "knows", "bob"), ("bob", "knows", "cem")]
    assert not (tmp_path / "out/relations.tsv").exists()
    assert len(load_dataset(tmp_path / "out").graph.entities) == 3


def test_a_table_with_a_header_is_none_of_ids(tmp_path: Path) -> None:
    files = {"entities.tsv": "entity\tname\n0\tann\n1\tbob\n", "train.tsv": "0\tr\t1\n"}
    done = convert(put(tmp_path / "in", files), tmp_path / "out")
    assert (done.layout, train(tmp_path / "out")) == ("tsv", [("0", "r", "1")])
    assert (tmp_path / "out/entities.tsv").read_text() == files["entities.tsv"]


LIBKGE = {
    "entity_ids.del": "0\tann\n1\tbob\n2\t7\n",
    "relation_ids.del": "0\tknows\n",
    "train.del": "0\t0\t1\n1\t0\t2\n",
    "valid.del": "0\t0\t2\n",
    "test.del": "2\t0\t0\n",
    "train.txt": "ann\tknows\tbob\n",
    "dataset.yaml": "dataset:\n  name: x\n  files.train.filename: train.del\n  files.train.type: triples\n",
}


@pytest.mark.parametrize(
    ("strings", "names"),
    [
        ({"entity_strings.del": "ann\tAnn M.\n7\tCem\n"}, {"ann": "Ann M.", "7": "Cem"}),
        ({"entity_strings.del": "0\tAnn M.\n2\t Cem \nx\ty\n"}, {"ann": "Ann M.", "7": "Cem"}),
        ({}, {}),
    ],
)
def test_libkge(tmp_path: Path, strings: dict[str, str], names: dict[str, str]) -> None:
    source = put(tmp_path / "in", LIBKGE | strings | {"relation_strings.del": "knows\tis known to\n"})
    done = convert(source, tmp_path / "out")
    assert (done.layout, done.triples) == ("libkge", {"train": 2, "valid": 1, "test": 1})
    assert train(tmp_path / "out") == [("ann", "knows", "bob"), ("bob", "knows", "7")]
    dataset = load_dataset(tmp_path / "out")
    assert dataset.labels == names
    assert dataset.relation_labels == {"knows": "is known to"}


def test_libkge_may_call_its_files_otherwise(tmp_path: Path) -> None:
    files = dict(LIBKGE)
    files["train_basic.del"] = files.pop("train.del")
    files["dataset.yaml"] = 'dataset:\n  files.train.filename: "train_basic.del"  # small\n'
    convert(put(tmp_path / "in", files), tmp_path / "out")
    assert len(train(tmp_path / "out")) == 2
    (tmp_path / "in/dataset.yaml").write_text("dataset:\n  files.train.filename: ../train.del\n")
    with pytest.raises(DataError, match=r"dataset.yaml: '../train.del' lies outside the folder"):
        convert(tmp_path / "in", tmp_path / "two")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train.del": "0\t0\t3\n"}, r"train.del:1: tail '3' is no entity id \(0 to 2\)"),
        ({"train.del": "0\t0\t1\t5\n"}, r"train.del:1: no three columns|train.del:1: 4 columns"),
        ({"entity_ids.del": "ann\t0\n"}, r"entity_ids.del:1: no name and id"),
        ({"entity_ids.del": "0\tann\n2\tbob\n"}, r"entity_ids.del: ids are not 0 to 1: 1 has no name"),
        ({"entity_strings.del": "ann Ann\n"}, r"entity_strings.del:1: 1 column where 2 are expected"),
    ],
)
def test_libkge_that_does_not_fit(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    source = put(tmp_path / "in", LIBKGE | changed)
    assert sniff(source).__name__ == "LibKge"
    with pytest.raises(DataError, match=message):
        convert(source, tmp_path / "out")
