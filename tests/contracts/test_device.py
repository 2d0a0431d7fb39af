"""The step waits for no device and makes no float64 there, which some devices lack.

It is taken on the device `meta`, whose tensors have a shape and no values.

Whatever would read a value on the host raises there: nonzero, masks as indices, unique, item, a copy to the host.
Copies to the device that block, what is written or chosen by tensors of the host, and float64 on it, are found by
`Watch`. The optimizer's own step, which is torch's, is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from forms import FORMS, form_of, model_of, scorer_for
from mmrns.data.datasets import Dataset
from mmrns.evaluation import ranking
from mmrns.evaluation.candidates import Candidates
from mmrns.evaluation.ranking import Ranks, rank
from mmrns.nn.embedders import Embedder
from mmrns.nn.losses import Loss
from mmrns.nn.mixtures import Mixture
from mmrns.nn.scorers import Scorer
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.samplers.base import Sampler
from mmrns.training.trainer import Trainer

META = torch.device("meta")


INDEXED = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_, torch.ops.aten._index_put_impl_)
"""They take indices, and values to write, of the host as well, which are then copied, and the host waits for that."""


class Watch(TorchDispatchMode):
    """Collects the copies to the device that the host waits for, and the operations that give float64 there."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        # What is written by index is made on the host from a Python number, on a CUDA device alone.
        self.numbers: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[-1] if func.overloadpacket is torch.ops.aten._to_copy else args[1]
            target = torch.device(kwargs.get("device") or args[0].device)
            blocks = not (kwargs.get("non_blocking") or args[2:3] == (True,))
            if source.device != target and blocks:
                self.found.append(f"{func} of {list(source.shape)} to {target}")
        if func.overloadpacket in INDEXED and args[0].device == META:
            for x in (x for x in tree_leaves(args[1:]) if isinstance(x, Tensor)):
                if x.device != META:
                    self.found.append(f"{func} by {list(x.shape)} of {x.device}")
                elif any(x is number for number in self.numbers):
                    self.found.append(f"{func} by a number")
        made = func(*args, **kwargs)
        if func.overloadpacket is torch.ops.aten.scalar_tensor:
            self.numbers.append(made)
        for tensor in tree_leaves(made):
            if (
                isinstance(tensor, Tensor)
                and tensor.device == META
                and tensor.dtype in (torch.float64, torch.complex128)
            ):
                self.found.append(f"{func} gives {tensor.dtype}")
        return made


