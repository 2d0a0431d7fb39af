"""Entities with several views: what each one says, and what is said without it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mmrns
from mmrns.data.datasets import Dataset
from mmrns.data.features import Features, Modality
from mmrns.errors import UsageError
from mmrns.evaluation.report import shortcomings
from mmrns.nn.embedders import AttentionPool, FusedEmbedder
from mmrns.nn.model import Model
from mmrns.nn.scorers import Scorer
from mmrns.runs.build import build_model, build_trainer
from mmrns.runs.config import make_config
from mmrns.types import Batch, OwnNegatives

DIM = 4
LACKS_BOTH, LACKS_IMAGE, UNSEEN = 5, 11, 39


def config_of(**model: object) -> dict[str, object]:
    values = {"dim": DIM, "modalities": ["image", "text"], **model}
    return {"model": values, "sampler": {"name": "uniform", "negatives": 4}, "device": "cpu"}


def model_of(toy: Dataset, **options: object) -> Model:
    model = build_model(make_config(config_of(**options)), toy).double()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.5)
    return model


def test_pooling_by_hand_and_blind_to_what_is_masked() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(3, 2, 0.5)
    with torch.no_grad():
        pool.attention.copy_(torch.tensor([1.0, -1.0, 0.5]))
    values, mask = torch.randn(2, 4, 3), torch.tensor([[True, True, False, True], [False, False, True, False]])
    x = values[0][[0, 1, 3]]
    mean = torch.softmax(x @ pool.attention, 0) @ x
    expected = pool.projection(torch.nn.functional.layer_norm(mean, (3,)))
    torch.testing.assert_close(pool(values, mask)[0], expected)
    changed = values.masked_fill(~mask[..., None], 1e6)
    assert torch.equal(pool(changed, mask), pool(values, mask))
    none = pool(values, torch.zeros_like(mask))
    assert torch.isfinite(none).all()
    assert torch.equal(none[0], none[1])


def test_a_hidden_layer_by_hand() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(3, 2, 0.5, hidden=5)
    assert pool.hidden is not None
    x = torch.randn(4, 1, 3)
    inner = torch.relu(torch.nn.functional.layer_norm(x[:, 0], (3,)) @ pool.hidden.weight.T)
    found = pool(x, torch.ones(4, 1, dtype=torch.bool))
    torch.testing.assert_close(found, inner @ pool.projection.weight.T)
    wide = AttentionPool(64, 100, 0.3, hidden=200)(torch.randn(200, 5, 64), torch.ones(200, 5, dtype=torch.bool))
    assert float(wide.detach().std()) == pytest.approx(0.3 / 3**0.5, rel=0.15)


def test_concatenated_modalities_have_a_part_of_the_vector_each(toy: Dataset) -> None:
    model = model_of(toy, concatenate=True, dim=5)
    embedder, ids = model.entity, torch.tensor([0, LACKS_IMAGE, LACKS_BOTH, UNSEEN])
    assert isinstance(embedder, FusedEmbedder)
    assert embedder.views == ("structure", "image+text")
    assert embedder.reads == ("image", "text")
    found = embedder(ids)
    assert found.present.tolist() == [[1, 1], [1, 1], [1, 0], [0, 1]]
    parts = [
        pool(values.double(), mask) * mask.any(1, keepdim=True)
        for pool, (values, mask) in zip(
            embedder.pools, (m.gather(ids) for m in embedder.modalities.values()), strict=True
        )
    ]
    assert [part.shape[1] for part in parts] == [2, 3]
    torch.testing.assert_close(found.vectors[:, 1], torch.cat(parts, 1))
    assert not found.vectors[1, 1, :2].any()
    assert embedder.by_features(ids).tolist() == [True, True, False, True]
    # The estimate of structure is of the whole width.
    estimating = model_of(toy, concatenate=True, dim=5, structure_dropout=0.2).entity
    assert estimating(ids).vectors.shape == (4, 2, 5)
    assert estimating(ids).present[3].all()


def test_vectors_start_as_long_as_structural_ones() -> None:
    torch.manual_seed(0)
    pooled = AttentionPool(64, 100, 0.3)(torch.randn(200, 5, 64), torch.ones(200, 5, dtype=torch.bool))
    assert float(pooled.detach().std()) == pytest.approx(0.3 / 3**0.5, rel=0.1)


@pytest.mark.parametrize("name", Scorer.registry.names())
@torch.no_grad()
def test_scores_are_the_gated_mixture_of_the_common_views(toy: Dataset, name: str) -> None:
    model = model_of(toy, scorer=name)
    scorer, embedder = model.scorer, model.entity
    assert embedder.views == ("structure", "image", "text")
    triples = torch.tensor([[0, 1, 2], [LACKS_IMAGE, 0, 3], [4, 2, LACKS_BOTH], [UNSEEN, 1, 0], [LACKS_BOTH, 1, 7]])
    for head in (False, True):
        batch = Batch.of(triples, torch.full((5,), head))
        every = model.score_all(batch)
        vectors, flags = embedder.all().vectors, embedder.all().present
        views, base = vectors.unbind(1), scorer
        for row, (h, r, t) in enumerate(triples.tolist()):
            anchor = t if head else h
            relations, logits = model.relation.weight[r].tensor_split([-3])
            gate = torch.softmax(logits, 0)
            own = [
                base.compare(base.query(v[[anchor]], x[None], head), v)[0]
                for v, x in zip(views, relations.chunk(3), strict=True)
            ]
            for e in range(40):
                common = [v for v in range(3) if flags[anchor, v] and flags[e, v]] or [0]
                weight = sum(gate[v] for v in common)
                expected = sum(gate[v] * own[v][e] for v in common) / weight
                torch.testing.assert_close(every[row, e], torch.as_tensor(expected))
        ids = torch.randint(40, (5, 6))
        torch.testing.assert_close(model.score_against(model.lookup(batch), OwnNegatives(ids)), every.gather(1, ids))
        torch.testing.assert_close(model.score(model.lookup(batch)), every[torch.arange(5), batch.target])


def test_flags_say_what_there_is(toy: Dataset) -> None:
    flags = model_of(toy).entities(torch.tensor([0, LACKS_IMAGE, LACKS_BOTH, UNSEEN])).present
    assert flags.tolist() == [[1, 1, 1], [1, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_an_unseen_entity_is_scored_from_its_features_alone(toy: Dataset) -> None:
    model = model_of(toy)
    batch = Batch.of(torch.tensor([[UNSEEN, 1, 0]]), torch.tensor([False]))
    before = model.score_all(batch).detach().clone()
    embedder = model.entity
    assert isinstance(embedder, FusedEmbedder)
    with torch.no_grad():
        embedder.structure.weight[UNSEEN] += 10
    # What has no view in common with it has only its structural vector to go by.
    flags = embedder.all().present
    common = (flags & flags[UNSEEN]).any(1)
    common[UNSEEN] = False
    after = model.score_all(batch)
    assert torch.equal(after[:, common], before[:, common])
    assert not torch.equal(after, before)


def test_structure_dropout_estimates_the_structural_vectors_of_other_entities_in_each_step(toy: Dataset) -> None:
    model = model_of(toy, structure_dropout=0.4)
    embedder, ids = model.entity, torch.arange(40)
    assert isinstance(embedder, FusedEmbedder)
    # The estimate by hand, of image and text: the second half of what each pool gives, its mean over what there is.
    halves, has = [], []
    for modality, pool in zip(embedder.modalities.values(), embedder.pools, strict=True):
        values, mask = modality.gather(ids)
        halves.append(pool(values.double(), mask).detach())
        has.append(mask.any(1))
    there = torch.stack(has, 1)
    assert there.sum(1).unique().tolist() == [0, 1, 2]
    totals = torch.stack([half[:, DIM:] for half in halves], 1).masked_fill(~there[..., None], 0).sum(1)
    estimate = totals / there.sum(1, keepdim=True).clamp(min=1)
    estimated = torch.zeros(40)
    for step in range(300):
        model.begin(step)
        found = embedder(ids)
        torch.testing.assert_close(embedder(ids[3:8]).vectors, found.vectors[3:8])
        with torch.no_grad():
            assert torch.equal(embedder.all().vectors, found.vectors)
        own = (found.vectors[:, 0] == embedder.structure.weight).all(1)
        torch.testing.assert_close(found.vectors[~own, 0], estimate[~own])
        torch.testing.assert_close(found.vectors[:, 1:], torch.stack([half[:, :DIM] for half in halves], 1))
        assert torch.equal(found.present, torch.cat([torch.ones(40, 1, dtype=torch.bool), there], 1))
        estimated += ~own
        model.constrain()
        # After the step it is nobody but who was never in train.
        assert ((embedder(ids).vectors[:, 0] != embedder.structure.weight).any(1) == (ids == UNSEEN)).all()
    assert (estimated[LACKS_BOTH], estimated[UNSEEN]) == (0, 300)
    others = estimated[there.any(1) & (ids != UNSEEN)]
    assert len(others) == 38
    assert (others - 120).abs().max() < 4.5 * (300 * 0.4 * 0.6) ** 0.5


def test_modality_dropout_has_other_entities_lack_each_modality_in_each_step(toy: Dataset) -> None:
    model = model_of(toy, modality_dropout=0.3)
    embedder, ids = model.entity, torch.arange(40)
    outside = embedder(ids)
    lacked, together = torch.zeros(40, 2), 0
    for step in range(300):
        model.begin(step)
        found = embedder(ids)
        assert torch.equal(embedder(ids[3:8]).present, found.present[3:8])
        assert torch.equal(found.vectors, outside.vectors)
        # Structure stays as it is, but for who has nothing else.
        alone = ~found.present[:, 1:].any(1)
        assert torch.equal(found.present[:, 0], outside.present[:, 0] | alone)
        assert not (found.present[:, 1:] & ~outside.present[:, 1:]).any()
        out = outside.present[:, 1:] & ~found.present[:, 1:]
        lacked += out
        together += int(out.all(1).sum())
        model.constrain()
    assert torch.equal(embedder(ids).present, outside.present)
    there = outside.present[:, 1:]
    share = lacked[there] / 300
    assert torch.all((share - 0.3).abs() < 5 * (0.3 * 0.7 / 300) ** 0.5)
    # The modalities are chosen one by one.
    n = 300 * int(there.all(1).sum())
    assert abs(together / n - 0.09) < 5 * (0.09 * 0.91 / n) ** 0.5


def test_what_is_estimated_follows_the_seed_of_the_run(toy: Dataset) -> None:
    def estimated(seed: int) -> Tensor:
        embedder = build_model(make_config(config_of(structure_dropout=0.4) | {"seed": seed}), toy).entity
        assert isinstance(embedder, FusedEmbedder)
        embedder.begin(5)
        return (embedder(torch.arange(40)).vectors[:, 0] != embedder.structure.weight).any(1)

    assert torch.equal(estimated(0), estimated(0))
    assert not torch.equal(estimated(0), estimated(1))


def test_no_score_of_an_unseen_entity_depends_on_its_structural_vector(toy: Dataset) -> None:
    model = model_of(toy, structure_dropout=0.4)
    batch = Batch.of(torch.tensor([[UNSEEN, 1, 0], [0, 1, UNSEEN]]), torch.tensor([False, False]))
    before = model.score_all(batch).detach().clone()
    embedder = model.entity
    assert isinstance(embedder, FusedEmbedder)
    with torch.no_grad():
        embedder.structure.weight[UNSEEN] += 10
    # Not even against what it has no modality in common with.
    assert torch.equal(model.score_all(batch), before)
    with torch.no_grad():
        embedder.structure.weight[0] += 10
    assert not torch.equal(model.score_all(batch), before)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match=r"model\.structure_dropout"):
        make_config(config_of(structure_dropout=share))


def groups() -> Dataset:
    """Films of three genres, told by their posters; ten of sixty have no triple in train. Genres have no picture."""
    g = torch.Generator().manual_seed(0)
    genre = torch.arange(60) % 3
    posters = torch.eye(3)[genre] + 0.1 * torch.randn(60, 3, generator=g)
    films = {f"film{i:02d}": posters[i : i + 1].numpy() for i in range(60)}
    triples = [(f"film{i:02d}", "genre", f"genre{genre[i]}") for i in range(60)]
    people = [(f"p{i:02d}", "knows", f"p{(i + step) % 40:02d}") for i in range(40) for step in (1, 2)]
    portraits = {f"p{i:02d}": torch.randn(1, 3, generator=g).numpy() for i in range(0, 40, 2)}
    train = [*triples[:50], *people[4:]]
    return Dataset.from_triples(
        train, valid=people[:4], test=triples[50:], features={"image": films | portraits}, name="films"
    )


def test_unseen_entities_are_ranked_well_above_chance_by_a_feature_that_tells() -> None:
    dataset = groups()
    amri = {}
    for name, settings in {
        "structure": {"model.modalities": []},
        "estimated": {"model.modalities": ["image"], "model.structure_dropout": 0.2},
        "not pushed away": {"model.modalities": ["image"], "model.structure_dropout": 0},
        "pushed away": {
            "model.modalities": ["image"],
            "model.structure_dropout": 0,
            "objective.unseen_negatives": True,
        },
    }.items():
        common = {"training.lr": 0.02, "training.batch_size": 64, "objective.gamma": 3.0, "training.hardness": False}
        run = mmrns.train(
            dataset=dataset,
            scorer="TransE",
            method="self-adversarial",
            dim=16,
            steps=200,
            device="cpu",
            settings={**common, **settings},
        )
        rows = {(row["unseen"], row["side"]): row for row in run.results["test"]["cold_start"]}
        assert set(rows) == {("target", "head"), ("anchor", "tail")}
        amri[name] = rows["target", "head"]["amri"]
        below = shortcomings(run.results["test"])
        if name == "estimated":
            # The genre of a film that nobody has seen is read off its poster.
            assert rows["anchor", "tail"]["mrr"] > 0.9
            assert below == []
        else:
            frequency = rows["anchor", "tail"]["frequency_mrr"]
            assert f" against {frequency:.2g} where the tail is asked for" in below[0]
    assert amri["estimated"] > 0.9
    assert amri["structure"] < 0
    assert amri["pushed away"] < 0 < amri["not pushed away"]


def test_a_missing_modality_is_as_good_as_removed(toy: Dataset) -> None:
    """Removing an entity's features changes its own scores to those of the others' views, and nobody else's vectors."""
    image = toy.features["image"]
    row = image.row.clone()
    row[0] = -1
    torch.manual_seed(1)
    embedder, other = (
        FusedEmbedder(toy.graph, Features({"image": modality}), width=DIM, init_range=0.5)
        for modality in (image, Modality(image.values, image.mask, row))
    )
    other.load_state_dict(embedder.state_dict())
    a, b = embedder.all(), other.all()
    assert torch.equal(a.vectors[1:], b.vectors[1:])
    assert torch.equal(a.present[1:], b.present[1:])
    assert not b.present[0, 1]
    assert torch.equal(a.vectors[0, 0], b.vectors[0, 0])


