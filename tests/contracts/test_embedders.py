"""What every registered embedder must do; a new one is picked up by its name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmrns.data.datasets import Dataset
from mmrns.errors import UsageError
from mmrns.inspection.influence import influence
from mmrns.inspection.parts import candidates_of, parts_of
from mmrns.nn.embedders import STRUCTURE, ComputedEmbedder, Embedder
from mmrns.nn.losses import CrossEntropyLoss
from mmrns.nn.model import Model
from mmrns.nn.regularizers import Regularizer
from mmrns.nn.scorers import Scorer
from mmrns.rng import seeded
from mmrns.runs.build import build_model, build_trainer
from mmrns.runs.config import make_config
from mmrns.types import AllNegatives, Batch, OwnNegatives, PoolNegatives

NAMES = Embedder.registry.names()
EVERY = pytest.mark.parametrize("name", NAMES)


def scorers_of(name: str) -> list[str]:
    """The scorers that an embedder gives vectors for, of all that there are."""
    kind = Embedder.registry.get(name).scorer
    return [scorer for scorer in Scorer.registry.names() if issubclass(Scorer.registry.get(scorer), kind)]


def model_of(toy: Dataset, name: str, scorer: str | None = None) -> Model:
    scorer = scorer or ("ComplEx" if "ComplEx" in scorers_of(name) else scorers_of(name)[0])
    config = {"model": {"embedder": name, "scorer": scorer, "dim": 6}, "method": "uniform", "device": "cpu"}
    return build_model(make_config(config), toy)


@EVERY
def test_shapes_and_names_of_views(toy: Dataset, name: str) -> None:
    model = model_of(toy, name)
    embedder, width = model.entity, model.scorer.entity_width
    n = len(embedder.views)
    assert len(set(embedder.views)) == n >= 1
    for ids in (torch.tensor([3, 0, 3]), torch.tensor([[1, 2], [39, 5]])):
        views = embedder(ids)
        assert views.vectors.shape == (*ids.shape, n, width)
        assert views.present.shape == (*ids.shape, n)
        assert views.present.dtype == torch.bool
        assert views.present.any(-1).all(), "an entity without any view cannot be scored"
        assert (views.traits is not None) == embedder.has_traits
        assert torch.isfinite(views.vectors).all()
    if embedder.table is not None:
        assert n == 1
        assert torch.equal(embedder.table, embedder.all().vectors[:, 0])


@EVERY
def test_all_is_every_entity_in_the_order_of_ids(toy: Dataset, name: str) -> None:
    embedder = model_of(toy, name).entity
    every, one_by_one = embedder.all(), embedder(torch.arange(40))
    torch.testing.assert_close(every.vectors, one_by_one.vectors)
    assert torch.equal(every.present, one_by_one.present)
    with torch.no_grad():
        torch.testing.assert_close(embedder.all().vectors, every.vectors)


@pytest.mark.parametrize(("name", "scorer"), [(name, scorer) for name in NAMES for scorer in Scorer.registry.names()])
@torch.no_grad()
def test_the_score_is_the_same_however_it_is_asked_for(toy: Dataset, name: str, scorer: str) -> None:
    if scorer not in scorers_of(name):
        with pytest.raises(UsageError, match=f"model.embedder={name} gives vectors for .* not for {scorer}; use model"):
            model_of(toy, name, scorer)
        return
    model = model_of(toy, name, scorer).double()
    batch = Batch.of(toy.graph.train[:12], torch.arange(12) % 3 == 0)
    lookup, every = model.lookup(batch), model.score_all(batch)
    ids = torch.randint(40, (12, 5), generator=torch.Generator().manual_seed(0))
    everyone = AllNegatives(40, torch.device("cpu"))
    for found, expected in (
        (model.score(lookup), every.gather(1, batch.target[:, None]).squeeze(1)),
        (model.score_against(lookup, OwnNegatives(ids)), every.gather(1, ids)),
        (model.score_against(lookup, OwnNegatives(ids * 0, model.entities(ids))), every.gather(1, ids)),
        (model.score_against(lookup, PoolNegatives(ids[0])), every[:, ids[0]]),
        (model.score_against(lookup, everyone), every),
        (model.compare_rows(lookup.query, model.entities(torch.arange(40)), ids), every.gather(1, ids)),
        (model.score_all(batch, memory_mb=1e-3), every),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    by_view = torch.stack(model.scores(lookup, everyone).by_view, dim=-1)
    assert by_view.shape == (12, 40, len(model.views))
    if len(model.views) == 1:
        torch.testing.assert_close(by_view[..., 0], every)
    else:
        # A mixture lies between the views' scores.
        assert (every <= by_view.amax(-1) + 1e-9).all()
        assert (every >= by_view.amin(-1) - 1e-9).all()


@EVERY
@pytest.mark.parametrize("sparse", [False, True])
def test_training_moves_every_parameter_and_lowers_the_loss(toy: Dataset, name: str, sparse: bool) -> None:
    values = {
        "model": {
            "embedder": name,
            "dim": 8,
            "scorer": "ComplEx" if "ComplEx" in scorers_of(name) else scorers_of(name)[0],
        },
        "method": "self-adversarial",
        "sampler": {"negatives": 8},
        "training": {"lr": 0.02, "batch_size": 64, "sparse": sparse},
        "device": "cpu",
    }
    trainer = build_trainer(make_config(values), toy)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    losses = [float(trainer.step(step)) for step in range(60)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert all(not torch.equal(before[n], p) for n, p in trainer.model.named_parameters())


@EVERY
@pytest.mark.parametrize("method", ["1-vs-all", "k-vs-all"])
def test_lookups_beside_every_entity_have_the_gradient_that_they_have_alone(
    toy: Dataset, name: str, method: str
) -> None:
    """Where every step compares all entities, what is looked up adds its own rows to the gradient of the tables."""

    def gradients(whole: bool) -> dict[str, torch.Tensor]:
        scorer = "ComplEx" if "ComplEx" in scorers_of(name) else scorers_of(name)[0]
        values = {"embedder": name, "scorer": scorer, "dim": 6}
        config = {"model": values, "objective": {"n3": 0.01}, "method": method, "device": "cpu"}
        # Penalties are on structure: of what is looked up, and of no entity besides.
        trainer = build_trainer(make_config(config), toy)
        trainer.model.double()
        trainer.model.entity.compared_whole(whole)
        with torch.enable_grad():
            trainer.step(0)
        named = trainer.model.named_parameters()
        return {parameter: own.grad for parameter, own in named if own.grad is not None}

    beside, alone = gradients(True), gradients(False)
    assert beside.keys() == alone.keys()
    for parameter, gradient in beside.items():
        assert not gradient.is_sparse, parameter
        torch.testing.assert_close(gradient, alone[parameter])


@EVERY
def test_what_a_step_leaves_out_is_back_after_it(toy: Dataset, name: str) -> None:
    embedder, ids = model_of(toy, name).entity, torch.arange(40)
    before = embedder(ids)
    for step in (0, 7):
        embedder.begin(step)
        within, again = embedder(ids), embedder(ids)
        # Of a step all looks at an entity are the same.
        assert torch.equal(within.present, again.present)
        assert torch.equal(embedder.all().present, within.present)
        assert within.present.any(-1).all()
        embedder.constrain()
        after = embedder(ids)
        assert torch.equal(after.present, before.present)
        torch.testing.assert_close(after.vectors, before.vectors)


@EVERY
def test_a_prediction_is_explained(toy: Dataset, name: str) -> None:
    model, graph = model_of(toy, name), toy.graph
    for p in model.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(len(p)))
    h, r, t = graph.test[0].tolist()
    objective, device = CrossEntropyLoss(gamma=1.0, alpha=1.0), torch.device("cpu")
    near, change = influence(model, graph, (h, r, t), False, objective, device)
    assert len(near) == len(change)
    assert torch.isfinite(change).all()
    # It is by the structural vectors.
    assert bool(change.any()) == (STRUCTURE in model.views)
    batch = Batch.of(graph.test[:1], False)
    with torch.no_grad():
        parts = parts_of(model, model.lookup(batch), model.entity.all(), candidates_of(graph, batch), t)
    assert [part["part"] for part in parts] == [*model.views]


@EVERY
def test_penalties_are_on_vectors_of_entities_and_relations(toy: Dataset, name: str) -> None:
    model = model_of(toy, name)
    lookup = model.lookup(Batch.of(toy.graph.train[:5], torch.arange(5) > 2))
    anchor, relation, target = model.factors(lookup)
    assert anchor.shape == target.shape == (5, model.scorer.entity_width)
    assert relation.shape == (5, model.scorer.relation_width)
    penalty = Regularizer(n3=1.0)(model, lookup)
    assert isinstance(penalty, torch.Tensor)
    penalty.backward()
    # Whatever an entity's own vector is called, it is kept short.
    gradient = model.get_parameter(f"entity.{model.entity.rows[0]}").grad
    assert gradient is not None
    assert gradient.any()


@EVERY
@torch.no_grad()
def test_a_part_is_of_some_entities_as_the_whole_has_them(toy: Dataset, name: str) -> None:
    """Whether it is made as a part, and then draws the same numbers, or is taken from the whole."""
    cls: Any = Embedder.registry.get(name)
    ids, options = torch.tensor([7, 39, 5, 0, 23]), {"width": 8, "init_range": 0.5}
    with seeded(0, "model"):
        whole, drawn = cls(toy.graph, toy.features, **options), torch.rand(2)
    with seeded(0, "model"):
        features = toy.features.part(ids, torch.device("cpu"), 0)
        made, drawn_then = cls.of_part(ids, toy.graph, features, **options), torch.rand(2)
    assert torch.equal(drawn, drawn_then)
    expected = whole(ids)
    for part in (made, whole.part(ids)):
        assert set(part.rows) == set(whole.rows) > set()
        for key, value in whole.state_dict().items():
            assert torch.equal(part.state_dict()[key], value[ids] if key in whole.rows else value)
        found = part(torch.arange(5))
        assert torch.equal(found.present, expected.present)
        torch.testing.assert_close(found.vectors, expected.vectors)
        torch.testing.assert_close(found.traits, expected.traits)
        torch.testing.assert_close(part.all().vectors, expected.vectors)
        assert torch.equal(part.by_features(torch.arange(5)), whole.by_features(ids))
        assert part.reads == whole.reads


@EVERY
def test_a_part_finds_its_own_among_all(toy: Dataset, name: str) -> None:
    cls: Any = Embedder.registry.get(name)
    if not issubclass(cls, ComputedEmbedder):
        return
    ids, asked = torch.tensor([7, 39, 5]), torch.tensor([5, 8, 7, 39, 5, 0])
    whole: Any = cls
    part = whole(toy.graph, toy.features, width=8, init_range=0.5).part(ids)
    rows, places = part.here(asked)
    assert rows.tolist() == [0, 2, 3, 4]
    assert torch.equal(part.numbers(places), asked[rows])
    assert part.part(torch.tensor([], dtype=torch.int64)).here(asked)[1].tolist() == []
