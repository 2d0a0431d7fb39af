"""Where a training keeps its last and its best state: in the memory, or in the folder of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mmrns.errors import DataError
from mmrns.files import link_or_copy, make_folder
from mmrns.runs.digests import PLACES
from mmrns.training.checkpoint import Checkpoint, save_checkpoint
from mmrns.training.progress import Progress
from mmrns.training.shards import drop_unnamed, own_part, read_shards, save_shards
from mmrns.training.trainer import Trainer

RATES = ("training.lr", "training.sampler_lr")
"""What a resumed run may be given anew."""


class InMemory:
    """Where a training without a folder keeps its best weights."""

    def __init__(self) -> None:
        self.best: dict[str, dict[str, Tensor]] = {}

    def save(self, best: bool, trainer: Trainer, progress: Progress, notes: Mapping[str, Any]) -> None:
        if best:
            parts = {"model": trainer.model, "sampler": trainer.sampler}
            self.best = {
                name: {key: value.detach().clone() for key, value in part.state_dict().items()}
                for name, part in parts.items()
            }

    def resume(self) -> Checkpoint | None:
        return None

    def load_best(self, trainer: Trainer, step: int) -> None:
        trainer.model.load_state_dict(self.best["model"])
        trainer.sampler.load_state_dict(self.best["sampler"])


class InFolder:
    """The checkpoints of a run folder: the last one, and the best one, which was the last one once.

    Each is one file or, of several processes, a file from each of them (`mmrns.training.shards`). Either can be gone on
    with by any number of processes.

    Args:
        folder: of the run.
        trainer: whose checkpoints they are.
    """

    def __init__(self, folder: Path, trainer: Trainer):
        self.folder, self.trainer, self.world = folder / "checkpoint", trainer, trainer.world
        self.kind, self.other = (".safetensors", ".json") if self.world.size == 1 else (".json", ".safetensors")

    @property
    def last(self) -> Path:
        """The last checkpoint, by whichever number of processes."""
        return self._there("last")

    @property
    def best(self) -> Path:
        """The best one."""
        return self._there("best")

    def _there(self, name: str) -> Path:
        """The file of a checkpoint. What another number of processes has written goes once this one has its own."""
        own, other = (self.folder / f"{name}{kind}" for kind in (self.kind, self.other))
        return other if other.exists() and not own.exists() else own

    def save(self, best: bool, trainer: Trainer, progress: Progress, notes: Mapping[str, Any]) -> None:
        names = ("last", "best") if best else ("last",)
        if self.world.size == 1:
            make_folder(self.folder)
            save_checkpoint(self.folder / "last.safetensors", trainer, progress, notes)
            if best:
                link_or_copy(self.folder / "last.safetensors", self.folder / "best.safetensors")
        else:
            save_shards(self.folder, trainer, progress, notes, best=best)
        if self.world.first:
            self._drop_others(names)

    def _drop_others(self, names: Sequence[str]) -> None:
        """Remove what another number of processes has written and this has come in the place of."""
        others = [path for name in names if (path := self.folder / f"{name}{self.other}").exists()]
        for path in others:
            path.unlink()
        if others:
            drop_unnamed(self.folder)

    def resume(self) -> Checkpoint | None:
        """The last checkpoint, once the best one is what it says.

        Raises:
            DataError: one of them is damaged or missing, or the best one is not of the best step.
        """
        if not self.last.exists():
            if self.best.exists():
                raise DataError(
                    self.last, "is missing", f"restore it, or go on from the best step by a copy of {self.best.name}"
                )
            return None
        last = self._read(self.last)
        if last.progress.best_step and last.progress.best_step == last.progress.step:
            # It may have been killed before it did.
            self.world.together(lambda: link_or_copy(last.path, last.path.with_stem("best")), alone=True)
        elif last.progress.best_step:
            self._of_step(last.progress.best_step, last.extra["config"])
        return last

    def load_best(self, trainer: Trainer, step: int) -> None:
        self._of_step(step).load_weights(trainer)

    def _read(self, path: Path) -> Checkpoint:
        """What this process needs of a checkpoint."""
        if path.suffix == ".json":
            return read_shards(path, self.trainer)
        return own_part(Checkpoint.read(path), self.trainer)

    def _of_step(self, step: int, config: Mapping[str, Any] | None = None) -> Checkpoint:
        """The best checkpoint.

        Raises:
            DataError: it is of another step or run.
        """
        found = self._read(self.best)
        if found.progress.step != step:
            reason = f"is of step {found.progress.step}, but the best step is {step}"
        elif differing := first_difference(found.extra["config"], config or {}, (*PLACES, *RATES)):
            reason = f"is of another run ({differing})"
        else:
            return found
        raise DataError(self.best, reason, "restore it, or train anew into another --out")


def first_difference(found: Mapping[str, Any], own: Mapping[str, Any], but: Sequence[str]) -> str | None:
    """The first key of two flat configurations with two values; keys of one only are of another version."""
    for key in found:
        if key in own and key not in but and found[key] != own[key]:
            return f"{key} is {found[key]!r}, not {own[key]!r}"
    return None
