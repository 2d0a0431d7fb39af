"""The tables of the pages are what `scripts/docs_tables.py` makes of the code; the step is quoted from its source."""

from __future__ import annotations

import importlib.util
import inspect
import re
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from mmrns.runs.config import Config, flatten, make_config
from mmrns.runs.methods import method_names
from mmrns.samplers.base import Sampler
from mmrns.training.trainer import Trainer

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_tables", ROOT / "scripts" / "docs_tables.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=[path.stem for path in PAGES])
def test_tables_are_those_of_the_code(tables: ModuleType, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == tables.rewritten(text), "run: python scripts/docs_tables.py"


def test_every_table_has_its_place(tables: ModuleType) -> None:
    placed = {name for page in PAGES for _, name, _ in tables.REGION.findall(page.read_text(encoding="utf-8"))}
    assert placed == set(tables.TABLES)


def test_every_key_has_a_row() -> None:
    rows = set(re.findall(r"^\| `([\w.]+)` \|", (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"), re.M))
    ours = [name for name in method_names() if name not in Sampler.registry.names()]
    ours += [n for n in Sampler.registry.names() if Sampler.registry.get(n).__module__.startswith("mmrns.")]
    for method in ours:
        keys = flatten(make_config({"method": method}).model_dump())
        assert {re.sub(r"(\.other|\.pool_sampler)\..*", r"\1", key) for key in keys} <= rows
    assert set(Config.model_fields) & {"seed", "device", "method"} <= rows


def test_prose_may_stand_in_a_cell(tables: ModuleType) -> None:
    assert tables.prose("a `b|c` |x|_p <h,\n  r> *") == r"a `b|c` \|x\|\_p \<h, r\> \*"


def test_the_step_is_quoted_from_its_source() -> None:
    page = (ROOT / "docs" / "step.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^```python\n# quoted from [^\n]*\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    sources = Trainer.step, Trainer.descend, Trainer.compare
    for block, of in zip(quoted, sources, strict=True):
        assert block in textwrap.dedent(inspect.getsource(of)).replace("\n    ", "\n")
