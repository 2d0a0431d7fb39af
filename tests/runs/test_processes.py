"""Runs of several processes, which `torchrun` would have started: their folders, their ends, and how they go on."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch

import mmrns
from mmrns.data.datasets import Dataset
from mmrns.errors import UsageError
from mmrns.files import read_json_lines, read_tensors
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.training.world import World
from sharded_cases import PRELOADED, free_port

SETTINGS = [
    "model.scorer=DistMult",
    "model.dim=6",
    "model.modalities=[text]",
    "model.mixture=residual",
    "sampler.negatives=4",
    "training.steps=60",
    "training.batch_size=40",
    "training.evaluate_every=10",
    "training.log_every=6",
    "training.checkpoint_every=2",
    "training.patience=0",
    "threads=1",
]


def command(dataset: Path, out: Path, *more: str) -> list[str]:
    """The words of a command line."""
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    method = ["--method", "self-adversarial", "--device", "cpu"]
    return ["train", "--dataset", str(dataset), "--out", str(out), *method, *settings, *more]


def process(rank: int, size: int, port: int, words: list[str], said: Path, restarts: int, broken: bool) -> None:
    """What `torchrun` starts, its standard error in a file."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in told.items()} | {"TORCHELASTIC_RESTART_COUNT": str(restarts)})
    for stream in (1, 2):
        os.dup2(os.open(said.with_suffix(f".{rank}.{stream}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if broken:
        _fill_the_disk()
    sys.argv = ["mmrns", *words]
    from mmrns.cli import main

    main()


def _fill_the_disk() -> None:
    """From the fifth checkpoint on this process cannot write any more."""
    from mmrns.files import unwritable
    from mmrns.training import shards

    write, written = shards.write_checkpoint, [0]

    def failing(path: Path, *given: Any) -> None:
        written[0] += 1
        if written[0] >= 5:
            raise unwritable(path, OSError(28, "No space left on device"))
        write(path, *given)

    shards.write_checkpoint = failing


def start(
    size: int, words: list[str], said: Path, *, restarts: int = 0, broken: int | None = None
) -> list[ForkServerProcess]:
    """So many processes of a training, of which one may be unable to write."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    port = free_port()
    given = (size, port, words, said, restarts)
    found = [context.Process(target=process, args=(rank, *given, rank == broken)) for rank in range(size)]
    for each in found:
        each.start()
    return found


def ended(processes: list[ForkServerProcess], said: Path, seconds: float = 100) -> tuple[list[int | None], str]:
    """The exit codes of all processes, and what they have said on standard error."""
    deadline = time.monotonic() + seconds
    for each in processes:
        each.join(timeout=max(0.0, deadline - time.monotonic()))
    codes = [each.exitcode for each in processes]
    for each in processes:
        each.kill()
    errors = [said.with_suffix(f".{rank}.2").read_text() for rank in range(len(processes))]
    return codes, "".join(errors)


def finish(size: int, words: list[str], said: Path, **given: int) -> None:
    codes, errors = ended(start(size, words, said, **given), said)
    assert codes == [0] * size, errors


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from toy import write_toy

    return write_toy(tmp_path_factory.mktemp("dataset") / "toy")


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run of two processes."""
    folder = tmp_path_factory.mktemp("whole")
    finish(2, command(dataset, folder / "run"), folder / "said")
    return folder / "run"


def test_the_folder_is_that_of_one_process(whole: Path, dataset: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    settings = dict(pair.split("=") for pair in SETTINGS)
    values: dict[str, Any] = {key: int(value) if value.isdecimal() else value for key, value in settings.items()}
    values["model.modalities"] = ["text"]
    run = mmrns.train(
        dataset=dataset, method="self-adversarial", out=alone, device="cpu", settings=values, progress=False
    )

    def files(folder: Path) -> set[str]:
        found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return {str(path) for path in found if path.parts[0] != "checkpoint"}

    assert files(whole) == files(alone)
    opened = mmrns.load_run(whole)
    assert opened.results["selected_step"] == run.results["selected_step"]
    for split in ("valid", "test"):
        for policy, metrics in run.results[split]["both"].items():
            assert opened.results[split]["both"][policy] == pytest.approx(metrics)
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(opened.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert opened.record["processes"] == 2
    rows = [read_json_lines(folder / "metrics.jsonl") for folder in (whole, alone)]
    for mine, theirs in zip(*rows, strict=True):
        assert mine.keys() == theirs.keys()
        assert mine.get("loss", 0) == pytest.approx(theirs.get("loss", 0), abs=1e-5)
        assert mine.get("valid_mrr") == pytest.approx(theirs.get("valid_mrr"), abs=1e-5)


def test_killed_processes_go_on_to_the_same_bytes(whole: Path, dataset: Path, tmp_path: Path) -> None:
    out, said, moments = tmp_path / "run", tmp_path / "said", random.Random(0)
    last, words = out / "checkpoint" / "last.json", command(dataset, tmp_path / "run")
    reached = [0]
    for sitting in range(3):
        processes = start(2, words, said, restarts=sitting)
        wanted, deadline = reached[-1] + moments.randint(2, 12), time.monotonic() + 100
        while not last.exists() or json.loads(last.read_text())["step"] < wanted:
            assert time.monotonic() < deadline
            assert all(each.exitcode is None for each in processes), ended(processes, said)
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.02))
        killed = moments.randrange(2)
        processes[killed].kill()
        since = time.monotonic()
        codes, errors = ended(processes, said)
        assert time.monotonic() - since < 30
        assert codes[1 - killed] == 1
        lines = [line for line in errors.splitlines() if line.startswith("mmrns:")]
        assert lines == [f"mmrns: rank {killed}: has ended without a word; --resume goes on from the last checkpoint"]
        reached.append(json.loads(last.read_text())["step"])
    assert reached == sorted(set(reached)), "nothing that was reached is lost"
    assert reached[-1] < 60
    finish(2, words, said, restarts=3)
    for name in ("model.safetensors", "sampler.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("sizes", [(2, 1), (1, 2), (2, 3)])
def test_another_number_of_processes_goes_on(
    whole: Path, dataset: Path, tmp_path: Path, sizes: tuple[int, int]
) -> None:
    out, said = tmp_path / "run", tmp_path / "said"
    words = command(dataset, out)
    processes = start(sizes[0], words, said)
    place = out / "checkpoint" / ("last.safetensors" if sizes[0] == 1 else "last.json")
    seen: set[int] = set()  # When it was written.
    deadline = time.monotonic() + 100
    while len(seen) < 8:
        assert time.monotonic() < deadline
        seen |= {place.stat().st_mtime_ns} if place.exists() else set()
        time.sleep(0.001)
    processes[0].terminate()  # As a signal that torchrun hands on, here to one of them.
    codes, errors = ended(processes, said)
    assert codes[0] == 143, errors
    assert "continue with --resume" in errors
    finish(sizes[1], [*words, "--resume"], said)
    assert place.exists() == (1 not in sizes), "what one process has written goes, and the other way round"
    found, wanted = (read_tensors(folder / "model.safetensors")[0] for folder in (out, whole))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    assert mmrns.load_run(out).record["earlier"][0]["processes"] == sizes[0]


def test_a_full_disk_of_one_process_ends_all_and_harms_nothing(whole: Path, dataset: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "run", tmp_path / "said"
    codes, errors = ended(start(2, command(dataset, out), said, broken=1), said)
    assert codes == [1, 1], errors
    (line,) = [line for line in errors.splitlines() if line.startswith("mmrns:")]
    assert line.startswith("mmrns: rank 1: ")
    assert "No space left on device" in line
    assert json.loads((out / "checkpoint" / "last.json").read_text())["step"] == 6
    finish(2, [*command(dataset, out), "--resume"], said)
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_processes_need_a_folder(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for key, value in told.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UsageError, match="several processes needs a folder"):
        mmrns.train(dataset=toy, progress=False)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"method": "kbgan"}, "the sampler kbgan cannot be trained by several processes: its reward"),
        ({"method": "igan"}, "the sampler igan cannot be trained by several processes: its reward"),
        ({"method": "dhns"}, "the sampler dhns cannot be trained by several processes: its negatives are vectors"),
        ({"method": "mmrns-published"}, "the sampler mmrns-published cannot be trained by several processes: its grad"),
        ({"method": "domain-range", "sampler": {"pool_sampler": "kbgan"}}, "the sampler kbgan cannot be trained"),
        ({"model": {"embedder": "momok"}}, "the embedder momok cannot be trained by several processes: the noise"),
        ({"training": {"compile": True}}, "training.compile=true cannot be trained by several processes"),
    ],
)
def test_what_cannot_be_trained_so_is_refused(toy: Dataset, values: dict[str, dict[str, object]], why: str) -> None:
    with pytest.raises(UsageError, match=f"^{why}"):
        build_trainer(make_config({"device": "cpu", **values}), toy, world=World(0, 2))
