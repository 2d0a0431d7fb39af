"""What every registered sampler must do; a new one is picked up by its file."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from forms import FORMS, form_of, model_of
from mmrns.data.datasets import Dataset
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.samplers.base import Sampler
from mmrns.training.trainer import Trainer
from mmrns.types import AllNegatives, OwnNegatives


def _trainer(toy: Dataset, name: str, sides: str = "alternate", **options: object) -> Trainer:
    config = make_config(
        {
            "model": model_of(name),
            "sampler": {**form_of(name, 5), **options},
            "training": {"batch_size": 32, "sides": sides, "lr": 0.01},
            "device": "cpu",
        }
    )
    return build_trainer(config, toy)


@pytest.mark.parametrize("name", Sampler.registry.names())
def test_every_sampler_has_a_test_of_its_own(name: str) -> None:
    module = Sampler.registry.get(name).__module__.removeprefix("mmrns.samplers.").split(".")
    path = Path("tests", "samplers", *module[:-1], f"test_{module[-1]}.py")
    assert (Path(__file__).parents[2] / path).exists(), (
        f"the sampler {name!r} has no test; write {path} and test there what is its own: the frequencies of its draws, "
        "its loss by hand (docs/how-to/add-a-sampler.md shows how)"
    )


@pytest.mark.parametrize("name", FORMS)
def test_it_says_which_modalities_its_draws_depend_on(toy: Dataset, name: str) -> None:
    sampler = _trainer(toy, name).sampler
    assert set(sampler.reads) <= set(toy.features)
    if "modalities" in inspect.signature(type(sampler)).parameters:
        assert sampler.reads == tuple(sorted(toy.features))
        assert _trainer(toy, name, modalities=["text"]).sampler.reads == ("text",)
        assert _trainer(toy, name, modalities=[]).sampler.reads == ()


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("sides", ["alternate", "bernoulli"])
def test_shapes_and_range(toy: Dataset, name: str, sides: str) -> None:
    trainer = _trainer(toy, name, sides)
    for step in range(4):
        batch = trainer.batches.at(step)
        lookup = trainer.model.lookup(batch)
        negatives = trainer.sampler.draw(lookup, trainer.model, step)
        ids = negatives.entities(len(batch))
        assert ids.shape == (len(batch), len(toy.graph.entities) if isinstance(negatives, AllNegatives) else 5)
        assert ids.dtype == torch.int64
        assert ((ids >= 0) & (ids < len(toy.graph.entities))).all()
        s_neg = trainer.model.score_against(lookup, negatives)
        assert s_neg.shape == ids.shape
        for part in (negatives.mask, negatives.log_weight):
            assert part is None or part.shape == s_neg.shape
        if isinstance(negatives, OwnNegatives) and negatives.views is not None:
            # What is scored is what the ids say.
            counts, drawn = negatives.counts(len(batch)), trainer.model.entities(ids)
            torch.testing.assert_close(negatives.views.vectors[counts], drawn.vectors[counts])


@pytest.mark.parametrize("name", FORMS)
def test_filtered_samplers_draw_nothing_true(toy: Dataset, name: str) -> None:
    trainer = _trainer(toy, name)
    for step in range(20):
        batch = trainer.batches.at(step)
        negatives = trainer.sampler.draw(trainer.model.lookup(batch), trainer.model, step)
        ids, counts = negatives.entities(len(batch)), negatives.counts(len(batch))
        h = torch.where(batch.head[:, None], ids, batch.h[:, None])
        t = torch.where(batch.head[:, None], batch.t[:, None], ids)
        true = toy.graph.train_index.contains(h, batch.r[:, None].expand_as(h), t)
        # The authors' code masks by a number that a row with few candidates can run out of.
        assert name == "mmrns-published" or not (true & counts).any()


@pytest.mark.parametrize("name", FORMS)
def test_draws_are_a_function_of_seed_and_step(toy: Dataset, name: str) -> None:
    first, second = _trainer(toy, name), _trainer(toy, name)
    batch = first.batches.at(0)
    draws = [t.sampler.draw(t.model.lookup(batch), t.model, step) for t in (first, second) for step in (3, 4, 3)]
    ids = [drawn.entities(len(batch)) for drawn in draws]
    assert torch.equal(ids[0], ids[2])
    assert torch.equal(ids[0], ids[3])
    assert torch.equal(ids[1], ids[4])
    assert torch.equal(ids[0], ids[1]) == isinstance(draws[0], AllNegatives)


@pytest.mark.parametrize("name", FORMS)
def test_what_must_move_moves_and_what_must_not_does_not(toy: Dataset, name: str) -> None:
    trainer = _trainer(toy, name)
    before = {n: p.detach().clone() for n, p in _parameters(trainer.model, trainer.sampler)}
    global_state = torch.random.get_rng_state()
    for step in range(3):
        assert torch.isfinite(trainer.step(step))
    assert torch.equal(global_state, torch.random.get_rng_state()), "draws from process-global state"
    moved = {n for n, p in _parameters(trainer.model, trainer.sampler) if not torch.equal(before[n], p)}
    # Where the relation has the vector 0, what multiplies it gets no gradient.
    still = set(before) - moved
    assert not still or name == "mmrns without guidance", still
    assert all(re.fullmatch(r"Mmrns\.information\.(?:.*\.)?(scale|gate(?:\.\d)?)\.weight", n) for n in still)


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if {"pool_sampler", "other"} & set(form)])
def test_a_sampler_within_is_told_what_the_one_around_it_is(
    toy: Dataset, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = _trainer(toy, name)
    (inner,) = (m for m in trainer.sampler.modules() if isinstance(m, Sampler) and m is not trainer.sampler)
    told: list[object] = []
    monkeypatch.setattr(inner, "end_epoch", told.append)
    monkeypatch.setattr(inner, "pretrain", told.append)
    trainer.sampler.end_epoch(7)
    trainer.sampler.pretrain(trainer.batch)
    assert told == [7, trainer.batch]


@pytest.mark.parametrize("name", FORMS)
def test_neither_model_nor_valid_nor_test_is_held(toy: Dataset, name: str) -> None:
    trainer = _trainer(toy, name)
    # A generator of the sampler's own is not the model.
    assert all(m is not trainer.model for m in trainer.sampler.modules())
    held = [v for v in vars(trainer.sampler).values() if isinstance(v, Tensor)]
    assert all(v is not toy.graph.valid and v is not toy.graph.test for v in held)
    assert toy.graph.known_index not in vars(trainer.sampler).values()


def _parameters(*modules: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(f"{type(m).__name__}.{n}", p) for m in modules for n, p in m.named_parameters()]
