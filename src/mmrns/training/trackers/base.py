"""What a tracker is told, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mmrns.registry import Named, Registry


@dataclass(frozen=True)
class Tracked:
    """The training that a tracker is opened for.

    Attributes:
        name: what the run is called.
        group: what the study is called that it is part of; None for a run by itself.
        config, settings: the configuration in plain values, nested and by dotted key; its paths tell nothing of the
            folders above.
        folder: where what is kept in files goes: the folder that holds the run's own, so that runs share it.
        step: steps done in earlier sittings; 0 = a new training.
        key: what `begin` returned in an earlier sitting; None in the first one.
    """

    name: str
    group: str | None
    config: Mapping[str, Any]
    settings: Mapping[str, Any]
    folder: Path
    step: int = 0
    key: str | None = None


class Tracker(Named):
    """Keeps the configuration, the metrics and the pictures of a training where another program shows them.

    To add one, subclass it with a `name` and list that in `training.track`; it is made without arguments. What it
    raises ends the tracking, and not the training. Heavy imports belong into `begin`.

    Attributes:
        needs: the package that it cannot do without, as it is imported; empty = none.
        extra: the extra of `mmrns` that brings this package.
        drops: True = a log that goes on drops what it has of later steps than `Tracked.step`, so that these are told
            again; False = whatever was told in an earlier sitting is not told again.
    """

    registry: ClassVar[Registry[Tracker]] = Registry("tracker", "mmrns.training.trackers")
    needs: ClassVar[str] = ""
    extra: ClassVar[str] = "track"
    drops: ClassVar[bool] = False

    def begin(self, training: Tracked) -> str | None:
        """Open the log before the first step of a sitting.

        Returns:
            What finds it again when the training goes on.
        """
        return None

    @property
    def where(self) -> str:
        """How to look at what is kept, in a few words; nothing = not to be told. Asked once the log is open."""
        return ""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the numbers of a row of metrics, after so many steps; parts of a name are separated by `/`."""

    def end(self, step: int, results: Mapping[str, float], pictures: Sequence[Path]) -> None:
        """Keep the final metrics, which are of the selected step, and the pictures, PNG files."""

    def close(self, finished: bool) -> None:
        """Close the log: the training is finished, or it was interrupted or failed and may go on."""
