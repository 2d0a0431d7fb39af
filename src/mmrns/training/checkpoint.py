"""Checkpoints: one safetensors file with everything that a bit-equal resume needs."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from mmrns.errors import DataError
from mmrns.files import read_tensors, write_tensors
from mmrns.training.progress import Progress
from mmrns.training.trainer import Trainer


def save_checkpoint(path: Path, trainer: Trainer, progress: Progress, extra: Mapping[str, Any]) -> None:
    """Model, sampler, optimizer and progress in one file; random numbers are functions of (seed, step), so no state.

    Args:
        path: `checkpoint/last.safetensors` or `best.safetensors`.
        trainer: what is trained.
        progress: how far.
        extra: JSON values of the run (length of its metrics file, ...).
    """
    optimizer = trainer.optimizer.state_dict()
    tensors = {
        **{f"model.{k}": v for k, v in trainer.model.state_dict().items()},
        **{f"sampler.{k}": v for k, v in trainer.sampler.state_dict().items()},
    }
    scalars: dict[str, Any] = {}
    for n, part in enumerate(optimizer):
        for index, state in part["state"].items():
            for key, value in state.items():
                (tensors if isinstance(value, Tensor) else scalars)[f"optimizer.{n}.{index}.{key}"] = value
    document = {
        "progress": asdict(progress),
        "groups": [part["param_groups"] for part in optimizer],
        "scalars": scalars,
        "extra": dict(extra),
    }
    write_tensors(path, tensors, {"mmrns": json.dumps(document)})


def load_checkpoint(path: Path, trainer: Trainer) -> tuple[Progress, dict[str, Any]]:
    """Put a checkpoint's state into a freshly built trainer.

    Raises:
        DataError: not a checkpoint, or one of another model.
    """
    tensors, metadata = read_tensors(path)
    with _fitting(path):
        document = json.loads(metadata["mmrns"])
        trainer.model.load_state_dict(_part(tensors, "model."))
        trainer.sampler.load_state_dict(_part(tensors, "sampler."))
        parts: list[dict[str, Any]] = [{"state": {}, "param_groups": groups} for groups in document["groups"]]
        for name, value in [*_part(tensors, "optimizer.").items(), *_part(document["scalars"], "optimizer.").items()]:
            n, index, key = name.split(".")
            parts[int(n)]["state"].setdefault(int(index), {})[key] = value
        trainer.optimizer.load_state_dict(parts)
        return Progress(**document["progress"]), document["extra"]


def load_weights(path: Path, trainer: Trainer) -> None:
    """Put only the model's and the sampler's weights of a checkpoint into place.

    Raises:
        DataError: not a checkpoint, or one of another model.
    """
    tensors, _ = read_tensors(path)
    with _fitting(path):
        trainer.model.load_state_dict(_part(tensors, "model."))
        trainer.sampler.load_state_dict(_part(tensors, "sampler."))


@contextmanager
def _fitting(path: Path) -> Generator[None]:
    """What has other keys, types or sizes than it should may raise anything on the way to its place."""
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(path, f"does not fit the run's configuration ({reason})", "train again") from error


def _part(items: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in items.items() if k.startswith(prefix)}
