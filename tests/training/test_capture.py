"""Steps that are recorded and replayed give the numbers that they have when they are not."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from forms import FORMS, form_of, model_of, scorer_for
from mmrns.data.datasets import Dataset
from mmrns.errors import Note, UsageError
from mmrns.nn.embedders import Embedder
from mmrns.nn.lookup import Lookup
from mmrns.nn.losses import Loss
from mmrns.nn.mixtures import Mixture
from mmrns.nn.model import Model
from mmrns.nn.scorers import Scorer
from mmrns.rng import Step, Streams, among, generator, numpy_generator
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.samplers.base import Sampler
from mmrns.samplers.mmrns import information
from mmrns.samplers.uniform import Uniform
from mmrns.training.capture import Numbers, without_collection
from mmrns.training.trainer import Trainer
from mmrns.types import Negatives

NAMES = [
    *Sampler.registry.names(),
    "file with nscaching",
    "hard, corrected",
    "mmrns with attention",
    "mmrns without a gradient",
    "mmrns without domain and range",
    "mmrns, half its pool from kbgan",
]
UNIFORM = {"method": "uniform"}
BOTH = {"training": {"sides": "bernoulli"}}


class Replays(TorchDispatchMode):
    """A recorder for any device. It takes the recorded step again, batch, step and all, as a device does that knows of
    nothing but its memory; and it keeps the operations of each run, with the shapes of what they read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[list[list[Any]]] = []
        self._operations: list[Any] = []

    def __call__(self, run: Callable[[], Numbers], generators: Sequence[torch.Generator]) -> Callable[[], Numbers]:
        runs: list[list[Any]] = []
        self.runs.append(runs)

        def replay() -> Numbers:
            self._operations = []
            runs.append(self._operations)
            with self:
                return run()

        return replay

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "aten":
            given = tree_map_only(Tensor, lambda x: (x.shape, x.dtype), (args, kwargs))
            self._operations.append((func, str(tree_map_only(torch.Generator, lambda x: None, given))))
        return func(*args, **(kwargs or {}))


def _trainer(toy: Dataset, values: dict[str, Any]) -> Trainer:
    training = {"batch_size": 24, "lr": 0.01, "sides": "alternate"} | values.pop("training", {})
    config = {"device": "cpu", "model": {"dim": 6}, "training": training}
    return build_trainer(make_config(config | values), toy)


