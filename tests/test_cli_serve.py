"""`mmrns serve` as a process, and what it refuses."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import mmrns
from mmrns.cli import main
from mmrns.errors import MmrnsError, UsageError
from mmrns.serve.access import read_token
from mmrns.serve.process import listen

TOKEN = "of-sixteen-letters-at-least"


def ask(address: str, path: str, token: str | None = TOKEN) -> Any:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    with urllib.request.urlopen(urllib.request.Request(address + path, headers=headers), timeout=60) as answer:
        return json.load(answer)


def test_a_process_answers_and_ends_when_it_is_told_to(tmp_path: Path) -> None:
    settings = {"training.steps": 2, "training.evaluate_every": 2, "model.dim": 4}
    mmrns.train(dataset="countries", method="uniform", settings=settings, out=tmp_path / "run", plots=False)
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    command = [sys.executable, "-m", "mmrns", "serve", "run", "--port", "0", "--token-file", "token"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            found = next(match for line in lines if (match := re.search(r"serving run at (http://127\S+) with", line)))
            assert ask(found[1], "/api/v1/health", None)["status"] == "ok"
            with pytest.raises(urllib.error.HTTPError, match="401"):
                ask(found[1], "/api/v1/runs", None)
            answer = ask(found[1], "/api/v1/predict?head=France&relation=borders&top=2")
            assert [one["rank"] for one in answer["answers"]] == [1, 2]
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr.read() == "ended\n"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "--host", "0.0.0.0"], 2, "open to other machines; give a token by --token-file FILE or $MMRNS_TOKEN"),
        (["run", "--token-file", "none"], 1, "none: cannot be read"),
        (["run", "--token-file", "short"], 2, "a token is one line of at least 16 letters"),
        (["run", "--token-file", "short", "--no-token"], 2, "give either --token-file or --no-token"),
        (["run", "--port", "0"], 1, "run: holds no finished run"),
        (["run", "--host", "no.such.host.invalid", "--no-token"], 1, "cannot listen at no.such.host.invalid"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_served(
    words: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMRNS_TOKEN", raising=False)
    Path("short").write_text("hush")
    monkeypatch.setattr(sys, "argv", ["mmrns", "serve", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert "hush" not in lines[0]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setitem(sys.modules, "mmrns.serve.process", None)
    monkeypatch.delitem(sys.modules, "mmrns.serve.process")
    monkeypatch.setattr(sys, "argv", ["mmrns", "serve", "run"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "pip install 'mmrns[serve]'" in capsys.readouterr().err


def test_the_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMRNS_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("MMRNS_TOKEN", f" {TOKEN} ")
    assert read_token(None) == TOKEN
    (tmp_path / "file").write_text("another-token-of-length\n")
    assert read_token(tmp_path / "file") == "another-token-of-length"
    for wrong in ("", "short", "with a blank in the middle", "ünïcödé-and-long-enough", "two-lines-of-\nsome-length"):
        monkeypatch.setenv("MMRNS_TOKEN", wrong)
        with pytest.raises(UsageError, match="a token is one line"):
            read_token(None)


def test_a_port_that_is_taken_is_said() -> None:
    with listen("127.0.0.1", 0) as sock, pytest.raises(MmrnsError, match="choose another --port"):
        listen("127.0.0.1", sock.getsockname()[1])