class Inside(TorchDispatchMode):
    """Collects what a step that is recorded takes from the host: it would be the same in each step that replays it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.runs = 0

    def __call__(self, run: Callable[[], Any], generators: Any) -> Callable[[], Any]:
        def replay() -> Any:
            self.runs += 1
            with self:
                return run()

        return replay

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, Tensor) and x.device != META and x.ndim:
                self.found.append(f"{func} of {list(x.shape)} of {x.device}")
        return func(*args, **(kwargs or {}))


def _on_meta(toy: Dataset, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], steps: int) -> Trainer:
    """A trainer there, of a few steps."""
    config = make_config({"device": "cpu", "training": {"batch_size": 24}, "objective": {"n3": 0.1}} | values)
    trainer = build_trainer(config, toy)
    generator: Callable[[], torch.Generator] = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device: generator())
    trainer.device = META
    for module in (trainer.model, trainer.sampler):
        module.to(META)
        for part in module.modules():
            if isinstance(modalities := getattr(part, "modalities", None), dict):
                modalities.update({name: m.to(META) for name, m in modalities.items()})
    monkeypatch.setattr(trainer.optimizer, "step", lambda step: None)
    batches = [trainer.batches.at(step) for step in range(steps)]
    monkeypatch.setattr(trainer.batches, "at", batches.__getitem__)
    return trainer


def _waits(toy: Dataset, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], steps: int = 3) -> list[str]:
    """What no step may do, in the second and later steps, of both sides; the first copies the indexes to the device."""
    trainer = _on_meta(toy, monkeypatch, values, steps)
    trainer.step(0)
    with Watch() as watch:
        for step in range(1, steps):
            assert trainer.step(step).device == META
    return watch.found


@pytest.mark.parametrize("name", FORMS)
def test_a_step_with_any_sampler(toy: Dataset, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert _waits(toy, monkeypatch, {"model": model_of(name), "sampler": form_of(name, 5)}, steps=4) == []


@pytest.mark.parametrize("name", [*Sampler.registry.names(), "mmrns with attention", "file with nscaching"])
def test_a_recorded_step_takes_nothing_from_the_host(toy: Dataset, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model = {"dim": 6, "modalities": ["image", "text"], "structure_dropout": 0.3}
    often = {"refresh": 4} if FORMS[name]["name"] == "mmrns" else {}
    values = {"model": model, "sampler": form_of(name, 5) | often, "training": {"batch_size": 24, "sides": "alternate"}}
    # Each kind of step, of which there are more where encodings are refreshed, is recorded on its third time.
    steps = 12 if often else 8
    trainer, inside = _on_meta(toy, monkeypatch, values, steps), Inside()
    if trainer.sampler.kind(0) is None:
        pytest.skip("it cannot be recorded")
    trainer.record(True, inside)
    for step in range(steps):
        trainer.step(step)
    assert inside.runs == 4
    assert inside.found == []


@pytest.mark.parametrize("modalities", [[], ["image", "text"]])
@pytest.mark.parametrize("name", Scorer.registry.names())
def test_a_step_with_any_scorer(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch, name: str, modalities: list[str]
) -> None:
    model = {"scorer": name, "dim": 6, "modalities": modalities} | ({"structure_dropout": 0.3} if modalities else {})
    assert _waits(toy, monkeypatch, {"model": model, "sampler": {"name": "mmrns"}}) == []


@pytest.mark.parametrize("method", ["mmrns", "k-vs-all"])
@pytest.mark.parametrize("name", Mixture.registry.names())
def test_a_step_with_any_mixture(toy: Dataset, monkeypatch: pytest.MonkeyPatch, name: str, method: str) -> None:
    model = {"dim": 6, "modalities": ["image", "text"], "mixture": name}
    assert _waits(toy, monkeypatch, {"model": model, "method": method}) == []


@pytest.mark.parametrize("method", ["mmrns", "1-vs-all"])
@pytest.mark.parametrize("name", Embedder.registry.names())
def test_a_step_with_any_embedder(toy: Dataset, monkeypatch: pytest.MonkeyPatch, name: str, method: str) -> None:
    model = {"dim": 6, "embedder": name, "scorer": scorer_for(name)}
    assert _waits(toy, monkeypatch, {"model": model, "method": method}) == []


@pytest.mark.parametrize("loss", Loss.registry.names())
def test_a_step_with_any_loss(toy: Dataset, monkeypatch: pytest.MonkeyPatch, loss: str) -> None:
    objective, cls = {"loss": loss, "l2": 0.1, "l3": 0.1}, Loss.registry.get(loss)
    method = "k-vs-all" if cls.needs_all else "mmrns" if cls.takes_weights else "uniform"
    values = {"model": {"dim": 6, "reciprocal": True}, "objective": objective, "method": method}
    assert _waits(toy, monkeypatch, values) == []


@pytest.mark.parametrize("name", ["uniform", "shared-pool", "domain-range", "mmrns"])
def test_a_step_with_sparse_gradients(toy: Dataset, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    training = {"batch_size": 24, "sparse": True}
    values = {"model": {"dim": 6}, "training": training, "objective": {}, "sampler": form_of(name, 5)}
    assert _waits(toy, monkeypatch, values) == []


@pytest.mark.parametrize("restricted", [False, True], ids=["all", "domain and range"])
@pytest.mark.parametrize("name", Scorer.registry.names())
def test_ranking_waits_once_whatever_the_number_of_chunks(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch, name: str, restricted: bool
) -> None:
    config = make_config({"device": "cpu", "model": {"scorer": name, "dim": 6}, "method": "uniform"})
    model = build_trainer(config, toy).model.to(META)
    candidates = Candidates.of_train(toy.graph) if restricted else None
    chunks: list[int] = []

    def ranks(parts: list[Any], triples: Tensor, head: bool) -> Ranks:
        assert all(getattr(part, field.name).device == META for part in parts for field in dataclasses.fields(part))
        chunks.append(len(parts))
        none = torch.zeros(len(triples), dtype=torch.int64)
        return Ranks(triples, none.bool(), none, none, none, none.bool())

    monkeypatch.setattr(ranking, "_ranks", ranks)
    waits: list[list[str]] = []
    # Operations take their time on this device.
    few, known = toy.graph.test[:6], toy.graph.known_index
    for size in (1e3, 1e-3):
        with Watch() as watch:
            rank(model, few, known, candidates=candidates, memory_mb=size, device=META)
        waits.append(watch.found)
    assert chunks[2] > chunks[0]
    # The index is copied there.
    assert waits[0] == waits[1]


def test_what_waits_is_found(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmrns.samplers.uniform import Uniform

    draw = Uniform.draw_blind
    values = {"model": {"dim": 6}, "sampler": {"name": "uniform", "negatives": 5}}

    def blocking(self: Uniform, *given: Any) -> Any:
        torch.ones(3).to(META)
        return draw(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Uniform, "draw_blind", blocking)
        assert len(_waits(toy, patch, values)) == 2

    def doubling(self: Uniform, batch: Any, *given: Any) -> Any:
        batch.weight.double()
        return draw(self, batch, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Uniform, "draw_blind", doubling)
        assert _waits(toy, patch, values) == ["aten._to_copy.default gives torch.float64"] * 2

    def writing(self: Uniform, batch: Any, *given: Any) -> Any:
        weight = batch.weight.clone()
        weight[torch.zeros(1, dtype=torch.int64, device=META)] = 1.0
        return draw(self, batch, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Uniform, "draw_blind", writing)
        assert _waits(toy, patch, values) == ["aten.index_put_.default by a number"] * 2

    def choosing(self: Uniform, batch: Any, *given: Any) -> Any:
        batch.weight[torch.zeros(1, dtype=torch.int64)]
        return draw(self, batch, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Uniform, "draw_blind", choosing)
        assert _waits(toy, patch, values) == ["aten.index.Tensor by [1] of cpu"] * 2

    def reading(self: Uniform, batch: Any, *given: Any) -> Any:
        batch.weight.nonzero()
        return draw(self, batch, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Uniform, "draw_blind", reading)
        with pytest.raises(NotImplementedError):
            _waits(toy, patch, values)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_a_step_on_a_cuda_device_does_not_synchronise(toy: Dataset, name: str) -> None:
    device = torch.device("cuda")
    features = toy.features.on(device, limit_mb=1)
    values = {"device": "cuda", "model": model_of(name), "sampler": form_of(name, 5), "training": {"capture": False}}
    trainer = build_trainer(make_config(values), dataclasses.replace(toy, features=features))
    trainer.step(0)
    try:
        torch.cuda.set_sync_debug_mode("error")
        for step in range(1, 4):
            trainer.step(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", Scorer.registry.names())
def test_ranks_on_a_cuda_device_are_those_of_the_cpu(toy: Dataset, name: str) -> None:
    model = build_trainer(make_config({"device": "cpu", "model": {"scorer": name, "dim": 6}}), toy).model.double()
    expected = rank(model, toy.graph.test, toy.graph.known_index)
    found = rank(model.to("cuda"), toy.graph.test, toy.graph.known_index, device="cuda")
    assert torch.equal(found.optimistic, expected.optimistic)
    assert torch.equal(found.pessimistic, expected.pessimistic)
