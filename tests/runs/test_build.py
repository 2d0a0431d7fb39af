"""What the composition root gives to the parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.nn.losses import Loss
from mmrns.nn.scorers import Scorer
from mmrns.runs.build import build_trainer, with_gamma
from mmrns.runs.config import make_config
from mmrns.runs.train import train

BILINEAR = ("DistMult", "ComplEx", "BiQUE", "TuckER")
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


@pytest.mark.parametrize(
    ("size", "scorer", "loss", "gamma"),
    [
        (1_829, "TransE", "self-adversarial", 2.0),
        (272_115, "RotatE", "softplus", 10.8),
        (8, "TransE", "self-adversarial", 1.0),
        (1_829, "TransE", "margin", 9.0),
        (1_829, "ComplEx", "self-adversarial", 9.0),
    ],
)
def test_gamma_goes_by_the_size_of_the_graph(toy: Dataset, size: int, scorer: str, loss: str, gamma: float) -> None:
    """A sixth of the cube root of the number of triples; only distances have a range that triples must fill."""
    train = torch.zeros(size, 3, dtype=torch.int64)
    dataset = replace(toy, graph=replace(toy.graph, train=train))
    config = make_config({"model": {"scorer": scorer}, "objective": {"loss": loss}, "method": "uniform"})
    assert with_gamma(config, dataset).objective.gamma == gamma
    given = make_config({"model": {"scorer": scorer}, "objective": {"loss": loss, "gamma": 4.5}, "method": "uniform"})
    assert with_gamma(given, dataset) is given


def test_a_run_says_which_gamma_it_took(toy: Dataset) -> None:
    settings = {"training.steps": 1, "model.dim": 4, "method": "uniform"}
    run = train(dataset=toy, device="cpu", settings=settings, progress=False)
    assert run.config.objective.gamma == 1.0
