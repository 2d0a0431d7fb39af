"""Processes that begin with what a training imports at some time, forked from one that has imported it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

PRELOADED = [
    "mmrns.runs.train",
    "mmrns.cli",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "numba.np.arraymath",
    "scipy.linalg.cython_blas",
    "torch._dynamo",
]
"""Nothing that starts threads, which a fork would lose. It takes three seconds, once for all processes."""


def forking() -> ForkServerContext:
    """The context of `multiprocessing` in which such processes start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def torchrun(*words: str) -> None:
    """What `torchrun` would do after such words, its own part in this process."""
    from torch.distributed import run
    from torch.distributed.launcher.api import elastic_launch

    forking()

    def launch_forked(config: Any, entrypoint: object) -> Callable[..., Any]:
        begin = elastic_launch(config, _one_of_several)
        return lambda *given: begin(given[given.index("mmrns") + 1 :], dict(os.environ), Path.cwd())

    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        with mock.patch.object(run, "elastic_launch", launch_forked):
            run.main(["--start-method", "forkserver", *words])
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) != handler:
                signal.signal(number, handler)


def _one_of_several(words: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
    from mmrns.cli import main
    from undrawn import draw_nothing

    os.environ.update(environment)  # Beside what `torchrun` has told this process.
    os.chdir(folder)
    draw_nothing()
    sys.argv = ["mmrns", *words]
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, ended.value.code
