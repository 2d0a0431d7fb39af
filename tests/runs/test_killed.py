"""A training that is killed again and again ends with the bytes of one that was not."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import mmrns
from forked import forking
from mmrns.training.checkpoint import Checkpoint

CONFIG: dict[str, Any] = {
    "method": "self-adversarial",
    "model": {"dim": 6},
    "sampler": {"negatives": 4},
    "training": {
        "steps": 120,
        "batch_size": 40,
        "evaluate_every": 10,
        "log_every": 3,
        "checkpoint_every": 1,
        "patience": 0,
        "hardness": False,
    },
    "device": "cpu",
}
KILLS = 4


def _refuse_partial(folder: Path) -> None:
    """Whatever has its own name is whole."""
    for path in folder.rglob("*"):
        if path.name.startswith(".") or path.is_dir() or any(part.startswith(".") for part in path.parts[-2:]):
            continue
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.parent.name == "checkpoint":
            Checkpoint.read(path)


def _made(path: Path) -> tuple[int, int] | None:
    """Which file has this name now."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def test_a_training_killed_at_any_moment_ends_in_the_same_bytes(toy_folder: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    mmrns.train(CONFIG, dataset=toy_folder, out=whole, plots=False)
    context, moments = forking(), random.Random(0)
    reached: list[int] = []
    for _ in range(KILLS):
        begun = (cut / "config.yaml").exists()
        told = {"out": cut, "resume": True} if begun else {"dataset": toy_folder, "out": cut}
        process = context.Process(target=mmrns.train, args=(None if begun else CONFIG,), kwargs=told)
        process.start()
        # After so many checkpoints of this sitting, and somewhere between two, whatever else the machine does.
        last = cut / "checkpoint" / "last.safetensors"
        wanted, seen, deadline = moments.randint(1, 15), {_made(last)}, time.monotonic() + 120
        while len(seen) <= wanted:
            assert time.monotonic() < deadline
            assert process.exitcode is None
            seen.add(_made(last))
            time.sleep(0.0002)
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.join()
        _refuse_partial(cut)
        reached.append(Checkpoint.read(last).progress.step)
    assert reached == sorted(set(reached)), "nothing that was reached is lost"
    assert reached[-1] < CONFIG["training"]["steps"]
    run = mmrns.train(out=cut, resume=True, plots=False)
    expected = json.loads((whole / "results.json").read_text())
    assert {key: run.results[key] for key in ("test", "valid", "selected_step")} == {
        key: expected[key] for key in ("test", "valid", "selected_step")
    }
    for name in ("model.safetensors", "sampler.safetensors", "entities.txt"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    assert len((cut / "metrics.jsonl").read_text().splitlines()) == len(
        (whole / "metrics.jsonl").read_text().splitlines()
    )
    assert sorted(path.relative_to(cut) for path in cut.rglob("*")) == sorted(
        path.relative_to(whole) for path in whole.rglob("*")
    )
