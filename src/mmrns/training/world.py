"""The processes of one training: which entities each of them has, and what they tell each other.

The transport is `torch.distributed`, the processes are started by `torchrun`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, cached_property
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store, rendezvous  # pyright: ignore[reportPrivateImportUsage]

from mmrns.errors import MmrnsError, OutOfMemory, memory_told
from mmrns.launch import launched, local_rank, restarts
from mmrns.nn.numerics import FullPrecision
from mmrns.nn.rows import shared_rows

_PATIENCE = 5.0
"""Seconds in which a process that has ended is found to have."""

_WAIT = 2.0
"""Seconds in which all processes fail that fail alike."""

_ASKED = 0.5
"""Seconds in which those who have failed ask what the first one says."""


@dataclass(frozen=True)
class Parting:
    """Who has which entity: of E entities process w of W has those whose number is w modulo W,

        number(e) = a e mod E,      a coprime to E and about 0.618 E,

    so that neighbours in the order of names, which may be alike in how much there is to do for them, are spread. A part
    is kept in the order of these numbers. Nothing has to be stored or told for it.

    Attributes:
        n_entities: E.
        size: W.
    """

    n_entities: int
    size: int

    @cached_property
    def _factor(self) -> int:
        factor = max(1, round(self.n_entities * (math.sqrt(5) - 1) / 2))
        while math.gcd(factor, self.n_entities) > 1:
            factor += 1
        return factor

    def owner(self, ids: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """The process that has each entity."""
        return ids * self._factor % self.n_entities % self.size

    def place(self, ids: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """The row of each entity in its owner's part."""
        return torch.div(ids * self._factor % self.n_entities, self.size, rounding_mode="floor")

    def ids(self, rank: int) -> Int[Tensor, " n"]:
        """The entities of a process, in the order of its part."""
        # Python's own arithmetic has the inverse of a modulo 1, too: 0.
        return (
            torch.arange(self.n_entities)[rank :: self.size] * pow(self._factor, -1, self.n_entities) % self.n_entities
        )