def _numbers(trainer: Trainer, steps: int) -> list[Tensor]:
    """The losses of some steps, and all that is trained or kept after them."""
    losses: list[Tensor] = []
    for step in range(steps):
        losses.append(trainer.step(step))
        if (step + 1) % trainer.batches.per_epoch == 0:
            trainer.sampler.end_epoch((step + 1) // trainer.batches.per_epoch - 1)
    return [torch.stack(losses), *trainer.model.state_dict().values(), *_tensors(trainer.sampler.state_dict())]


def _tensors(state: dict[str, Any]) -> list[Tensor]:
    return [value for value in state.values() if isinstance(value, Tensor)]


def _same(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_what_a_device_compares_for_each_row_is_recorded(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    # A processor does so where there are many relations.
    monkeypatch.setattr(information, "_FEW", 0)
    for modalities in (["image", "text"], []):
        form = form_of("mmrns", 5) | {"refresh": 4, "modalities": modalities}
        recorder = _the_same_when_replayed(toy, {"sampler": form}, 12)
        assert len(recorder.runs) == 4


def _the_same_when_replayed(
    toy: Dataset, values: dict[str, Any], steps: int = 12, of_same_shapes: bool = True
) -> Replays:
    expected = _numbers(_trainer(toy, dict(values)), steps)
    recorder, trainer = Replays(), _trainer(toy, dict(values))
    trainer.record(True, recorder)
    found = _numbers(trainer, steps)
    _same(found, expected)
    assert recorder.runs, "nothing was recorded"
    for runs in recorder.runs:
        # The same operations with tensors of the same shapes and the same numbers of the host.
        assert not of_same_shapes or all(run == runs[0] for run in runs[1:])
    return recorder


@pytest.mark.parametrize("name", NAMES)
def test_with_any_sampler(toy: Dataset, name: str) -> None:
    # With lessons often enough to be replayed.
    often = {"refresh": 4} if FORMS[name]["name"] == "mmrns" else {}
    values = {"sampler": form_of(name, 5) | often, "model": model_of(name)}
    if _trainer(toy, values).sampler.kind(0) is None:
        pytest.skip("it cannot be recorded")
    recorder = _the_same_when_replayed(toy, values, 14 if often else 8)
    assert list(map(len, recorder.runs)) == ([2, 2, 1, 1] if often else [2, 2])


@pytest.mark.parametrize("name", ["igan", "inbatch", "kbgan", "mmrns", "nscaching", "sans", "uniform"])
def test_with_both_sides_in_a_batch(toy: Dataset, name: str) -> None:
    recorder = _the_same_when_replayed(toy, {"sampler": form_of(name, 5)} | BOTH, 5)
    assert list(map(len, recorder.runs)) == [1 if name == "mmrns" else 3]


@pytest.mark.parametrize("name", Scorer.registry.names())
def test_with_any_scorer(toy: Dataset, name: str) -> None:
    model = {"scorer": name, "dim": 4, "modalities": ["image", "text"], "structure_dropout": 0.3}
    sides = {} if name == "TuckER" else BOTH
    dropout = {"anchor_dropout": 0.2, "matrix_dropout": 0.2, "query_dropout": 0.2} if name == "TuckER" else {}
    # On a processor the vectors of views are those of the distinct entities, of which each step has another number.
    _the_same_when_replayed(toy, {"model": model | dropout} | UNIFORM | sides, 6, False)


def test_what_is_prepared_reads_the_model_as_it_is_in_the_step(toy: Dataset) -> None:
    model = {"dim": 4, "modalities": ["image", "text"], "structure_dropout": 0.5}
    values = {"model": model, "sampler": form_of("mmrns", 5) | {"modalities": [], "refresh": 4}}
    _the_same_when_replayed(toy, values, 12, False)


@pytest.mark.parametrize("name", Mixture.registry.names())
def test_with_any_mixture(toy: Dataset, name: str) -> None:
    model = {"dim": 4, "modalities": ["image", "text"], "mixture": name}
    _the_same_when_replayed(toy, {"model": model} | UNIFORM, 8, False)


@pytest.mark.parametrize("name", Embedder.registry.names())
def test_with_any_embedder(toy: Dataset, name: str) -> None:
    model = {"dim": 4, "embedder": name, "scorer": scorer_for(name)}
    _the_same_when_replayed(toy, {"model": model} | UNIFORM, 8, False)


@pytest.mark.parametrize("loss", Loss.registry.names())
def test_with_any_loss(toy: Dataset, loss: str) -> None:
    method = "k-vs-all" if Loss.registry.get(loss).needs_all else "uniform"
    _the_same_when_replayed(toy, {"objective": {"loss": loss, "n3": 0.1}, "method": method}, 8)


def test_batches_of_other_sizes_are_of_other_kinds(toy: Dataset) -> None:
    trainer = _trainer(toy, dict(UNIFORM))
    assert len(toy.graph.train) % trainer.batches.size
    recorder = _the_same_when_replayed(toy, dict(UNIFORM), 3 * trainer.batches.per_epoch)
    # Tails and heads of whole batches, and of the last ones of an epoch.
    assert sorted(map(len, recorder.runs)) == [1, 1, *[3 * (trainer.batches.per_pass - 1) - 2] * 2]


def test_a_step_that_is_looked_at_is_not_replayed(toy: Dataset) -> None:
    recorder, trainer = Replays(), _trainer(toy, dict(UNIFORM))
    trainer.record(True, recorder)
    seen: list[int] = []
    for step in range(12):
        trainer.step(step, (lambda rows, negatives: seen.append(len(negatives.entities(24)))) if step > 7 else None)
    assert sum(map(len, recorder.runs)) == 4
    assert seen == [24] * 4


def test_a_model_that_is_moved_has_its_steps_recorded_anew(toy: Dataset) -> None:
    recorder, trainer = Replays(), _trainer(toy, dict(UNIFORM))
    trainer.record(True, recorder)
    _numbers(trainer, 8)
    before = trainer.model.entity.weight.data  # Kept, so that nothing else comes to lie there.
    trainer.model.entity.to(torch.float64).to(torch.float32)
    assert torch.equal(trainer.model.entity.weight, before)
    _numbers(trainer, 8)
    assert list(map(len, recorder.runs)) == [2] * 4


class HostDraws(Uniform):
    """Draws for a purpose that names no step, or by the host."""

    alike = True
    by_host = False

    def draw(self, lookup: Lookup, model: Model, step: int) -> Negatives:
        stream = numpy_generator(0, "mine", step) if self.by_host else generator(0, "mine", step // 2)
        assert stream is not None
        return super().draw(lookup, model, step)


@pytest.mark.parametrize("by_host", [False, True])
def test_what_another_step_would_not_draw_is_not_recorded(
    toy: Dataset, monkeypatch: pytest.MonkeyPatch, by_host: bool
) -> None:
    monkeypatch.setattr(HostDraws, "by_host", by_host)
    expected = _numbers(_trainer(toy, dict(UNIFORM)), 12)
    recorder, trainer = Replays(), _trainer(toy, dict(UNIFORM))
    trainer.sampler.__class__ = HostDraws
    trainer.record("auto", recorder)
    with pytest.warns(
        Note, match="'mine' is drawn by the host" if by_host else "the random stream 'mine' is not of the"
    ):
        found = _numbers(trainer, 12)
    _same(found, expected)
    assert not recorder.runs


def test_where_recording_fails_steps_are_taken_as_they_are(toy: Dataset) -> None:
    def failing(run: Any, generators: Any) -> Any:
        raise RuntimeError("operation not permitted")

    expected = _numbers(_trainer(toy, dict(UNIFORM)), 12)
    trainer = _trainer(toy, dict(UNIFORM))
    trainer.record("auto", failing)
    with pytest.warns(Note, match="operation not permitted"):
        found = _numbers(trainer, 12)
    _same(found, expected)
    trainer.record(True, failing)
    with pytest.raises(UsageError, match=r"training\.capture=true: operation not permitted"):
        _numbers(trainer, 12)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"method": "uniform", "training": {"sparse": True}}, "training.sparse"),
        (
            {"method": "bernoulli", "model": {"scorer": "TuckER", "dim": 4, "query_dropout": 0.1}} | BOTH,
            "training.sides=bernoulli: how much is dropped",
        ),
        ({"method": "mmrns-published"}, "what the sampler mmrns-published asks the host for"),
        ({"sampler": {"name": "file", "other": "mmrns-published"}}, "what the sampler file asks the host for"),
    ],
)
def test_what_cannot_be_recorded_says_why(toy: Dataset, values: dict[str, Any], why: str) -> None:
    if values.get("sampler"):
        values["sampler"] |= {"path": form_of("file", 5)["path"]}
    trainer = _trainer(toy, values)
    with pytest.raises(UsageError, match=f"training.capture=true: {why}"):
        trainer.record(True, Replays())
    with pytest.warns(Note, match=why):
        trainer.record("auto", Replays())
    assert trainer.capture is None


