"""The examples of `add-a-format.md` and `add-an-encoder.md` are complete: they run as they stand."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmrns.prepare.encoders import ENCODERS
from mmrns.prepare.formats import LAYOUTS

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """What the examples register is gone afterwards."""
    kept = [(registry, registry.names()) for registry in (LAYOUTS, ENCODERS)]
    yield
    for registry, names in kept:
        for name in set(registry.names()) - set(names):
            del registry._classes[name]


def run(page: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> types.ModuleType:
    """Run the Python blocks of a page, in order, as one module in a folder of its own."""
    monkeypatch.chdir(folder)
    module = types.ModuleType(page.removesuffix(".md").replace("-", "_"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    blocks = FENCE.findall((PAGES / page).read_text(encoding="utf-8"))
    assert blocks
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page}:{number}", "exec"), module.__dict__)
    return module


def test_the_layout_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = run("add-a-format.md", monkeypatch, tmp_path)
    assert capsys.readouterr().out == "jsonl {'train': 3} 3\n"
    assert module.convert("people.jsonl", "again", layout=module.JsonLines).entities == 3
    assert module.convert("people.jsonl", "twice", layout="add_a_format:JsonLines").layout == "jsonl"


def test_the_encoder_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = run("add-an-encoder.md", monkeypatch, tmp_path)
    assert capsys.readouterr().out == "2 entities, (3, 26) tokens and width\n"
    for same in (module.LetterCounts, module.LetterCounts(), "add_an_encoder:LetterCounts"):
        assert module.encode_texts(module.folder, same, tokens=3).new == 0
