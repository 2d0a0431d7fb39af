"""Whether the files of a finished run folder are those that the run wrote."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mmrns.data.writing import GRAPH_FILES
from mmrns.errors import DataError
from mmrns.files import sha256_of, write_text
from mmrns.runs.config import PATHS, flatten
from mmrns.runs.values import read_config

KEPT = "dataset"
"""The folder in a run's that holds the triples and names of its training: a dataset; in a bundle also features."""
KEPT_FILES = tuple(f"{KEPT}/{name}" for name in GRAPH_FILES)
"""The files of the run in it."""
RUN_FILES = (
    "config.yaml",
    "record.json",
    "metrics.jsonl",
    "model.safetensors",
    "sampler.safetensors",
    "entities.txt",
    "relations.txt",
    *KEPT_FILES,
    "results.json",
)
"""What a finished run is made of, beside checkpoints and plots."""
SUMS = "SHA256SUMS"
"""The digests of those, one a line, as `sha256sum` writes them."""
PLACES = ("device", "threads", *PATHS)
"""What says where a run is and not what it is: that may be another one after a move."""
REMEDY = "restore it, or remove results.json and have `mmrns train --resume` write the rest anew from its checkpoint"
"""What to do about a file that is not what the run wrote."""


def write_sums(folder: Path, results: str) -> None:
    """Write the digests of a run folder.

    Args:
        folder: the run folder, of which all is written but the results.
        results: the SHA-256 of those: they come last, so that a folder that has them has all.
    """
    sums = {name: results if name == "results.json" else _digest(folder / name) for name in RUN_FILES}
    write_text(folder / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def verify(folder: Path, *names: str) -> None:
    """Hold files of a run folder against the digests that the run wrote; a folder without them is of before.

    Raises:
        DataError: a file is missing or not what the run wrote.
    """
    sums = _sums(folder)
    if sums is None:
        return
    for name in names:
        remedy = "restore it" if name == "config.yaml" else REMEDY
        try:
            found = _digest(folder / name)
        except OSError as error:
            raise DataError(folder / name, f"cannot be read ({error.strerror})", remedy) from error
        if found != sums.get(name):
            message = f"is not the file that the run wrote, by its SHA-256 in {SUMS}"
            raise DataError(folder / name, message, remedy)


def keeps(folder: Path) -> bool:
    """Whether a run folder holds the triples and names of its training, or should; those of before do not."""
    return (folder / KEPT_FILES[0]).exists() or KEPT_FILES[0] in (_sums(folder) or {})


def model_digest(folder: Path) -> str | None:
    """The SHA-256 of the model that a run wrote; None where it is not told."""
    return (_sums(folder) or {}).get("model.safetensors")


def _sums(folder: Path) -> dict[str, str] | None:
    """The digests that the run wrote, by file; None where there are none."""
    path = folder / SUMS
    if not path.exists():
        return None
    try:
        return {name: digest for digest, name in (line.split("  ") for line in path.read_text().splitlines())}
    except (OSError, ValueError) as error:
        raise DataError(path, "is no list of SHA-256 digests", REMEDY) from error


def _digest(path: Path) -> str:
    """The SHA-256 of a file; of a configuration that of its settings, without `PLACES`."""
    if path.name != "config.yaml":
        return sha256_of(path)
    settings = {key: value for key, value in flatten(read_config(path)).items() if key not in PLACES}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
