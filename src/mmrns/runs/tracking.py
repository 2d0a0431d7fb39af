"""The trackers of a training: opened before its first step, told its rows and what it came to, closed at its end."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from types import TracebackType
from typing import Any

from pydantic import RootModel

from mmrns.errors import note
from mmrns.files import read_json, write_json
from mmrns.runs.build import build_trackers
from mmrns.runs.config import Config, flatten, with_paths
from mmrns.runs.places import seen_from
from mmrns.runs.record import Kept
from mmrns.runs.stored import StoredRun
from mmrns.training.callbacks import Callback
from mmrns.training.trackers.base import Tracked, Tracker

FILE = "tracking.json"
"""The file in a run folder that says under which key each tracker keeps the run, and how many rows it was told."""


class _Log(Kept):
    key: str | None = None
    rows: int = 0


class _Logs(RootModel[dict[str, _Log]]):
    """What `FILE` holds, by tracker."""


class Tracking(Callback):
    """Tells trackers of a training. One that raises is told nothing more, which is said once; the training goes on.

    It is told of each row last, when other callbacks have added to it. Leaving the context closes the logs.

    Args:
        config: of the training.
        folder: of the run; None for one that is in memory.
        group: what the study is called that it is part of; None for a run by itself.

    Raises:
        UsageError: a package that a tracker needs is not installed.
    """

    def __init__(self, config: Config, folder: Path | None, group: str | None = None):
        self.config, self.folder, self.group = config, folder, group
        self.trackers: dict[str, Tracker] = build_trackers(config)
        self.logs: dict[str, dict[str, Any]] = {}
        self.rows, self.finished = 0, False

    def begin(self, step: int, rows: Sequence[dict[str, Any]], say: Callable[[str], None], *, goes_on: bool) -> None:
        """Open the logs, and tell those rows of earlier sittings that a tracker was not told.

        Args:
            step: steps done in earlier sittings.
            rows: the rows of metrics that are kept of them.
            say: is told where each log is.
            goes_on: there was an earlier sitting, whose logs are continued.
        """
        if not self.trackers:
            return
        path = None if self.folder is None else self.folder / FILE
        before: dict[str, Any] = {}
        if goes_on and path is not None and path.exists():
            before = read_json(path, _Logs, "restore it, or remove it: the trackers begin new logs")
        home = Path.cwd() if self.folder is None else self.folder.resolve().parent
        config = with_paths(self.config, self._place).model_dump(mode="json")
        for name, tracker in [*self.trackers.items()]:
            log = before.get(name, {})
            about = Tracked(self._name(), self.group, config, flatten(config), home, step, log.get("key"))
            self.logs[name] = {"key": None, "rows": log.get("rows", 0)}
            self._tell(name, lambda tracker=tracker, about=about, name=name: self._open(name, tracker, about, say))
        for row in rows:
            self.rows += 1
            self._log(row, again=False)
        self._keep()

    def _open(self, name: str, tracker: Tracker, about: Tracked, say: Callable[[str], None]) -> None:
        self.logs[name]["key"] = tracker.begin(about)
        where = tracker.where
        say(f"Tracked by {name}{f': {where}' if where else ''}.")

    def _place(self, key: str, value: str) -> str:
        return seen_from(self.folder, value) if self.folder is not None else Path(value).name

    def _name(self) -> str:
        if self.folder is not None:
            return self.folder.resolve().name
        # In memory there is nothing that keeps two runs of one configuration apart.
        return f"{self.config.default_folder.name}-{datetime.now():%Y%m%d-%H%M%S}"

    def on_row(self, row: dict[str, Any]) -> None:
        self.rows += 1
        self._log(row, again=True)
        if self.trackers:
            self._keep()

    def _log(self, row: Mapping[str, Any], again: bool) -> None:
        """Tell a row; where it was told before, only to whom drops what it was told of this step."""
        values = numbers({key: value for key, value in row.items() if key != "step"})
        for name, tracker in [*self.trackers.items()]:
            log = self.logs[name]
            if self.rows <= log["rows"] and not (again and tracker.drops):
                continue
            if self._tell(name, lambda tracker=tracker: tracker.log(row["step"], values)):
                log["rows"] = self.rows

    def finish(self, run: StoredRun) -> None:
        """Tell what the training came to."""
        self.finished = True
        if not self.trackers:
            return
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) if run.folder is None else run.folder / "plots"
            if run.folder is None:
                run.draw(folder)
            pictures, step = sorted(folder.glob("*.png")), run.results["selected_step"]
            found = summary(run.results)
            for name, tracker in [*self.trackers.items()]:
                self._tell(name, lambda tracker=tracker: tracker.end(step, found, pictures))

    def _tell(self, name: str, how: Callable[[], None]) -> bool:
        """Tell a tracker something; one that raises is let go."""
        try:
            # Whatever these packages have to say of themselves is not the user's concern.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                how()
        except Exception as error:
            tracker = self.trackers.pop(name)
            self._close(tracker)
            reason = shorten(str(error).strip() or type(error).__name__, _REASON, placeholder=" ...")
            note(f"{name} does not track the training any more ({reason}); the training goes on")
            return False
        return True

    def _close(self, tracker: Tracker) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                tracker.close(False)
            except Exception:  # It has failed before.
                return

    def _keep(self) -> None:
        if self.folder is not None:
            write_json(self.folder / FILE, self.logs)

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for name, tracker in [*self.trackers.items()]:
            if name in self.logs:
                self._tell(name, lambda tracker=tracker: tracker.close(self.finished))


_REASON = 200
"""Characters of a reason that are told."""


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of nested values, by name with `/` between its parts.

    >>> numbers({"loss": 0.5, "hardness": {"gradient_norm": {"model": 2}, "valid_negatives": None}})
    {'loss': 0.5, 'hardness/gradient_norm/model': 2.0}
    """
    found = {key.replace(".", "/"): value for key, value in flatten(values).items()}
    real = {
        key: value for key, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {key: float(value) for key, value in real.items() if math.isfinite(value)}


def summary(results: Mapping[str, Any]) -> dict[str, float]:
    """What `results.json` comes to: of each split the metrics of both sides by policy for ties, steps and seconds."""
    splits = {split: results[split]["both"] for split in ("valid", "test") if split in results}
    rest = {key: results[key] for key in ("baseline", "selected_step") if results.get(key) is not None}
    # `seconds` is a number of each row, and no name is another's folder.
    return numbers({**splits, **rest, "wall_seconds": results["seconds"]})
