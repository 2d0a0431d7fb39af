"""`docs/configuration.md` names every key with its default, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmrns.nn.scorers import Scorer
from mmrns.runs.config import METHODS, flatten, make_config
from mmrns.training.batches import SidePolicy

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
ROW = re.compile(r"^\| `([\w.]+)` \| `([^`]*)` \| .+ \|$")
OPTIONS = re.compile(r"^Options of (.+):$")


def _tables() -> list[tuple[set[str], dict[str, Any]]]:
    """The key tables in order: whom a table is for (nobody in particular: the empty set) and its defaults."""
    tables: list[tuple[set[str], dict[str, Any]]] = []
    owners: set[str] = set()
    inside = False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if options := OPTIONS.match(line):
            owners = set(re.findall(r"[\w-]+", options[1].replace("`", "").replace(" and ", ", ")))
        if line.startswith("| key | default |"):
            tables.append((owners, {}))
            owners, inside = set(), True
        elif not line.startswith("|"):
            inside = False
        elif inside and (row := ROW.match(line)):
            key, default = row.groups()
            assert key not in tables[-1][1], f"{key} twice in one table"
            tables[-1][1][key] = yaml.safe_load(default)
    return tables


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scorer", Scorer.registry.names())
def test_every_key_with_its_default(method: str, scorer: str) -> None:
    config = make_config({"model": {"scorer": scorer}, "sampler": {"name": method}})
    actual = flatten(config.model_dump(mode="json"))
    general = flatten(make_config({}).model_dump(mode="json"))
    actual |= {key: general[key] for key in ("model.scorer", "sampler.name")}
    page: dict[str, Any] = {}
    for owners, rows in _tables():
        if not owners or owners & {method, scorer}:
            page |= rows
    assert page == actual
    assert {key: type(value) for key, value in page.items()} == {key: type(value) for key, value in actual.items()}


def test_options_belong_to_something_that_exists() -> None:
    owners = set().union(*(owners for owners, _ in _tables()))
    assert owners <= {*METHODS, *Scorer.registry.names()}


def test_what_methods_stand_for() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| `(\w+)` \| ([\d.]+) \| `(\w+)` \|$", PAGE.read_text(encoding="utf-8"), re.M)
    page: dict[str, tuple[str, float, SidePolicy | str]] = {n: (s, float(a), sides) for n, s, a, sides in rows}
    assert page == {name: (m.sampler, m.alpha, m.sides) for name, m in METHODS.items()}
