"""Checkpoints of several processes: each writes what it has, and the set of them counts once all are written.

A checkpoint is a folder of its own, `checkpoint/NUMBER/`, with a file `RANK-of-W.safetensors` from each process: the
rows of its entities, their moments in the optimizer, and from the first one all the rest. `checkpoint/last.json` names
the folder; it is replaced once every file is there, so that a set counts whole or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, PositiveInt
from torch import Tensor, nn

from mmrns.files import StoredTensors, make_folder, read_json, tensor_on_disk, write_json, write_tensors
from mmrns.nn.model import Model
from mmrns.training.checkpoint import Checkpoint, contents, write_checkpoint
from mmrns.training.progress import Progress
from mmrns.training.trainer import Trainer
from mmrns.training.world import Parting, World

_REMEDY = "restore it, or train anew into another --out"

_BLOCK = 2**24
"""Bytes of a table that every process is given at a time where it is put together."""


class Pointer(BaseModel):
    """`last.json` and `best.json`: the folder of a checkpoint, the step it is of, and how many files it has."""

    folder: str
    step: int
    size: PositiveInt


def parted_names(trainer: Trainer, names: Iterable[str]) -> list[str]:
    """Those tensors of a checkpoint whose rows are entities that processes have parts of: tables, and their moments."""
    parted = trainer.model.parted
    own = {id(parameter) for parameter in parted.values()}
    places = {f"model.{name}" for name in parted}
    for n, part in enumerate(trainer.optimizer.parts):
        parameters = [parameter for group in part.param_groups for parameter in group["params"]]
        places |= {f"optimizer.{n}.{index}" for index, parameter in enumerate(parameters) if id(parameter) in own}
    return sorted(
        name for name in names if name in places or (name.rpartition(".")[0] in places and not name.endswith(".step"))
    )


def save_shards(
    folder: Path, trainer: Trainer, progress: Progress, extra: Mapping[str, Any], *, best: bool = False
) -> None:
    """Write a checkpoint, of which this process has a part; every process calls it.

    Args:
        folder: `checkpoint/`.
        trainer, progress, extra: see `save_checkpoint`; what the first process says of the last two counts.
        best: it is also the best model so far.

    Raises:
        DataError: it cannot be written; what was there before is kept.
        Ended: another process could not write its part.
    """
    world = trainer.world
    make_folder(folder)
    # Never a name that was used: what is left of a set that did not come to be must not be taken for a part of this.
    used = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()] if world.first else []
    name = world.tell(f"{max(used, default=0) + 1:08d}")[0]
    world.together(lambda: _write(folder / name, trainer, progress, extra))

    def point() -> None:
        pointer = {"folder": name, "step": progress.step, "size": world.size}
        write_json(folder / "last.json", pointer)
        if best:
            write_json(folder / "best.json", pointer)
        drop_unnamed(folder)

    world.together(point, alone=True)


def _write(folder: Path, trainer: Trainer, progress: Progress, extra: Mapping[str, Any]) -> None:
    world = trainer.world
    make_folder(folder)
    tensors, document = contents(trainer, progress, extra)
    parted = parted_names(trainer, tensors)
    shard = {"rank": world.rank, "size": world.size, "entities": trainer.model.n_entities, "parted": parted}
    if not world.first:
        tensors = {name: tensors[name] for name in parted}
        document |= {"extra": {}, "scalars": {}}
    write_checkpoint(folder / _file(world.rank, world.size), tensors, document | {"shard": shard})


def drop_unnamed(folder: Path) -> None:
    """Remove the checkpoints that neither `last.json` nor `best.json` names."""
    pointers = (folder / f"{name}.json" for name in ("last", "best"))
    named = {Pointer(**read_json(path, Pointer, _REMEDY)).folder for path in pointers if path.exists()}
    for path in folder.iterdir():
        if path.name.isdecimal() and path.name not in named:
            shutil.rmtree(path, ignore_errors=True)


def read_shards(pointer: Path, trainer: Trainer) -> Checkpoint:
    """Read what a process needs of a checkpoint that processes have written together, however many.

    Args:
        pointer: `last.json` or `best.json`.
        trainer: whose part is wanted; that of one process is all of it.

    Raises:
        DataError: a file is missing or damaged.
    """
    found = Pointer(**read_json(pointer, Pointer, _REMEDY))
    folder = pointer.parent / found.folder
    first = Checkpoint.read(folder / _file(0, found.size))
    assert first.shard is not None
    wanted = _own_ids(trainer)
    before = Parting(first.shard["entities"], found.size)
    owner = before.owner(wanted)
    shards = {
        rank: first.tensors if rank == 0 else Checkpoint.read(folder / _file(rank, found.size)).tensors
        for rank in {0, *torch.unique(owner).tolist()}
    }
    tensors = _OwnTensors(shards, first.shard["parted"], owner, before.place(wanted))
    return replace(first, path=pointer, tensors=tensors, shard=None)


def own_part(whole: Checkpoint, trainer: Trainer) -> Checkpoint:
    """What a process needs of a checkpoint that one process has written."""
    ids, parted = _own_ids(trainer), parted_names(trainer, whole.tensors)
    return replace(whole, tensors=_OwnTensors({0: whole.tensors}, parted, torch.zeros_like(ids), ids))


@torch.no_grad()
def write_whole(path: Path, module: nn.Module, world: World) -> None:
    """Write the state of a module in one piece, whoever has the rows of it.

    Every process calls it, and the first one writes. The rows of the others go through its memory a few megabytes at a
    time.

    Raises:
        DataError: it cannot be written.
    """
    parted, n_entities = (module.parted, module.n_entities) if isinstance(module, Model) else ({}, 0)
    with ExitStack() as held:
        state: dict[str, Tensor] = {}
        for name, values in module.state_dict().items():
            state[name] = values
            if name in parted:
                rows = _rows_of_all(values, n_entities, world)
                if world.first:
                    state[name] = held.enter_context(tensor_on_disk(path, rows))
                else:
                    for _ in rows:
                        pass
        if world.first:
            write_tensors(path, state)


def _rows_of_all(own: Float[Tensor, "n *w"], n_entities: int, world: World) -> Iterator[Float[Tensor, "m *w"]]:
    """The rows of all entities, in the order of their ids."""
    parting = Parting(n_entities, world.size)
    size = max(1, _BLOCK // max(1, own[:1].nbytes))
    for first in range(0, n_entities, size):
        ids = torch.arange(first, min(first + size, n_entities), device=own.device)
        owner = parting.owner(ids)
        yield world.gather(own[parting.place(ids[owner == world.rank])], owner)


def own_weights(stored: StoredTensors, model: Model, world: World) -> dict[str, Tensor]:
    """What a process has of the weights of a model, which are in one piece; that of one process has all of them."""
    ids = Parting(model.n_entities, world.size).ids(world.rank)
    parted = model.parted.keys()
    return {name: stored.rows(name, ids) if name in parted else stored[name] for name in stored}


class _OwnTensors(Mapping[str, Tensor]):
    """What a process needs of the tensors of a checkpoint, each read when it is asked for.

    Args:
        files: the tensors of each file that has some of it, by rank; 0 is among them.
        parted: the names of those of which a process needs the rows of its entities.
        owner, place: for each of these entities the file that has it, and its row there.
    """

    def __init__(
        self,
        files: Mapping[int, Mapping[str, Tensor]],
        parted: Iterable[str],
        owner: Int[Tensor, " n"],
        place: Int[Tensor, " n"],
    ):
        self._files, self._parted, self._owner, self._place = files, frozenset(parted), owner, place

    def __iter__(self) -> Iterator[str]:
        return iter(self._files[0])

    def __len__(self) -> int:
        return len(self._files[0])

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._parted:
            return self._files[0][name]
        found: Tensor | None = None
        for rank in torch.unique(self._owner).tolist():
            mine, tensors = (self._owner == rank).nonzero().squeeze(1), self._files[rank]
            assert isinstance(tensors, StoredTensors)
            rows = tensors.rows(name, self._place[mine])
            if len(mine) == len(self._owner):
                return rows
            found = rows.new_empty(len(self._owner), *rows.shape[1:]) if found is None else found
            found[mine] = rows
        assert found is not None
        return found


def _own_ids(trainer: Trainer) -> Int[Tensor, " n"]:
    world, n_entities = trainer.world, trainer.model.n_entities
    return torch.arange(n_entities) if world.size == 1 else Parting(n_entities, world.size).ids(world.rank)


def _file(rank: int, size: int) -> str:
    return f"{rank}-of-{size}.safetensors"
