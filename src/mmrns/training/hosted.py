"""The rows that a step looks up in tables on the host, brought to the device while it works on the step before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmrns.nn.embedders import Rows, RowsAtHand
from mmrns.samplers.base import Sampler
from mmrns.types import Batch


@dataclass(frozen=True)
class _Fetched:
    """The rows of a step, in memory that a device copies from itself.

    Attributes:
        ids: of the entities, ascending, each once.
        rows: of each table.
    """

    ids: Int[Tensor, " n"]
    rows: tuple[Float[Tensor, "n width"], ...]

    def refresh(self, tables: Sequence[Rows], moved: Int[Tensor, " m"]) -> None:
        """Fetch those rows again that have moved since.

        Args:
            tables: the tables.
            moved: entities, ascending, one at least.
        """
        place = torch.searchsorted(moved, self.ids).clamp(max=len(moved) - 1)
        stale = (moved[place] == self.ids).nonzero().squeeze(1)
        for table, rows in zip(tables, self.rows, strict=True):
            rows.index_copy_(0, stale, table.weight.detach().index_select(0, self.ids[stale]))


class Foretold:
    """The entities of each step, known and fetched a step ahead.

    They are those of the batch and those that the sampler foretells (`Sampler.foretold`). While the device works on a
    step, another thread gathers the rows of the next one from the tables; those of them that the step then moves are
    gathered again before the next begins. So a step has the numbers that it would have had without.

    Args:
        tables: the tables, in the machine's memory.
        sampler: what draws.
        batch: the batch of a step, on the device.
        device: where the step is made.
    """

    def __init__(self, tables: Sequence[Rows], sampler: Sampler, batch: Callable[[int], Batch], device: torch.device):
        self.tables, self.sampler, self.batch, self.device = tables, sampler, batch, device
        self._thread = ThreadPoolExecutor(1, "rows")
        self._next: tuple[int, Batch, Future[_Fetched] | None] | None = None
        self._moved: Int[Tensor, " m"] | None = None

    def begin(self, step: int) -> Batch:
        """The batch of a step, whose rows are at hand until `end` if the sampler foretells them.

        Those of the next step are begun.
        """
        if self._next is None or self._next[0] != step:
            # The first one, or one out of turn: nothing was fetched, or of other values.
            self._next, self._moved = self._begun(step), None
        _, batch, begun = self._next
        if begun is not None:
            fetched = begun.result()
            if self._moved is not None:
                fetched.refresh(self.tables, self._moved)
            ids = fetched.ids.to(self.device, non_blocking=True)
            for table, rows in zip(self.tables, fetched.rows, strict=True):
                there = rows.to(self.device, non_blocking=True)
                table.at_hand = RowsAtHand(table.weight, fetched.ids, ids, there)
            self._moved = fetched.ids
        self._next = self._begun(step + 1)
        return batch

    def end(self) -> None:
        """From here on rows are looked up in the tables again."""
        for table in self.tables:
            table.at_hand = None

    def _begun(self, step: int) -> tuple[int, Batch, Future[_Fetched] | None]:
        batch = self.batch(step)
        more = self.sampler.foretold(batch, step)
        if more is None:
            return step, batch, None
        wanted = torch.cat([batch.anchor, batch.target, more])
        ready = None
        if self.device.type == "cuda":
            # The copy goes on behind what the device has to do for it, and not behind the step.
            there, wanted = wanted, torch.empty(wanted.shape, dtype=wanted.dtype, pin_memory=True)
            wanted.copy_(there, non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        return step, batch, self._thread.submit(self._fetched, wanted, ready)

    def _fetched(self, wanted: Int[Tensor, " n"], ready: torch.cuda.Event | None) -> _Fetched:
        if ready is not None:
            ready.synchronize()
        pinned = self.device.type == "cuda"
        ids = torch.unique(wanted.cpu())
        rows: list[Tensor] = []
        for table in self.tables:
            weight = table.weight.detach()
            found = torch.empty(len(ids), weight.shape[1], dtype=weight.dtype, pin_memory=pinned)
            rows.append(torch.index_select(weight, 0, ids, out=found))
        return _Fetched(ids.pin_memory() if pinned else ids, tuple(rows))
