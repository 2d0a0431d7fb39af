from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from mmrns.memory import freed_memory_kept


def _resident_mb() -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_freed_memory_is_kept_and_then_given_back() -> None:
    before = _resident_mb()
    with freed_memory_kept():
        block = torch.ones(50_000_000)
        del block
        inside = _resident_mb()
    after = _resident_mb()
    assert inside - before > 150
    assert after - before < 50
