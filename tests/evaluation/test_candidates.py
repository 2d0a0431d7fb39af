"""Candidates by relation and side, against sets, and what is said of a file that does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.errors import DataError
from mmrns.evaluation.candidates import Candidates
from mmrns.evaluation.ranking import rank
from mmrns.types import Batch


def test_those_of_train_fill_the_slot(toy: Dataset) -> None:
    graph = toy.graph
    candidates = Candidates.of_train(graph)
    # In any order, and one relation twice.
    asked = torch.tensor([3, 0, 4, 1, 2, 0])
    for head in (False, True):
        mask = candidates.mask(asked, head)
        for r, row in zip(asked.tolist(), mask, strict=True):
            expected = graph.train[graph.train[:, 1] == r][:, 0 if head else 2].unique()
            assert row.nonzero().flatten().tolist() == expected.tolist()
        assert torch.equal(candidates.mask(asked[:0], head), mask[:0])


class Constant:
    def __init__(self, n_entities: int):
        self.n_entities = n_entities

    def score_all(self, batch: Batch, memory_mb: float | int) -> torch.Tensor:
        return torch.zeros(len(batch), self.n_entities)


def test_a_file_restricts_what_it_lists_and_nothing_else(toy: Dataset, tmp_path: Path) -> None:
    graph = toy.graph
    path = tmp_path / "types.tsv"
    path.write_text("part_of\ttail\te01\npart_of\ttail\te00\npart_of\ttail\te01\nlikes\thead\te39\n")
    candidates = Candidates.read(path, graph)
    part_of, likes = (torch.tensor([graph.relations.id(name)]) for name in ("part_of", "likes"))
    assert candidates.mask(part_of, False).nonzero()[:, 1].tolist() == [0, 1]
    assert candidates.mask(likes, True).nonzero()[:, 1].tolist() == [39]
    assert candidates.mask(part_of, True).all()
    assert candidates.mask(likes, False).all()
    # e38 is part of e02, which the file leaves out; it takes part beside the two others, and is counted.
    triple = torch.tensor([[38, int(part_of), 2]])
    ranks = rank(Constant(40), triple, graph.known_index, candidates=candidates)
    assert ranks.outside.tolist() == [True, False]
    assert ranks.candidates[0] == ranks.pessimistic[0] == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("part_of\ttail", r"types\.tsv:2: 2 columns where relation TAB side TAB entity is expected"),
        (
            "part_off\ttail\te01",
            r"types\.tsv:2: unknown relation 'part_off'; did you mean 'part_of'\?; write the relation",
        ),
        ("part_of\tleft\te01", r"types\.tsv:2: unknown side 'left'; write head or tail"),
        ("part_of\thead\te1", r"types\.tsv:2: unknown entity 'e1'; did you mean 'e\d1'\?; write the entity as in the"),
    ],
)
def test_mistakes_in_a_file_are_named(toy: Dataset, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "types.tsv"
    path.write_text(f"part_of\ttail\te01\n{line}\n")
    with pytest.raises(DataError, match=message):
        Candidates.read(path, toy.graph)