class World:
    """The W processes of a training, of which this is number `rank`; all run the same program on the same batches.

    What they compute together is one function of what each of them has, and is differentiated as one: a collective's
    backward pass is the collective that is its adjoint. A loss that all have alike is therefore divided by W
    (`backward`), and the gradient of a parameter that all have alike is the sum of what each has found.

    Every method but those that look is called by all processes in the same order.

    Args:
        rank, size: w and W.
        store: where a process that fails says so.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Store | None = None):
        self.rank, self.size, self._store = rank, size, store
        self._processes: list[tuple[str, int]] = []
        self._go_on = ""

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def __repr__(self) -> str:
        return f"World(process {self.rank} of {self.size})"

    def gather(self, values: Float[Tensor, "m *w"], owner: Int[Tensor, " n"]) -> Float[Tensor, "n *w"]:
        """What the owner of each of n items has of it, in the order of the items.

        Args:
            values: of the items that this process owns, in their order.
            owner: of every item.
        """
        return _Gather.apply(self, values, owner) if self.size > 1 else values

    def sum(self, values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The sum over the processes."""
        return _Sum.apply(self, values) if self.size > 1 else values

    @torch.no_grad()
    def max(self, values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The largest of what the processes have, without gradient."""
        return self.reduced(values.clone(), dist.ReduceOp.MAX) if self.size > 1 else values

    def rows(self) -> AbstractContextManager[None]:
        """Inside, the candidates of a row that are at hand are those of this process (`mmrns.nn.rows`)."""
        return shared_rows(self) if self.size > 1 else nullcontext()

    def backward(self, loss: Float[Tensor, ""], alike: Sequence[nn.Parameter]) -> None:
        """The gradients of a loss that all processes have.

        Args:
            loss: the same in all of them.
            alike: the parameters that every process has; the others are its own.
        """
        if self.size == 1:
            loss.backward()
            return
        (loss / self.size).backward()
        gradients = [parameter.grad for parameter in alike if parameter.grad is not None]
        # Those of a sparse table are of the same rows everywhere: of what the batch asks about.
        gradients = [gradient.coalesce() if gradient.is_sparse else gradient for gradient in gradients]
        values = [gradient.values() if gradient.is_sparse else gradient for gradient in gradients]
        if not values:
            return
        bucket = self.reduced(torch.cat([value.flatten() for value in values]), dist.ReduceOp.SUM)
        for value, part in zip(values, bucket.split([value.numel() for value in values]), strict=True):
            value.copy_(part.view_as(value))
        for parameter, gradient in zip((p for p in alike if p.grad is not None), gradients, strict=True):
            parameter.grad = gradient

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process. Waits for the others, but for no device."""
        return bool(self.reduced(torch.tensor(float(flag)), dist.ReduceOp.MAX)) if self.size > 1 else flag

    def tell(self, value: Any) -> list[Any]:
        """What each process has to say, by rank: JSON values."""
        if self.size == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        self._called(dist.all_gather, lengths, torch.tensor([len(text)]))
        longest = int(max(lengths))
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        self._called(dist.all_gather, texts, torch.nn.functional.pad(text, (0, longest - len(text))))
        return [json.loads(bytes(text[: int(length)].tolist())) for text, length in zip(texts, lengths, strict=True)]

    def together(self, act: Callable[[], None], *, alone: bool = False) -> None:
        """What every process does, or the first one alone, as one: it is done when it is done everywhere.

        Raises:
            Ended: it failed in another process.
        """
        if self.size == 1:
            act()
            return
        failure: MmrnsError | None = None
        try:
            if self.first or not alone:
                act()
        except MmrnsError as error:
            failure = error
        said = self.tell(None if failure is None else str(failure))
        failed = [rank for rank, message in enumerate(said) if message is not None]
        if not failed:
            return
        rank = failed[0]
        # The first process says it, and would be ended itself before another one could.
        raise Ended(f"rank {rank}: {said[rank]}" if self.first else "", rank if self.first else None) from failure

    def exchange(self, out: Tensor, values: Tensor, received: list[int], sent: list[int]) -> Tensor:
        """Rows for every process, one part of `values` each, and into `out` those from every process."""
        self._called(dist.all_to_all_single, out, values, received, sent)
        return out

    def reduced(self, values: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        """The sum or the largest over the processes, in place."""
        self._called(dist.all_reduce, values, how)
        return values

    def _called(self, collective: Callable[..., Any], *given: Any) -> None:
        try:
            collective(*given)
        except RuntimeError as error:  # A connection is closed, or torch gives up waiting.
            rank, spoke = self._who_ended()
            if spoke:
                raise Ended() from error
            if rank is None:
                why = str(error).partition("\n")[0]
                raise Ended(f"rank {self.rank}: the other processes do not answer ({why})", self.rank) from error
            # One of those that are left says it.
            speaks = self.rank == (0 if rank else 1)
            how = f"has ended without a word; {self._go_on}"
            raise Ended(f"rank {rank}: {how}" if speaks else "", rank if speaks else None) from error

    def _who_ended(self) -> tuple[int | None, bool]:
        """A process that has ended, and whether it has said why; None where none is found to have."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            for rank, (host, pid) in enumerate(self._processes):
                if rank != self.rank and self._said(rank) is not None:
                    return rank, True
                if host == platform.node() and not _lives(pid):
                    return rank, False
            time.sleep(0.05)
        return None, False

    def _said(self, rank: int) -> str | None:
        """What a process has said of its end."""
        with suppress(Exception):  # The store may have gone with its process.
            if self._store is not None and self._store.check([f"ended/{rank}"]):
                return self._store.get(f"ended/{rank}").decode()
        return None

    @contextmanager
    def started(self, go_on: str = "start it again") -> Generator[World]:
        """Introduce the processes to each other, and at the end say good-bye; who fails tells the others.

        Args:
            go_on: what to do where one of them has ended without a word.

        Raises:
            OutOfMemory: memory cannot be had, in this process.
        """
        if self.size == 1:
            with memory_told():
                yield self
            return
        self._go_on = go_on
        try:
            self._processes = [(host, pid) for host, pid in self.tell([platform.node(), os.getpid()])]
            with memory_told():
                yield self
        except BaseException as error:
            self._say(error)
            raise
        finally:
            with suppress(Exception):
                dist.destroy_process_group()

    def _say(self, error: BaseException) -> None:
        """Tell the others what has ended this process, and name it where it is not what the first one says as well."""
        if isinstance(error, Ended) and threading.current_thread() is threading.main_thread():
            # torchrun ends what is left by a signal, which would come before the line that says why.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # A signal to one of the others alone is told by nobody but the first process, who misses it.
        alone = self.rank > 0 and isinstance(error, KeyboardInterrupt | SystemExit)
        if isinstance(error, Ended) or alone or self._store is None:
            return
        text = str(error) or type(error).__name__
        # How much more was needed differs where memory ends at another moment.
        what = type(error).__name__ if isinstance(error, OutOfMemory) else text
        with suppress(Exception):
            self._store.set(f"ended/{self.rank}", what)
            if self.rank:
                self._store.wait(["ended/0"], timedelta(seconds=_WAIT))
            elif isinstance(error, MmrnsError):
                self._be_asked(self._store)
        if isinstance(error, MmrnsError) and self.rank and self._said(0) != what:
            error.rank = self.rank
            error.args = (f"rank {self.rank}: {text}",)

    def _be_asked(self, store: Store) -> None:
        """Wait for those that fail as the first process does and ask what it says: the store may go with it."""
        deadline, others = time.monotonic() + _WAIT, [f"ended/{rank}" for rank in range(1, self.size)]
        while time.monotonic() < deadline and not store.check(others):
            time.sleep(0.05)
        time.sleep(_ASKED)


class Ended(MmrnsError):
    """Another process of the training has ended, and with it the training.

    Args:
        text: what this process says of it; nothing where another one does.
        rank: the process that has ended, where this one says so.
    """

    def __init__(self, text: str = "", rank: int | None = None):
        super().__init__(text)
        self.rank = rank


ALONE = World()
"""A training of one process."""


def world_of() -> World:
    """The processes that `torchrun` has started, to be `started`, or this one alone."""
    if launched()[1] == 1:
        return ALONE
    if torch.cuda.is_available() and local_rank() < torch.cuda.device_count():
        torch.cuda.set_device(local_rank())
    store, rank, size = _met()
    # Several trainings of one program have nothing to do with each other, nor with those before a restart.
    store = PrefixStore(f"mmrns/{restarts()}/{next(_TRAININGS)}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    return World(rank, size, store)


_TRAININGS = count()


@cache
def _met() -> tuple[Store, int, int]:
    """Where the processes meet, once in a program; the number of this one, and how many there are."""
    return next(rendezvous("env://"))


def _lives(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended may still be listed."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except ProcessLookupError:
        return False
    except OSError:
        return True


class _Sum(FullPrecision):
    """The sum over the processes. What each gives to the whole comes back to it from all of them."""

    @staticmethod
    def forward(ctx: Any, world: World, values: Tensor) -> Tensor:
        ctx.world = world
        return world.reduced(values.clone(memory_format=torch.contiguous_format), dist.ReduceOp.SUM)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        (gradient,) = gradients
        return None, ctx.world.reduced(gradient.clone(memory_format=torch.contiguous_format), dist.ReduceOp.SUM)


class _Gather(FullPrecision):
    """Every process's rows, for all of them.

    The gradients that they all have of a row go back to its owner, who adds them up in the order of ranks.
    """

    @staticmethod
    def forward(ctx: Any, world: World, values: Tensor, owner: Tensor) -> Tensor:
        counts: list[int] = torch.bincount(owner, minlength=world.size).tolist()
        own = [counts[world.rank]] * world.size
        order = torch.argsort(owner, stable=True)
        ctx.world, ctx.counts, ctx.own = world, counts, own
        ctx.save_for_backward(order)
        found = values.new_empty(len(owner), *values.shape[1:])
        world.exchange(found, values.repeat(world.size, *(1 for _ in values.shape[1:])), counts, own)
        return torch.empty_like(found).index_copy_(0, order, found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        (gradient,), (order,), world = gradients, ctx.saved_tensors, ctx.world
        sent = gradient.index_select(0, order)
        found = gradient.new_empty(sum(ctx.own), *gradient.shape[1:])
        world.exchange(found, sent, ctx.own, ctx.counts)
        return None, found.unflatten(0, (world.size, ctx.own[0])).sum(0), None
