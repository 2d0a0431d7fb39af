"""MoMoK: its experts, gates and fused view, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.nn.embedders import ExpertsEmbedder
from mmrns.nn.model import Model
from mmrns.nn.scorers import Scorer
from mmrns.runs.build import build_model, build_trainer
from mmrns.runs.config import make_config
from mmrns.types import Batch

D = 4
LACKS_BOTH, LACKS_IMAGE, UNSEEN = 5, 11, 39
DROPS = {"anchor_dropout": 0.2, "matrix_dropout": 0.3, "query_dropout": 0.2, "fused_dropout": 0.3}


def config_of(**model: Any) -> dict[str, Any]:
    values = {"embedder": "momok", "scorer": "TuckER", "mixture": "mean-probability", "modalities": ["image", "text"]}
    return {
        "model": values | {"dim": D, "reciprocal": True, **model},
        "objective": {"loss": "bce", "smoothing": 0.1},
        "training": {"batch_size": 32, "lr": 0.01},
        "method": "k-vs-all",
        "device": "cpu",
    }


def model_of(toy: Dataset, **options: Any) -> tuple[Model, ExpertsEmbedder]:
    """A model of numbers that are far from those it starts with."""
    model = build_model(make_config(config_of(**options)), toy).double()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=p.dtype) * 0.5)
    embedder = model.entity
    assert isinstance(embedder, ExpertsEmbedder)
    return model, embedder


def inputs(embedder: ExpertsEmbedder, e: int) -> dict[int, Tensor]:
    """x_s and x_m of what an entity has."""
    found = {0: embedder.structure.weight[e]}
    for m, modality in enumerate(embedder.modalities.values()):
        values, mask = modality.gather(torch.tensor([e]))
        if mask.any():
            mean = values[0][mask[0]].double().mean(0)
            vector = (mean - mean.mean()) / (mean.var(unbiased=False) + 1e-5).sqrt() / len(mean) ** 0.5
            found[1 + m] = embedder.projections[m](vector)
    if e == UNSEEN and len(found) > 1:
        del found[0]
    return found


def by_hand(embedder: ExpertsEmbedder, e: int, rho: Tensor | None) -> dict[int, Tensor]:
    """The views that an entity has, under a relation or none."""
    sigma = 1.0 if rho is None else 1 / (1 + torch.exp(-rho))
    views: dict[int, Tensor] = {}
    for m, x in inputs(embedder, e).items():
        gate = torch.softmax(x @ embedder.gates[m] / sigma, dim=0)
        pairs = zip(embedder.experts[m], embedder.centres[m], strict=True)
        views[m] = sum((g * ((x - c) @ L) for g, (L, c) in zip(gate, pairs, strict=True)), torch.zeros(D).double())
    fused = torch.zeros(D).double()
    for head in range(2):
        u = [torch.relu(v @ embedder.fusions[m, head] + embedder.shifts[m, head]) for m, v in views.items()]
        weights = torch.softmax(torch.stack([embedder.attention @ one for one in u]), dim=0)
        fused = fused + sum(w * one for w, one in zip(weights, u, strict=True))
    return views | {3: fused}


@torch.no_grad()
def test_views_by_hand(toy: Dataset) -> None:
    model, embedder = model_of(toy)
    assert model.views == ("structure", "image", "text", "fused")
    assert embedder.reads == ("image", "text")
    ids = torch.tensor([0, 4, LACKS_IMAGE, LACKS_BOTH, UNSEEN])
    views = embedder(ids)
    assert views.present.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 0, 1], [0, 1, 0, 1]]
    assert embedder.by_features(ids).tolist() == [True, True, True, False, True]
    relation = model.relation.weight[[1, 3, 0, 2, 1]]
    # Candidates are seen without a relation, anchors with its number, the last one.
    for found, numbers in ((views, [None] * 5), (embedder.anchor(views, relation), relation[:, -1])):
        for row, (e, rho) in enumerate(zip(ids.tolist(), numbers, strict=True)):
            for v, expected in by_hand(embedder, e, rho).items():
                torch.testing.assert_close(found.vectors[row, v], expected)


@torch.no_grad()
def test_scores_are_the_mean_probability_of_four_formulas_of_their_own(toy: Dataset) -> None:
    model, embedder = model_of(toy)
    cores = [scorer.core for scorer in model.scorers]
    assert len(cores) == 4
    triples = torch.tensor([[0, 1, 2], [LACKS_IMAGE, 0, 3], [UNSEEN, 2, 1]])
    for head in (False, True):
        every = model.score_all(Batch.of(triples, head))
        for row, (h, r, t) in enumerate(triples.tolist()):
            relation = model.relation.weight[r + 5 * head]
            own = by_hand(embedder, t if head else h, relation[-1])
            for e in (0, 7, LACKS_BOTH, LACKS_IMAGE):
                theirs = by_hand(embedder, e, None)
                scores = [
                    torch.einsum("i,j,k,ijk", own[v], relation[v * D : (v + 1) * D], theirs[v], cores[v])
                    for v in own.keys() & theirs.keys()
                ]
                p = torch.stack(scores).sigmoid().mean()
                torch.testing.assert_close(every[row, e].sigmoid(), p)


def test_noise_and_gaps_are_of_steps_and_follow_the_seed(toy: Dataset) -> None:
    def losses(seed: int, **options: Any) -> list[float]:
        trainer = build_trainer(make_config(config_of(**options) | {"seed": seed}), toy)
        return [float(trainer.step(step)) for step in range(3)]

    assert losses(0, **DROPS) == losses(0, **DROPS)
    assert losses(0, **DROPS) != losses(1, **DROPS)
    _, embedder = model_of(toy)
    ids = torch.arange(40)
    with torch.no_grad():
        outside = embedder(ids).vectors
        embedder.begin(0)
        first = embedder(ids).vectors
        assert torch.equal(embedder(ids).vectors, first)
        embedder.begin(1)
        second = embedder(ids).vectors
    for a, b in ((outside, first), (first, second)):
        assert (a != b).any(-1).float().mean() > 0.9


def test_each_view_normalises_by_itself(toy: Dataset) -> None:
    trainer = build_trainer(make_config(config_of(batch_norm=True)), toy)
    for step in range(3):
        trainer.step(step)
    means = [scorer.norms[0].running_mean for scorer in trainer.model.scorers]
    assert len({tuple(mean.tolist()) for mean in means}) == 4
    seeds = {scorer.seed for scorer in trainer.model.scorers}
    assert len(seeds) == 4, "each drops numbers of its own"


@pytest.mark.parametrize("scorer", [name for name in Scorer.registry.names() if name != "TuckER"])
def test_it_trains_with_any_formula(toy: Dataset, scorer: str) -> None:
    values = config_of(scorer=scorer)
    values["training"]["lr"] = 0.02
    trainer = build_trainer(make_config(values), toy)
    losses = [float(trainer.step(step)) for step in range(20)]
    assert sum(losses[-4:]) < sum(losses[:4])
