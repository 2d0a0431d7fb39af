"""Steps that are recorded once and replayed: the device is given a whole step at a time, not each of its operations."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmrns.nn.model import Model
from mmrns.rng import Step, Streams
from mmrns.samplers.base import Sampler
from mmrns.types import Batch, Negatives

_MOST = 24
"""Kinds of steps that are recorded."""


class Descent(NamedTuple):
    """What the forward and the backward pass of a step leave beside the gradients.

    Attributes:
        loss: what is descended.
        sampler: the part of it that is the sampler's; the number 0 in a step where it has none.
        rows: of the batch, whole, or its last part where it is compared in parts.
        negatives: theirs; none are shown of a step that is replayed.
    """

    loss: Float[Tensor, ""]
    sampler: Float[Tensor, ""] | float
    rows: Batch
    negatives: Negatives


class Numbers(NamedTuple):
    """What a recording writes, each time to the same memory.

    Attributes:
        loss, sampler: see `Descent`.
        gradients: of all parameters; None of those that a step of the kind has none for.
    """

    loss: Float[Tensor, ""]
    sampler: Float[Tensor, ""] | float
    gradients: list[Tensor | None]


Recorder = Callable[[Callable[[], Numbers], Sequence[torch.Generator]], Callable[[], Numbers]]
"""Given a function and the generators that it draws from, what repeats the operations that it gives to a device, which
read and write the same memory each time. The function need not be executed for that."""


class CudaGraphs:
    """CUDA graphs: one launch for all operations of a step. They share the memory of what a step only needs itself.

    Args:
        settle: waits until no other thread asks anything of the device, which would end a recording.
    """

    def __init__(self, settle: Callable[[], object]) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._settle = settle

    def __call__(self, run: Callable[[], Numbers], generators: Sequence[torch.Generator]) -> Callable[[], Numbers]:
        graph: Any = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        stream = torch.cuda.current_stream()
        self._settle()
        try:
            with without_collection(), torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                found = run()
        finally:
            # Where recording fails torch stays on the stream that it recorded.
            torch.cuda.set_stream(stream)

        def replay() -> Numbers:
            graph.replay()
            return found

        return replay


@contextmanager
def without_collection() -> Generator[None]:
    """Inside, nothing is freed that only a search for cycles finds: what lay on a device would be freed there."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def leaves(value: Any) -> Iterator[Any]:
    """All within tuples and dataclasses, in order."""
    if isinstance(value, tuple):
        parts: tuple[Any, ...] = value  # pyright: ignore[reportUnknownVariableType]
    elif is_dataclass(value):
        parts = tuple(getattr(value, field.name) for field in fields(value))
    else:
        yield value
        return
    for part in parts:
        yield from leaves(part)


def tensors(value: Any) -> list[Tensor]:
    """The tensors among the `leaves`."""
    return [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]


def copy(value: Any, into: Any) -> None:
    """Write the tensors of a value to those of another one of the same form, all of a type at once."""
    pairs: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
    for new, old in zip(tensors(value), tensors(into), strict=True):
        if new.numel():
            pairs.setdefault(new.dtype, []).append((old, new))
    for of_type in pairs.values():
        torch._foreach_copy_(*map(list, zip(*of_type, strict=True)))  # pyright: ignore


def cloned(value: Any) -> Any:
    """A value with copies of all its tensors."""
    if isinstance(value, Tensor):
        return value.clone(memory_format=torch.contiguous_format)
    if isinstance(value, tuple):
        return tuple(cloned(part) for part in value)  # pyright: ignore[reportUnknownVariableType]
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: cloned(getattr(value, field.name)) for field in fields(value)})
    return value


@dataclass
class _Recording:
    """One kind of steps: the memory that they read what is their own from, and what repeats them."""

    inputs: Batch
    streams: Streams
    replay: Callable[[], Numbers] | None = None


