from __future__ import annotations

import subprocess
import sys

import pytest

ALONE = """
from pathlib import Path
import torch
from mmrns.memory import freed_memory_kept

def resident_mb():
    line = next(x for x in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if x.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024

before = resident_mb()
with freed_memory_kept():
    block = torch.ones(50_000_000)
    del block
    inside = resident_mb()
print(inside - before, resident_mb() - before)
"""
"""In a process of its own, which has no freed memory to give before."""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_freed_memory_is_kept_and_then_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    inside, after = map(float, done.stdout.split())
    assert inside > 150
    assert after < 50
