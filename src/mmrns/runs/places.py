"""Where the files lie that a configuration names, written so that a run can be used, moved and published elsewhere.

In a run folder a path is written as it is seen from that folder: it tells nothing of the folders above those that both
are in, and stays true where they are moved together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmrns.data.folders import dataset_folders, is_dataset
from mmrns.errors import note

PATHS = ("data.dataset", "sampler.path")
"""The keys of a configuration whose values are paths, or may be."""


def absolute(key: str, value: str) -> str:
    """A path of the working directory as an absolute one; a dataset's name, and what is not there, as it is."""
    # `os.path`, since the methods of a path raise on a name that is too long, holds a null or a user who is nobody.
    path = os.path.expanduser(value)
    there = os.path.isdir(path) and value not in dataset_folders() if key == "data.dataset" else os.path.exists(path)
    return str(Path(path).resolve()) if there else value


def seen_from(folder: Path, value: str) -> str:
    """An absolute path as it is written into a file of a folder; anything else as it is.

    What lies in the user's home, while the folder does not, begins with `~`: the home's name is nobody's business.
    """
    path = Path(value)
    if not path.is_absolute():
        return value
    base, home = folder.resolve(), _home()
    if home is not None and path.is_relative_to(home) and not base.is_relative_to(home):
        return str(Path("~") / path.relative_to(home))
    try:
        found = Path(os.path.relpath(path, base))
    except ValueError:  # Another drive.
        return path.name
    # A dot first, so that it is not taken for the name of a dataset.
    return str(found) if found.parts[0] == ".." else os.path.join(".", found)


def _home() -> Path | None:
    try:
        return Path.home().resolve()
    except RuntimeError:
        return None


def beside(values: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Nested values of a configuration's file, their relative paths as seen from it, or from the working directory.

    Where both have such a file the one beside the configuration is taken, and that is said.
    """
    found = dict(values)
    for key in PATHS:
        section, name = key.split(".")
        given = found.get(section)
        if isinstance(given, Mapping) and isinstance(value := given.get(name), str):
            found[section] = {**given, name: _beside(key, value, file)}
    return found


def _beside(key: str, value: str, file: Path) -> str:
    if not value or (key == "data.dataset" and value in dataset_folders()):
        return value
    path = Path(os.path.expanduser(value))
    try:
        own = (file.parent / path).resolve()
    except (OSError, ValueError):  # No path at all.
        return value
    if os.path.exists(own):
        if os.path.exists(path) and not path.samefile(own):
            note(f"{file}: {key} is {value!r} beside this file, not the one in the working directory")
        return str(own)
    # What is nowhere is told by its place, and a name by itself.
    return str(own) if value.startswith(".") and not os.path.exists(path) else str(path)


def dataset_of_run(recorded: str, name: str, run: Path) -> Path | None:
    """The folder of a run's dataset: where it was, or of the same name where datasets are found, or above the run.

    Args:
        recorded: what the run's configuration says: a name or a path.
        name: what the dataset is called.
        run: the run folder.
    """
    known = dataset_folders()
    if recorded in known:
        return known[recorded]
    if os.path.isdir(recorded):
        return Path(recorded)
    above = (folder / name for folder in [Path.cwd(), *run.resolve().parents[:3]])
    found = known.get(name) or next((folder for folder in above if is_dataset(folder)), None)
    if found is not None:
        note(f"{run}: its dataset is not where it was; {found} is taken, which has the same name")
    return found
