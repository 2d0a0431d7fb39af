"""`mmrns inspect`: the page as a process; table, JSON and mistakes in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mmrns
from mmrns.cli.inspect import inspect
from mmrns.cli.options import Side
from mmrns.cli.show import out
from mmrns.errors import UsageError

TRIPLE = ("e08", "part_of", "e02")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from toy import write_toy

    folder = tmp_path_factory.mktemp("cli-inspect")
    config = {
        "data": {"dataset": str(write_toy(folder / "toy"))},
        "model": {"dim": 8},
        "sampler": {"name": "mmrns", "negatives": 6, "discount": 0.25},
        "training": {"steps": 4, "batch_size": 64, "evaluate_every": 4},
        "device": "cpu",
    }
    return mmrns.train(config, out=folder / "run", plots=False).folder


def test_the_page_as_a_process(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    triple = ["--head", "e08", "--relation", "part_of", "--tail", "e02"]
    command = [sys.executable, "-m", "mmrns", "inspect", run, *triple, "--against", "likes", "--steps=3", "--out", page]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    # On a slow machine after lines of progress.
    assert done.stderr.splitlines()[-1] == f"page in {page}"
    text = page.read_text(encoding="utf-8")
    assert text.count("<h2 ") == 3  # The two sides and the notes.
    assert text.count('<table class="negatives">') == 4
    assert "Entity 8" in text
    assert "<img" not in text
    assert not list(tmp_path.glob("*.tmp"))


def test_json_and_table_say_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"side": Side.tail, "sampler": ["uniform", "mmrns", "uniform"], "steps": 4, "top": 3}
    inspect(run, *TRIPLE, **options, as_json=True)
    found = json.loads(capsys.readouterr().out)
    expected = mmrns.load_run(run).inspect(*TRIPLE, side="tail", samplers=["uniform"], steps=4, top=3)
    assert found == expected
    monkeypatch.setattr(out, "_width", 200)
    inspect(run, *TRIPLE, **options)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    (query,) = found["queries"]
    own, uniform = query["samplers"]
    assert lines[0][:4] == ["Entity", "8", "part_of", "?"]
    assert lines[1][:2] == ["mmrns:", "trained;"]
    assert lines[2] == ["negative", "probability", "drawn", "score", "rank", "image", "text", "pmi", "known"]
    assert [line[:2] for line in lines[3:6]] == [found["names"][n["entity"]].split() for n in own["negatives"]]
    assert lines[6][:4] == ["uniform:", "nothing", "to", "train;"]
    assert "probabilities are exact; it compares no modalities" in " ".join(lines[6])
    assert [line[:2] for line in lines[8:]] == [found["names"][n["entity"]].split() for n in uniform["negatives"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": Path("page.pdf")}, "--out page.pdf: the page is HTML; name it page.html"),
        ({"file": Path("nowhere/page.html")}, "--out nowhere/page.html: no folder 'nowhere'; choose another place"),
        ({"sampler": ["unifrm"]}, "unknown method 'unifrm'; did you mean 'uniform'?"),
        ({"against": ["like"]}, "unknown relation 'like'; did you mean 'likes'?"),
        ({"relation": "part-of"}, "unknown relation 'part-of'; did you mean 'part_of'?"),
        ({"head": "e8"}, "unknown entity 'e8'; did you mean "),
    ],
)
def test_mistakes_are_one_line(
    run: Path, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    head, relation, tail = TRIPLE
    with pytest.raises(UsageError) as raised:
        inspect(run, **{"head": head, "relation": relation, "tail": tail, "steps": 1, **options})
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())
