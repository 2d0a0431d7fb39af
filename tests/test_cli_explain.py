"""`mmrns explain`: as a process; JSON and tables in this one; mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mmrns
from mmrns.cli.explain import explain
from mmrns.cli.options import Side
from mmrns.cli.show import out
from mmrns.errors import UsageError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from toy import SHORT, write_toy

    folder = tmp_path_factory.mktemp("cli-explain")
    write_toy(folder / "toy")
    settings = SHORT | {"threads": 1}
    given: dict[str, Any] = {"method": "self-adversarial", "modalities": ["text"], "settings": settings}
    return mmrns.train(dataset=folder / "toy", out=folder / "run", device="cpu", **given, plots=False).folder


def test_as_a_process(run: Path) -> None:
    command = [sys.executable, "-m", "mmrns", "explain", run, "--head", "ENTITY 8", "--relation", "part_of", "--json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == mmrns.load_run(run).explain("e08", "part_of", None, top=5)


def test_tables_say_what_the_json_says(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(out, "_width", 200)
    explain(run, "e08", "knows", "e02", side=Side.head, top=3)
    text = capsys.readouterr().out
    found = mmrns.load_run(run).explain("e08", "knows", "e02", side="head", top=3)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0].startswith("e08 (Entity 8) knows e02 (Entity 2) in no split; the head has rank ")
    assert f"the head has rank {found['rank']} of {found['candidates']}" in lines[0]
    assert lines[3] == "part adds rank_without weight own_score own_rank"
    assert [line.split()[0] for line in lines[4:6]] == ["structure", "text"]
    named = found["names"]
    for one in found["influence"]:
        row = f"{one['head']} ({named[one['head']]}) {one['relation']} {one['tail']} ({named[one['tail']]})"
        assert f"{row} {one['change']:.4f}" in lines
    for one in found["similar"]:
        row = f"{one['entity']} ({named[one['entity']]}) {one['instead_of']} {one['similarity']:.4f} {one['by']}"
        assert row in lines
    for path in found["paths"]:
        (first, relation, _), _ = path["triples"]
        assert any(line.startswith(f"{first} ({named[first]}) {relation}") for line in lines)
    headings = [line for line in lines if line.startswith(("train triples", "paths of"))]
    assert [line.endswith(": none") for line in headings] == [
        not found[key] for key in ("influence", "similar", "inverse", "paths")
    ]
    assert found["influence"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": None, "tail": None}, "give --relation, and --head or --tail or both"),
        ({"relation": None}, "give --relation, and --head or --tail or both"),
        ({"tail": " "}, "--tail is empty; say which one"),
        ({"relation": "part-of"}, "unknown relation 'part-of'; did you mean 'part_of'?"),
        ({"tail": None, "side": Side.head}, "the tail is left out, so that it is asked for; leave side=head out"),
    ],
)
def test_mistakes_are_one_line(run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        explain(run, **{"head": "e08", "relation": "part_of", "tail": "e02", **options})
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
