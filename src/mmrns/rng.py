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


@contextmanager
def seeded(seed: int, *purpose: int | str) -> Generator[None]:
    """Inside, torch's global generator on the CPU is a stream of its own; afterwards it is as it was.

    For the initial values of modules, whose constructors draw from the global generator.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, *purpose))
        yield