def test_features_that_the_host_gathers_are_not_recorded(toy: Dataset) -> None:
    trainer = _trainer(toy, {"method": "mmrns"})
    modalities: dict[str, Any] = trainer.sampler.modalities  # pyright: ignore
    modalities["text"] = modalities["text"].to("meta")
    with pytest.warns(Note, match=r"data\.features_mb: the host gathers rows of text$"):
        trainer.record("auto", Replays())
    assert trainer.capture is None


def test_nothing_is_collected_while_a_step_is_recorded() -> None:
    with without_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with without_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_on_a_processor_auto_records_nothing_and_true_is_refused(toy: Dataset) -> None:
    assert _trainer(toy, dict(UNIFORM)).capture is None
    with pytest.raises(UsageError, match="takes a CUDA device, and this is cpu"):
        _trainer(toy, UNIFORM | {"training": {"capture": True}})


def test_streams_are_those_of_the_step_that_they_are_seeded_for() -> None:
    def drawn(step: int) -> list[Tensor]:
        ids = torch.arange(100)
        return [
            torch.rand(3, generator=generator(1, "a", step)),
            torch.rand(3, generator=generator(1, "b", step, 4)),
            among(ids, 0.5, 1, "c", step),
        ]

    streams, expected = Streams(), [drawn(step) for step in (5, 6)]
    with streams.used():
        first = drawn(Step(5))
    assert streams.why == ""
    assert len(streams.generators) == 2
    _same(first, expected[0])
    for found in (expected[1], expected[0]):
        streams.seed(6 if found is expected[1] else 5)
        with streams.used():
            _same(drawn(Step(5)), found)
    with streams.used(), pytest.raises(RuntimeError, match="the random stream 'b' was another one before: 'a'"):
        generator(1, "b", Step(5))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", [name for name in FORMS if not name.startswith("mans")])
def test_cuda_graphs_give_the_same_numbers(toy: Dataset, name: str) -> None:
    on_device = replace(toy, features=toy.features.on(torch.device("cuda"), limit_mb=1))
    values: dict[str, Any] = {"sampler": form_of(name, 5), "device": "cuda"}
    expected, again, trainer = (_trainer(on_device, values | {"training": {"capture": False}}) for _ in range(3))
    if trainer.sampler.kind(0) is None:
        pytest.skip("it cannot be recorded")
    trainer.record(True)
    once, twice, found = (_numbers(one, 40) for one in (expected, again, trainer))
    # What adds up in whatever order it comes is not the same to the bit even without a recording.
    repeats = all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    for a, b in zip(found, once, strict=True):
        torch.testing.assert_close(a, b, **({"rtol": 0, "atol": 0} if repeats else {"rtol": 1e-3, "atol": 1e-4}))
    assert trainer.capture is not None
    # Steps with a lesson are of kinds of their own.
    assert trainer.capture.n_recorded == (4 if FORMS[name]["name"] == "mmrns" else 2)
