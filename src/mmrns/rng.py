"""Random streams: every random number is a function of the seed and of what it is for.

Nothing draws from process-global state, and no generator has to be stored: the stream of step 700 is the same
whether the run came there in one go or was resumed at step 699.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_Made = TypeVar("_Made")


class Step(int):
    """The number of a training step, which remembers that it is one: another step's can take its place in a purpose."""


class Streams:
    """The random streams of a step that is recorded once and then replayed for other steps.

    A recording holds on to its generators. So these are made in a step that is only looked at (`found`), handed out in
    the same order when it is recorded, and seeded anew for each step that is replayed: its numbers are then those that
    it would have drawn itself.

    Attributes:
        why: why the step cannot be recorded: something is drawn by the host, or for a purpose that does not tell which
            step it is for; "" where nothing is in the way.
    """

    def __init__(self) -> None:
        self.why = ""
        self._purposes: list[tuple[int | str, ...]] = []
        self._made: list[Any] = []
        self._next = 0

    @property
    def generators(self) -> list[torch.Generator]:
        """Those of the device."""
        import torch

        return [made for made in self._made if not isinstance(made, torch.Tensor)]

    @contextmanager
    def used(self) -> Generator[None]:
        """Inside, random streams are these, in the order in which they were asked for the first time."""
        self._next = 0
        before = _STREAMS.set(self)
        try:
            yield
        finally:
            _STREAMS.reset(before)

    def seed(self, step: int) -> None:
        """Have all of them begin as those of a step."""
        import torch

        for purpose, made in zip(self._purposes, self._made, strict=True):
            number = _seed_of(tuple(int(step) if isinstance(x, Step) else x for x in purpose))
            made.fill_(number) if isinstance(made, torch.Tensor) else made.manual_seed(number)

    def take(self, make: Callable[[], _Made], *purpose: int | str) -> _Made:
        """The next one, made if it is asked for the first time; `purpose` begins with the seed."""
        if not any(isinstance(x, Step) for x in purpose):
            self.why = f"the random stream {purpose[1]!r} is not of the step"
        if self._next == len(self._made):
            self._purposes.append(purpose)
            self._made.append(make())
        made, known = self._made[self._next], self._purposes[self._next]
        self._next += 1
        if known != purpose:
            raise RuntimeError(f"the random stream {purpose[1]!r} was another one before: {known[1]!r}")
        return made


_STREAMS: ContextVar[Streams | None] = ContextVar("streams", default=None)
"""Those of the step that is being recorded."""


def stream_seed(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed mixed from the run's seed and the purpose of the stream, e.g. `("uniform", step)`."""
    return _seed_of((seed, *purpose))


def _seed_of(purpose: tuple[int | str, ...]) -> int:
    digest = hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *purpose: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for one purpose, on the device where its numbers are needed."""
    import torch  # Here, so that what draws on the host alone does without.

    def made() -> torch.Generator:
        return torch.Generator(device=device).manual_seed(stream_seed(seed, *purpose))

    streams = _STREAMS.get()
    return made() if streams is None else streams.take(made, seed, *purpose)


def numpy_generator(seed: int, *purpose: int | str) -> np.random.Generator:
    """A NumPy generator for one purpose; for host-side draws that torch lacks."""
    if (streams := _STREAMS.get()) is not None:
        streams.why = f"{purpose[0]!r} is drawn by the host"
    return np.random.Generator(np.random.Philox(stream_seed(seed, *purpose)))


BITS = 53
"""Random bits of a number that a draw is made from: those of a float64 uniform on [0, 1), which it stands for."""


def random_bits(*shape: int, stream: torch.Generator, device: torch.device | str) -> Tensor:
    """Integers uniform on [0, 2^53), on any device: not every one has float64, nor random integers past 32 bits."""
    import torch

    def integers(bits: int) -> Tensor:
        return torch.randint(2**bits, shape, generator=stream, device=device)

    return integers(BITS) if torch.device(device).type == "cpu" else (integers(22) << 31) + integers(31)


def below(bits: Tensor, n: Tensor | int) -> Tensor:
    """`floor(bits * n / 2^53)`: with `random_bits` uniform on [0, n).

    The arithmetic is of 64-bit integers and exact, so that every number below n is as likely as any other to within
    2^-53. The largest n is 2^36.

    >>> import torch
    >>> below(torch.tensor([0, 2**52, 2**53 - 1]), 5).tolist()
    [0, 2, 4]
    """
    # In two halves, whose products with n fit 63 bits.
    high, low = bits >> 27, bits & (2**27 - 1)
    return (high * n + (low * n >> 27)) >> 26


def among(ids: Tensor, share: float, seed: int, *purpose: int | str) -> Tensor:
    """Whether each id belongs to a random share of all ids: the same answer for an id wherever it is asked about.

    A hash of the id (splitmix64) is compared with the share, so that the cost is that of the ids asked about, however
    many there are.

    Args:
        ids: 64-bit integers.
        share: from 0 to 1.
        seed, purpose: as of `generator`; another purpose is another, independent choice.
    """
    mixed = (ids + _stream_number(ids, seed, *purpose)) * _MIX[0]
    for shift, factor in zip((30, 27), _MIX[1:], strict=True):
        mixed = (mixed ^ ((mixed >> shift) & (2 ** (64 - shift) - 1))) * factor
    # 31 bits are read from within, where the last shift of the hash would put the upper ones.
    return ((mixed ^ ((mixed >> 31) & (2**33 - 1))) & (2**31 - 1)) < round(share * 2**31)


def _stream_number(like: Tensor, seed: int, *purpose: int | str) -> Tensor | int:
    """`stream_seed`, as a number of the device where a step is recorded."""
    number, streams = stream_seed(seed, *purpose), _STREAMS.get()
    return number if streams is None else streams.take(lambda: like.new_full((), number), seed, *purpose)


_MIX = (-0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)
"""The increment and the two factors of splitmix64 (Steele et al., 2014), as signed numbers."""


@contextmanager
def seeded(seed: int, *purpose: int | str) -> Generator[None]:
    """Inside, torch's global generator on the CPU is a stream of its own; afterwards it is as it was.

    For the initial values of modules, whose constructors draw from the global generator.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, *purpose))
        yield
