"""What every registered mixture must do, with every scorer; a new one is picked up by its name."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmrns.data.datasets import Dataset
from mmrns.data.features import Features, Modality
from mmrns.data.graph import KnowledgeGraph
from mmrns.evaluation.ranking import rank
from mmrns.nn.mixtures import Mixture
from mmrns.nn.model import Model
from mmrns.nn.regularizers import Regularizer
from mmrns.nn.scorers import Scorer
from mmrns.runs.build import build_model, build_trainer
from mmrns.runs.config import make_config
from mmrns.types import AllNegatives, Batch, OwnNegatives, PoolNegatives

EVERY = pytest.mark.parametrize("name", Mixture.registry.names())
SCORERS = pytest.mark.parametrize("scorer", Scorer.registry.names())
LACKS_BOTH, LACKS_IMAGE, LACKS_TEXT, UNSEEN = 5, 11, 6, 39


def config_of(name: str, scorer: str = "ComplEx", **sections: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": {"mixture": name, "scorer": scorer, "dim": 6, "modalities": ["image", "text"]},
        "method": "uniform",
        "device": "cpu",
    }
    for section, given in sections.items():
        values[section] = {**values.get(section, {}), **given}
    return values


def model_of(dataset: Dataset, name: str, scorer: str = "ComplEx", **model: Any) -> Model:
    """A model of numbers that are far from those it starts with."""
    made = build_model(make_config(config_of(name, scorer, model=model)), dataset).double()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.4 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return made


def batch_of(dataset: Dataset) -> Batch:
    """Both sides, and rows of every kind of gap."""
    gaps = torch.tensor(
        [[LACKS_BOTH, 0, 1], [2, 1, LACKS_IMAGE], [LACKS_TEXT, 4, LACKS_IMAGE], [UNSEEN, 4, LACKS_BOTH]]
    )
    return Batch.of(torch.cat([dataset.graph.train[:8], gaps]), torch.arange(12) % 3 == 0)


@EVERY
@SCORERS
@pytest.mark.parametrize("reciprocal", [False, True])
@torch.no_grad()
def test_the_score_is_the_same_however_it_is_asked_for(toy: Dataset, name: str, scorer: str, reciprocal: bool) -> None:
    model = model_of(toy, name, scorer, reciprocal=reciprocal)
    batch = batch_of(toy)
    lookup, every = model.lookup(batch), model.score_all(batch)
    assert torch.isfinite(every).all()
    assert every.std(1).min() > 0
    ids = torch.randint(40, (12, 5), generator=torch.Generator().manual_seed(0))
    everyone = AllNegatives(40, torch.device("cpu"))
    rows = slice(3, 9)
    part = Batch.of(torch.stack([batch.h, batch.r, batch.t], 1)[rows], batch.head[rows])
    for found, expected in (
        (model.score(lookup), every.gather(1, batch.target[:, None]).squeeze(1)),
        (model.score_against(lookup, OwnNegatives(ids)), every.gather(1, ids)),
        (model.score_against(lookup, OwnNegatives(ids * 0, model.entities(ids))), every.gather(1, ids)),
        (model.score_against(lookup, PoolNegatives(ids[0])), every[:, ids[0]]),
        (model.score_against(lookup, everyone), every),
        (model.score_against(lookup.part(part, rows), everyone), every[rows]),
        (model.compare_rows(lookup.query, model.entities(torch.arange(40)), ids), every.gather(1, ids)),
        (model.score_all(batch, memory_mb=1e-3), every),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@EVERY
@SCORERS
def test_gradients_reach_every_part(toy: Dataset, name: str, scorer: str) -> None:
    model = model_of(toy, name, scorer)
    scores = model.score_all(batch_of(toy))
    (scores * torch.linspace(-1, 1, 40, dtype=scores.dtype)).sum().backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert torch.isfinite(p.grad).all(), key
        assert p.grad.any(), key
    assert model.mixture is not None
    vectors = 1 if model.mixture.one_relation else 3
    numbers, asked = model.relation.weight.grad[:, vectors * model.scorer.relation_width :], batch_of(toy).r.unique()
    assert numbers.shape[1] == model.mixture.relation_width
    assert numbers[asked].any(0).all(), "a number of the relation has no part in any score"


@EVERY
@SCORERS
@torch.no_grad()
def test_what_is_missing_is_not_scored(toy: Dataset, name: str, scorer: str) -> None:
    model = model_of(toy, name, scorer)
    batch = batch_of(toy)
    before, every = model.score_all(batch), model.entity.all()
    # Whatever stands where an entity lacks a modality.
    g = torch.Generator().manual_seed(1)
    noise = 100 * torch.randn(every.vectors.shape, generator=g, dtype=every.vectors.dtype)
    lacking = ~every.present[..., None] & (torch.arange(3) > 0)[:, None]
    changed = every.with_vectors(torch.where(lacking, noise, every.vectors))
    relation = model.relations(model.relation_ids(batch))
    lookup = model.looked_up(batch, changed[batch.anchor], changed[batch.target], relation)
    torch.testing.assert_close(model.compare(lookup.query, changed), before)
    assert model.shares(lookup.query, every).shape == (12, 40, 3)


@EVERY
@torch.no_grad()
def test_relabelling_entities_permutes_scores(toy: Dataset, name: str) -> None:
    model, graph = model_of(toy, name), toy.graph
    new = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    splits = {}
    for split in ("train", "valid", "test"):
        h, r, t = getattr(graph, split).unbind(1)
        splits[split] = torch.stack([new[h], r, new[t]], dim=1)
    features = {}
    for key, modality in toy.features.items():
        row = torch.empty_like(modality.row)
        row[new] = modality.row
        features[key] = Modality(modality.values, modality.mask, row)
    renamed = KnowledgeGraph(graph.entities, graph.relations, **splits)
    other = model_of(replace(toy, graph=renamed, features=Features(features)), name)
    other.load_state_dict(model.state_dict())
    other.entity.structure.weight[new] = model.entity.structure.weight.clone()
    batch = batch_of(toy)
    triples = torch.stack([new[batch.h], batch.r, new[batch.t]], dim=1)
    torch.testing.assert_close(other.score_all(Batch.of(triples, batch.head))[:, new], model.score_all(batch))
    ranks = [rank(m, g.test, g.known_index).realistic for m, g in ((model, graph), (other, renamed))]
    assert torch.equal(*ranks)


@EVERY
@pytest.mark.parametrize("method", ["self-adversarial", "1-vs-all", "k-vs-all"])
@pytest.mark.parametrize("autocast", [False, True])
def test_training_moves_every_parameter_and_lowers_the_loss(
    toy: Dataset, name: str, method: str, autocast: bool
) -> None:
    training = {"lr": 0.02, "batch_size": 64, "autocast": autocast}
    values = config_of(name, training=training, model={"structure_dropout": 0.2}) | {"method": method}
    trainer = build_trainer(make_config(values), toy)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    losses = [float(trainer.step(step)) for step in range(40)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert all(not torch.equal(before[n], p) for n, p in trainer.model.named_parameters())


JOINS = {name for name in Mixture.registry.names() if Mixture.registry.get(name).factors is not Mixture.factors}
"""What joins the views before they are scored."""


@pytest.mark.parametrize("name", sorted(JOINS))
@torch.no_grad()
def test_regularizers_see_what_is_joined(toy: Dataset, name: str) -> None:
    """A mean of the views that the entity has, which that of an entity of one view is."""
    model, batch = model_of(toy, name), batch_of(toy)
    lookup = model.lookup(batch)
    anchor, _, target = model.factors(lookup)
    for found, views in ((anchor, lookup.anchor), (target, lookup.target)):
        missing = ~views.present[..., None]
        low = views.vectors.masked_fill(missing, torch.inf).amin(1)
        high = views.vectors.masked_fill(missing, -torch.inf).amax(1)
        assert ((low - 1e-9 <= found) & (found <= high + 1e-9)).all()
        assert (views.present.sum(1) == 1).any()
        assert (views.present.sum(1) == 3).any()


@pytest.mark.parametrize("name", sorted({*Mixture.registry.names()} - JOINS))
def test_regularizers_see_structure_alone(toy: Dataset, name: str) -> None:
    """N3 is of the moduli of structural vectors: of no features, and of no number that the mixture takes."""
    model = model_of(toy, name)
    batch = batch_of(toy)
    Regularizer(l2=0.1, n3=1.0)(model, model.lookup(batch)).backward()  # type: ignore[union-attr]
    relation = model.relation.weight.grad
    assert relation is not None
    assert relation[batch.r, :12].all()
    assert not relation[:, 12:].any()
    others = [p for key, p in model.named_parameters() if key not in ("entity.structure.weight", "relation.weight")]
    assert not any(p.grad is not None and p.grad.any() for p in others)

    def cubes(v: Tensor) -> Tensor:
        return (v[:, :6].square() + v[:, 6:].square()).pow(1.5).sum()

    parts = [model.entity.structure.weight[batch.h], model.entity.structure.weight[batch.t]]
    expected = sum(cubes(v) for v in (*parts, model.relation.weight[batch.r, :12])) / 12
    torch.testing.assert_close(Regularizer(n3=1.0)(model, model.lookup(batch)), expected)


@EVERY
def test_what_is_saved_is_all_there_is(toy: Dataset, name: str) -> None:
    model = model_of(toy, name)
    other = build_model(make_config(config_of(name) | {"seed": 7}), toy).double()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(other.score_all(batch_of(toy)), model.score_all(batch_of(toy)))
