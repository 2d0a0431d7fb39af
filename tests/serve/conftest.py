"""Two runs on the countries, with pictures and texts, trained for a few steps and served."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

import mmrns
from mmrns.serve.app import create_app
from mmrns.serve.process import address_of, listen

TINY: dict[str, Any] = {
    "data": {"dataset": "countries"},
    "model": {"dim": 8},
    "training": {"steps": 2, "batch_size": 32, "evaluate_every": 1, "log_every": 1, "hardness": False},
    "device": "cpu",
    "threads": 1,
}
DRAWS = {
    "name": "mmrns",
    "negatives": 6,
    "pool": 32,
    "domain_range": 32,
    "discount": 0.25,
    "attention": True,
    "rows": 8,
    "columns": 8,
    "width": 8,
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, mmrns.Run]:
    folder = tmp_path_factory.mktemp("served")
    mmrns.train({**TINY, "sampler": DRAWS}, out=folder / "flags", plots=False)
    mmrns.train({**TINY, "method": "self-adversarial", "seed": 1}, out=folder / "world", plots=False)
    return {name: mmrns.load_run(folder / name) for name in ("flags", "world")}


@pytest.fixture(scope="session")
def client(runs: dict[str, mmrns.Run]) -> Iterator[TestClient]:
    with TestClient(create_app(runs)) as client:
        yield client


@contextmanager
def running(app: FastAPI) -> Generator[str]:
    """The address of an application that answers in a thread."""
    with listen("127.0.0.1", 0) as sock:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        try:
            yield address_of(sock)
        finally:
            server.should_exit = True
            thread.join()
