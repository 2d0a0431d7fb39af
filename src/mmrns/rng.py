"""Random streams: every random number is a function of the seed and of what it is for.

Nothing draws from process-global state, and no generator has to be stored: the stream of step 700 is the same
whether the run came there in one go or was resumed at step 699.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def stream_seed(seed: int, *purpose: int | str) -> int:
    """A 63-bit seed mixed from the run's seed and the purpose of the stream, e.g. `("uniform", step)`."""
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *purpose: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for one purpose, on the device where its numbers are needed."""
    import torch  # Here, so that what draws on the host alone does without.

    return torch.Generator(device=device).manual_seed(stream_seed(seed, *purpose))


def numpy_generator(seed: int, *purpose: int | str) -> np.random.Generator:
    """A NumPy generator for one purpose; for host-side draws that torch lacks."""
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
    mixed = (ids + stream_seed(seed, *purpose)) * _MIX[0]
    for shift, factor in zip((30, 27), _MIX[1:], strict=True):
        mixed = (mixed ^ ((mixed >> shift) & (2 ** (64 - shift) - 1))) * factor
    # 31 bits are read from within, where the last shift of the hash would put the upper ones.
    return ((mixed ^ ((mixed >> 31) & (2**33 - 1))) & (2**31 - 1)) < round(share * 2**31)


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
