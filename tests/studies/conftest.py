"""What the tests of studies share."""

from __future__ import annotations

import pytest

from mmrns.runs.stored import StoredRun


@pytest.fixture(autouse=True)
def drawn_by_the_study_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in this process draw no pictures, which take longer than their steps; those of the study are drawn."""
    monkeypatch.setattr(StoredRun, "draw", lambda run, folder: folder.mkdir(exist_ok=True))