def test_all_is_kept_only_while_nothing_changes(toy: Dataset) -> None:
    trainer = build_trainer(make_config(config_of()), toy)
    embedder = trainer.model.entity
    assert isinstance(embedder, FusedEmbedder)
    ids = torch.arange(40)

    def everything() -> Tensor:
        with torch.no_grad():
            found = embedder.all()
            assert embedder.all() is found
            assert torch.equal(found.vectors, embedder(ids).vectors)
            return found.vectors

    first = everything()
    trainer.step(0)
    assert not torch.equal(everything(), first)
    assert embedder.all().vectors.requires_grad


@pytest.mark.parametrize("name", ["TransE", "ComplEx"])
@pytest.mark.parametrize("sampler", ["uniform", "mmrns", "1-vs-all"])
def test_training_moves_every_parameter_and_lowers_the_loss(toy: Dataset, name: str, sampler: str) -> None:
    values = config_of(scorer=name) | {"sampler": {"name": sampler}, "training": {"lr": 0.02, "batch_size": 64}}
    trainer = build_trainer(make_config({**values, "objective": {"gamma": 9}}), toy)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    losses = [float(trainer.step(step)) for step in range(100)]
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])
    assert all(not torch.equal(before[n], p) for n, p in trainer.model.named_parameters())


