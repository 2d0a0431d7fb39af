"""What every registered sampler must do; a new one is picked up by its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from forms import FORMS, METHOD_OF, form_of
from mmrns.data.datasets import Dataset
from mmrns.registry import sampler_class, sampler_names
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.training.trainer import Trainer


def _trainer(toy: Dataset, name: str, sides: str = "alternate", **options: object) -> Trainer:
    config = make_config(
        {
            "model": {"dim": 6},
            "sampler": {**form_of(name, 5), **options},
            "training": {"batch_size": 32, "sides": sides, "lr": 0.01},
            "device": "cpu",
        }
    )
    return build_trainer(config, toy)


def test_every_sampler_has_a_test_a_method_and_a_line_in_the_docs() -> None:
    root = Path(__file__).parents[2]
    overview = (root / "docs" / "samplers.md").read_text(encoding="utf-8")
    for name in sampler_names():
        assert (root / "tests" / "samplers" / f"test_{name}.py").exists(), name
        assert name in METHOD_OF, name
        assert f"`{METHOD_OF[name]}`" in overview, name


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("sides", ["alternate", "bernoulli"])
def test_shapes_and_range(toy: Dataset, name: str, sides: str) -> None:
    trainer = _trainer(toy, name, sides)
    for step in range(4):
        batch = trainer.batches.at(step)
        negatives = trainer.sampler.draw(batch, trainer.model, step)
        k = len(toy.graph.entities) if negatives.ids is None else 5
        if negatives.ids is not None:
            assert negatives.ids.shape in {(len(batch), k), (k,)}
            assert negatives.ids.dtype == torch.int64
            assert ((negatives.ids >= 0) & (negatives.ids < len(toy.graph.entities))).all()
        s_neg = trainer.model.score_against(batch, negatives)
        assert s_neg.shape == (len(batch), k)
        for part in (negatives.mask, negatives.logp):
            assert part is None or part.shape == s_neg.shape
        if negatives.emb is not None and negatives.ids is not None and negatives.mask is not None:
            # What is scored is what the ids say.
            drawn = trainer.model.entities(negatives.ids)
            torch.testing.assert_close(negatives.emb[negatives.mask], drawn[negatives.mask])


@pytest.mark.parametrize("name", FORMS)
def test_filtered_samplers_draw_nothing_true(toy: Dataset, name: str) -> None:
    trainer = _trainer(toy, name)
    for step in range(20):
        batch = trainer.batches.at(step)
        negatives = trainer.sampler.draw(batch, trainer.model, step)
        ids, mask = negatives.ids, negatives.mask
        if ids is None:
            ids = torch.arange(len(toy.graph.entities)).expand(len(batch), -1)
        h = torch.where(batch.head[:, None], ids, batch.h[:, None])
        t = torch.where(batch.head[:, None], batch.t[:, None], ids)
        true = toy.graph.train_index.contains(h, batch.r[:, None].expand_as(h), t)
        assert not (true if mask is None else true & mask).any()


@pytest.mark.parametrize("name", FORMS)
def test_draws_are_a_function_of_seed_and_step(toy: Dataset, name: str) -> None:
    first, second = _trainer(toy, name), _trainer(toy, name)
    batch = first.batches.at(0)
    draws = [t.sampler.draw(batch, t.model, step).ids for t in (first, second) for step in (3, 4, 3)]
    ids = [d for d in draws if d is not None]
    assert len(ids) == (0 if name == "all" else 6)
    if not ids:
        return
    assert torch.equal(ids[0], ids[2])
    assert torch.equal(ids[0], ids[3])
    assert torch.equal(ids[1], ids[4])
    assert not torch.equal(ids[0], ids[1])


@pytest.mark.parametrize("name", FORMS)
def test_what_must_move_moves_and_what_must_not_does_not(toy: Dataset, name: str) -> None:
    trainer = _trainer(toy, name)
    before = {n: p.detach().clone() for n, p in _parameters(trainer.model, trainer.sampler)}
    global_state = torch.random.get_rng_state()
    for step in range(3):
        assert torch.isfinite(trainer.step(step))
    assert torch.equal(global_state, torch.random.get_rng_state()), "draws from process-global state"
    moved = {n for n, p in _parameters(trainer.model, trainer.sampler) if not torch.equal(before[n], p)}
    assert moved == set(before)


@pytest.mark.parametrize("name", FORMS)
def test_neither_model_nor_valid_nor_test_is_held(toy: Dataset, name: str) -> None:
    trainer = _trainer(toy, name)
    # A generator of the sampler's own is not the model.
    assert all(m is not trainer.model for m in trainer.sampler.modules())
    held = [v for v in vars(trainer.sampler).values() if isinstance(v, Tensor)]
    assert all(v is not toy.graph.valid and v is not toy.graph.test for v in held)
    assert toy.graph.known_index not in vars(trainer.sampler).values()


def test_registry_gives_the_class_of_the_file() -> None:
    for name in sampler_names():
        assert sampler_class(name).__module__ == f"mmrns.samplers.{name}"


def _parameters(*modules: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(f"{type(m).__name__}.{n}", p) for m in modules for n, p in m.named_parameters()]
