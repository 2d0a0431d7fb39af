"""What the composition root gives to the parts."""

from __future__ import annotations

import pytest

from mmrns.data.datasets import Dataset
from mmrns.nn.losses import Loss
from mmrns.nn.scorers import Scorer
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config

BILINEAR = ("DistMult", "ComplEx", "TuckER")
RANKING = ("margin",)


@pytest.mark.parametrize("scorer", Scorer.registry.names())
@pytest.mark.parametrize("loss", Loss.registry.names())
def test_gamma_is_for_distances_and_for_margins(toy: Dataset, scorer: str, loss: str) -> None:
    cls = Scorer.registry.get(scorer)
    assert cls.distance == (scorer not in BILINEAR) or not cls.__module__.startswith("mmrns.")
    method = "k-vs-all" if Loss.registry.get(loss).needs_all else "uniform"
    values = {"method": method, "objective": {"loss": loss, "gamma": 5.0, "alpha": 0.3}}
    trainer = build_trainer(make_config({**values, "model": {"scorer": scorer, "dim": 4}, "device": "cpu"}), toy)
    assert trainer.objective.gamma == (5.0 if cls.distance or loss in RANKING else 0.0)
    assert trainer.objective.alpha == 0.3
