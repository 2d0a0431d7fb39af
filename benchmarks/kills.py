"""One of two processes that train together is killed again and again: `python benchmarks/kills.py [--times 20]`.

`torchrun --max-restarts` has both started again each time, and they go on from the last whole checkpoint. The moments
are random, from the start of the programs on: also while they import, meet, build the model, or write a checkpoint.
What the training comes to is compared with that of one that nobody has disturbed, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SIZE = 2
COMPARED = ("model.safetensors", "sampler.safetensors")
PATIENCE = 120.0
"""Seconds in which processes are started again, even on a machine with other work."""


def start(out: Path, restarts: int, steps: int) -> subprocess.Popen[bytes]:
    """A training by two processes, with a checkpoint every few steps."""
    settings = {
        "model.dim": 20,
        "training.batch_size": 256,
        "training.steps": steps,
        "training.evaluate_every": steps // 4,
        "training.checkpoint_every": 5,
        "training.hardness": "false",
    }
    words = ["train", "--dataset", "countries", "--scorer", "RotatE", "--method", "self-adversarial", "--device", "cpu"]
    words += ["--out", str(out), *(word for key, value in settings.items() for word in ("--set", f"{key}={value}"))]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(SIZE)]
    launcher += ["--max-restarts", str(restarts), "--monitor-interval", "0.1"]
    command = [sys.executable, *launcher, "-m", "mmrns", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def ranks(launcher: int) -> dict[int, int]:
    """The processes that `torchrun` has started, by rank."""
    found: dict[int, int] = {}
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        try:
            given = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        found |= {int(entry[5:]): int(child) for entry in given if entry.startswith(b"RANK=")}
    return found


def step_of(out: Path) -> int:
    """The step of the last whole checkpoint; 0 before the first."""
    try:
        return json.loads((out / "checkpoint" / "last.json").read_text())["step"]
    except FileNotFoundError:
        return 0


def disturbed(out: Path, times: int, steps: int, within: float, moments: random.Random) -> dict[str, Any]:
    """Kill one of the processes so many times, each within so many seconds of their start, and wait for the end."""
    launcher, kills = start(out, times, steps), list[dict[str, Any]]()
    before, again = dict[int, int](), 0.0
    while len(kills) < times:
        since = time.perf_counter()
        while len(now := ranks(launcher.pid)) < SIZE or {*now.values()} & {*before.values()}:
            if launcher.poll() is not None or time.perf_counter() - since > PATIENCE:
                raise SystemExit(f"not started again after {len(kills)} kills; exit code {launcher.poll()}")
            time.sleep(0.02)
        again = max(again, time.perf_counter() - since)
        time.sleep(moments.uniform(0, within))
        rank = moments.randrange(SIZE)
        os.kill(now[rank], signal.SIGKILL)
        kills.append({"rank": rank, "step": step_of(out)})
        before = now
    return {"kills": kills, "longest_until_started_again": round(again, 1), "exit": launcher.wait()}


def main() -> None:
    """Train undisturbed and disturbed, compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--times", type=int, default=20, help="kills")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    with TemporaryDirectory() as place:
        whole, cut = Path(place) / "whole", Path(place) / "cut"
        since, first = time.perf_counter(), None
        alone = start(whole, 0, given.steps)
        while alone.poll() is None:
            if first is None and step_of(whole):
                first = time.perf_counter() - since
            time.sleep(0.02)
        if alone.returncode or first is None:
            raise SystemExit(f"the undisturbed training has ended with exit code {alone.returncode}")
        seconds = time.perf_counter() - since
        found = disturbed(cut, given.times, given.steps, 2 * first, random.Random(given.seed))
        equal = {name: (whole / name).read_bytes() == (cut / name).read_bytes() for name in COMPARED}
    setting = {"processes": SIZE, "steps": given.steps, "seed": given.seed, "seconds_undisturbed": round(seconds, 1)}
    print(
        json.dumps(
            {"setting": setting, "times": given.times, **found, "equal": equal}, indent=None if given.json else 2
        )
    )


if __name__ == "__main__":
    main()