def test_gradients_match_finite_differences(toy: Dataset) -> None:
    model = model_of(toy)
    batch = Batch.of(toy.graph.train[:6], torch.arange(6) % 2 == 0)
    parameters = list(model.parameters())

    def loss() -> Tensor:
        return (model.score_all(batch) * torch.linspace(-1, 1, 40)).sum()

    gradients = torch.autograd.grad(loss(), parameters)
    for p, g in zip(parameters, gradients, strict=True):
        direction = torch.randn_like(p)
        with torch.no_grad():
            p += 1e-6 * direction
            above = loss()
            p -= 2e-6 * direction
            below = loss()
            p += 1e-6 * direction
        assert float((above - below) / 2e-6) == pytest.approx(float((g * direction).sum()), rel=1e-4, abs=1e-6)


def test_an_entity_without_any_view_has_that_of_its_structure(toy: Dataset) -> None:
    model = model_of(toy, modalities=["text"])
    # Entity 39 has no text and no triple in train, entity 5 a triple, and the others a text at least.
    present = model.entities(torch.tensor([UNSEEN, LACKS_BOTH, 0])).present
    assert present.tolist() == [[True, False], [True, False], [True, True]]
    assert model.entity.all().present.any(1).all()
    batch = Batch.of(torch.tensor([[UNSEEN, 4, 0]]), torch.tensor([False]))
    with torch.no_grad():
        lookup = model.lookup(batch)
        of_structure = model.scores(lookup).by_view[0]
        torch.testing.assert_close(model.score(lookup), of_structure.squeeze(1))
