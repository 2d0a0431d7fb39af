"""What the pages show can be run: Python compiles, command lines parse, configurations are valid, examples pass."""

from __future__ import annotations

import re
import shlex
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
import yaml

from mmrns.cli import app
from mmrns.data.datasets import Dataset
from mmrns.runs.config import apply_settings, make_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def _blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def _commands(page: Path) -> Iterator[list[str]]:
    """Every `mmrns ...` of the shell blocks and of inline code, as its words."""
    text = page.read_text(encoding="utf-8")
    lines = [line.strip() for body in _blocks(page, "sh") for line in body.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`(mmrns [a-z][^`]*)`", FENCE.sub("", text))
    for line in [*lines, *inline]:
        words = shlex.split(line.replace("$seed", "0"), comments=True)
        if words[:1] == ["mmrns"]:
            yield words[1:]


def _parse(words: list[str]) -> dict[str, Any]:
    """The options of a command line; any error of usage is raised."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        context = command.make_context("mmrns", list(words))
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None, name
        if not words and hasattr(command, "commands"):
            return {}
    return command.make_context("mmrns", list(words)).params


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_compiles(page: Path) -> None:
    for number, block in enumerate(_blocks(page, "python")):
        compile(block, f"{page.name}:{number}", "exec")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_command_lines_parse(page: Path) -> None:
    for words in _commands(page):
        try:
            options = _parse(words)
        except Exception as error:
            raise AssertionError(f"mmrns {shlex.join(words)}: {error}") from error
        if options.get("settings"):
            method = {"sampler": {"name": options["sampler"]}} if options.get("sampler") else {}
            make_config(apply_settings(method, options["settings"]))


def test_commands_are_found_and_wrong_ones_refused() -> None:
    assert sum(1 for page in PAGES for _ in _commands(page)) > 20
    for wrong in ("teach", "train --sead 1", "evaluate", "data lst", "evaluate RUN --split train"):
        with pytest.raises(Exception, match=r"No such|Missing|not one of"):
            _parse(wrong.split())


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_configurations_are_valid(page: Path) -> None:
    for block in _blocks(page, "yaml"):
        make_config(yaml.safe_load(block))


def _run(name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(code, name, "exec"), module.__dict__)
    return module


def test_the_example_sampler_passes_its_own_test(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = _blocks(ROOT / "CONTRIBUTING.md", "python")
    sampler = next(block for block in blocks if "class Peers(" in block)
    test = next(block for block in blocks if "def test_draws_are_uniform_over_those_about_as_frequent" in block)
    cls = _run("mmrns.samplers.peers", sampler, monkeypatch).Peers
    _run("test_peers", test, monkeypatch).test_draws_are_uniform_over_those_about_as_frequent(toy)

    from mmrns.nn.model import Model
    from mmrns.nn.scorers import TransE
    from mmrns.types import Batch

    graph = toy.graph
    model = Model(TransE(4, 1.0), len(graph.entities), len(graph.relations))
    batch = Batch.of(graph.train[:64], torch.arange(64) % 3 == 0)
    drawn = cls(graph, toy.features, model.spec, negatives=50).draw(model.lookup(batch), model, 0)
    true = {tuple(row) for row in graph.train.tolist()}
    for b in range(len(batch)):
        h, r, t = int(batch.h[b]), int(batch.r[b]), int(batch.t[b])
        known = [((int(e), r, t) if batch.head[b] else (h, r, int(e))) in true for e in drawn.ids[b]]
        assert drawn.mask[b].tolist() == [not k for k in known]


def test_the_example_scorer_scores_both_sides_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    block = next(b for b in _blocks(ROOT / "CONTRIBUTING.md", "python") if "class ComplEx(" in b)
    imports = "import torch\nfrom mmrns.nn.kernels import comparisons\n"
    imports += "from mmrns.nn.scorers import Candidates, Queries, Scorer, Scores\n"
    scorer = _run("complex_example", imports + block, monkeypatch).ComplEx(2, 1.0)
    h, r, t = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    as_complex = [torch.complex(*x.chunk(2, dim=1)) for x in (h, r, t)]
    expected = (as_complex[0] * as_complex[1] * as_complex[2].conj()).real.sum(1)
    for anchor, target, head in ((h, t, False), (t, h, True)):
        query = scorer.query(anchor, r, head)
        torch.testing.assert_close(scorer.compare(query, target[:, None]).squeeze(1), expected)
        torch.testing.assert_close(scorer.compare(query, target).diagonal(), expected)
