"""The command line, as a process and in this one."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest


def process(*arguments: object, code: int = 0, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """What a user's shell would start; it takes seconds, most of them to import torch."""
    words = [*map(str, arguments)]
    done = subprocess.run(
        [sys.executable, "-m", "mmrns", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **env},
        timeout=120,
    )
    return _as_expected(done, words, code)


def inside(*arguments: object, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The same from the first word to the exit code, in this process."""
    from mmrns.cli import main

    words, out, err = [*map(str, arguments)], io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd or Path()),
        mock.patch.dict(os.environ, COLUMNS="200"),
        mock.patch.object(sys, "argv", ["mmrns", *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    done = subprocess.CompletedProcess(words, int(ended.value.code or 0), out.getvalue(), err.getvalue())
    return _as_expected(done, words, code)


def _as_expected(
    done: subprocess.CompletedProcess[str], words: list[str], code: int
) -> subprocess.CompletedProcess[str]:
    assert done.returncode == code, done.stderr + done.stdout
    assert "--debug" in words or "Traceback" not in done.stderr, done.stderr
    return done