class Capture:
    """Takes the forward and backward pass of steps, if possible by replaying what was recorded of an earlier one.

    A step may be replayed for another one if it differs from it in nothing but the numbers of its batch, of its random
    streams and of what the sampler prepares (`Sampler.prepare`). Such steps are of one kind: the sampler says so
    (`Sampler.kind`), and all shapes are the same. The first of a kind is taken as it is, which compiles what has to be;
    the second from the memory that all others will read; the third is recorded. Batches, streams and what is prepared
    are written to that memory before each replay. So the numbers are those of steps that are not recorded.

    What remains to the host of a step are its batch, what is prepared, the seeds and the optimizer.

    Args:
        descend: the forward and the backward pass of a step.
        parts: the model, the loss and the sampler, on whose memory recordings rely.
        parameters: whose gradients are used.
        recorder: of the device.
        refused: is told once why steps cannot be recorded; they are taken as they are then.
    """

    def __init__(
        self,
        descend: Callable[[Batch, int], Descent],
        parts: tuple[Model, nn.Module, Sampler],
        parameters: Sequence[nn.Parameter],
        recorder: Recorder,
        refused: Callable[[str], None],
    ):
        self.descend, self.parts, self.parameters = descend, parts, parameters
        self.recorder, self.refused = recorder, refused
        self._refused = False
        self._seen: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, _Recording] = {}

    def __call__(self, batch: Batch, step: int) -> Descent:
        """The forward and the backward pass of a step."""
        model, _, sampler = self.parts
        kind = sampler.kind(step)
        if self._refused or kind is None:
            return self.descend(batch, step)
        # What is prepared may read what the model leaves out in the step.
        model.begin(step)
        with torch.no_grad():
            batch = replace(batch, given=sampler.prepare(batch, model, step))
        inputs = _alike(batch)
        key = kind, tuple(map(_form, leaves(inputs))), tuple(self._memory())
        self._seen[key] += 1
        recording = self._recordings.get(key)
        if self._seen[key] == 1 or (recording is None and len(self._recordings) == _MOST):
            return self.descend(batch, step)
        if recording is None:
            return self._looked_at(key, inputs, step)
        copy(inputs, recording.inputs)
        recording.streams.seed(step)
        if recording.replay is None and not self._record(recording):
            return self.descend(batch, step)
        assert recording.replay is not None
        numbers = recording.replay()
        for parameter, gradient in zip(self.parameters, numbers.gradients, strict=True):
            parameter.grad = gradient
        # The next replay writes to the same memory.
        return Descent(numbers.loss.clone(), numbers.sampler, batch, Negatives())

    @property
    def n_recorded(self) -> int:
        """How many kinds of steps are recorded."""
        return sum(recording.replay is not None for recording in self._recordings.values())

    def _looked_at(self, key: Hashable, inputs: Batch, step: int) -> Descent:
        """Take a step from the memory that its recording will read, and see which random streams it has."""
        marked = Step(step)
        recording = _Recording(replace(cloned(inputs), step=marked), Streams())
        with recording.streams.used():
            found = self.descend(replace(recording.inputs), marked)
        if recording.streams.why:
            self._give_up(recording.streams.why)
        else:
            self._recordings[key] = recording
        return found

    def _record(self, recording: _Recording) -> bool:
        """Record a step; False where that fails, and it has to be taken as it is."""
        step = recording.inputs.step
        assert step is not None

        def run() -> Numbers:
            with recording.streams.used():
                # Another batch: what one keeps of itself belongs to one run.
                found = self.descend(replace(recording.inputs), step)
            return Numbers(found.loss, found.sampler, [parameter.grad for parameter in self.parameters])

        try:
            recording.replay = self.recorder(run, recording.streams.generators)
        except RuntimeError as error:
            self._give_up(str(error))
        return recording.replay is not None

    def _give_up(self, why: str) -> None:
        self._refused = True
        self._recordings.clear()
        self.refused(why)

    def _memory(self) -> Iterator[int]:
        """Where all that is trained or kept lies: whoever moves it has the steps recorded anew."""
        for part in self.parts:
            yield from (tensor.data_ptr() for tensor in (*part.parameters(), *part.buffers()))


def _alike(batch: Batch) -> Batch:
    """What a batch has in the same shapes in each step: how many distinct relations and true answers differs, and how
    many rows are of each side where it is of both.
    """
    alike = replace(batch, relations=batch.relations[:0], relation_counts=(), n_true=None, step=None)
    return replace(alike, n_tail=0, mixed=batch.head) if len(batch.sides) == 2 else alike


def _form(leaf: Any) -> Hashable:
    return (leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf
