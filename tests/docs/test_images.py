"""The pictures of the documentation: shown somewhere, and those of recorded studies as they are drawn there."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
RECORDED = {
    "mrr-countries.png": "experiments/countries/equal-time/mrr.png",
}


def test_every_picture_is_shown() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    assert [path.name for path in IMAGES.iterdir() if f"images/{path.name})" not in pages] == []


@pytest.mark.parametrize("name", RECORDED)
def test_a_picture_of_a_recorded_study_is_the_one_beside_its_records(name: str) -> None:
    same = (IMAGES / name).read_bytes() == (ROOT / RECORDED[name]).read_bytes()
    assert same, f"copy {RECORDED[name]} to docs/images/{name}"
