"""Relations with an inverse of their own."""

from __future__ import annotations

import pytest
import torch

from mmrns.nn.model import Model
from mmrns.nn.scorers import Scorer
from mmrns.types import Batch, OwnNegatives

TRIPLES = torch.tensor([[0, 0, 1], [1, 1, 0], [3, 1, 2]])


def model_of(name: str) -> Model:
    torch.manual_seed(0)
    return Model(Scorer.registry.get(name)(dim=6, init_range=0.5), 4, 2, reciprocal=True).double()


@pytest.mark.parametrize("name", Scorer.registry.names())
@torch.no_grad()
def test_a_head_is_asked_for_as_the_tail_of_the_inverse(name: str) -> None:
    model = model_of(name)
    # The inverses are relations 2 and 3 of a plain model with the same vectors.
    plain = Model(model.scorer, 4, 4).double()
    plain.load_state_dict(model.state_dict())
    turned = TRIPLES[:, [2, 1, 0]] + torch.tensor([0, 2, 0])
    heads = Batch.of(TRIPLES, torch.tensor([True, False, True]))
    asked = torch.cat([TRIPLES[[1]], turned[[0, 2]]])
    tails = Batch.of(asked, torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(model.score_all(heads), plain.score_all(tails))
    torch.testing.assert_close(model.score(model.lookup(heads)), plain.score(plain.lookup(tails)))
    ids = torch.tensor([[3, 0], [1, 2], [0, 0]])
    torch.testing.assert_close(
        model.score_against(model.lookup(heads), OwnNegatives(ids)), plain.score_all(tails).gather(1, ids)
    )
    assert heads.relations.tolist() == [0, 1]
