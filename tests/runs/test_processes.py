"""Runs of several processes, which `torchrun` would have started: their folders, their ends, and how they go on."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterable
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mmrns
from command import inside
from forked import forking
from mmrns.data.datasets import Dataset
from mmrns.errors import UsageError
from mmrns.files import read_json_lines, read_tensors, unwritable
from mmrns.runs.build import build_trainer
from mmrns.runs.config import make_config
from mmrns.training.world import World
from sharded_cases import free_port

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
RELATION = "part_of"


def command(dataset: Path, out: Path, *more: str) -> list[str]:
    """The words of a command line."""
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    method = ["--method", "self-adversarial", "--device", "cpu"]
    return ["train", "--dataset", str(dataset), "--out", str(out), *method, *settings, *more]


def process(
    rank: int,
    size: int,
    port: int,
    words: list[str],
    said: Path,
    restarts: int,
    draws: bool,
    trouble: Callable[[], None] | None,
) -> None:
    """What `torchrun` starts, its standard error in a file."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in told.items()} | {"TORCHELASTIC_RESTART_COUNT": str(restarts)})
    for stream in (1, 2):
        os.dup2(os.open(said.with_suffix(f".{rank}.{stream}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    if not draws:
        from undrawn import draw_nothing

        draw_nothing()
    if trouble is not None:
        trouble()
    sys.argv = ["mmrns", *words]
    from mmrns.cli import main

    main()


def use(rank: int, size: int, port: int, commands: list[list[str]], said: Path) -> None:
    """The same for several commands, one after the other; what they say is kept as JSON."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in told.items()})
    found = [inside(*words) for words in commands]
    said.with_suffix(f".{rank}.json").write_text(json.dumps([[done.stdout, done.stderr] for done in found]))


def fill_the_disk() -> None:
    """From the fifth checkpoint on this process cannot write any more."""
    from mmrns.training import shards

    write, written = shards.write_checkpoint, [0]

    def failing(path: Path, *given: Any) -> None:
        written[0] += 1
        if written[0] >= 5:
            raise unwritable(path, OSError(28, "No space left on device"))
        write(path, *given)

    shards.write_checkpoint = failing


def fill_the_disk_at_the_end() -> None:
    """No table can be put together."""
    from mmrns.training import shards

    @contextmanager
    def failing(beside: Path, rows: Iterable[Tensor]) -> Generator[Tensor]:
        yield next(iter(rows))
        raise unwritable(beside, OSError(28, "No space left on device"))

    shards.tensor_on_disk = failing


def allow_small_files() -> None:
    """No file may grow beyond 1000 bytes; to who writes it that is as a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))


def allow_little_memory() -> None:
    """Only 200 MiB more than there are."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData:"))
    limit = int(line.split()[1]) * 1024 + 200 * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _signal_in_ranking(number: int) -> None:
    from mmrns.evaluation import ranking

    counted, calls = ranking._counted, [0]

    def signalled(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            os.kill(os.getpid(), number)
        return counted(*given)

    ranking._counted = signalled


die_in_ranking = partial(_signal_in_ranking, signal.SIGKILL)
interrupt_in_ranking = partial(_signal_in_ranking, signal.SIGINT)


def start(
    size: int,
    words: list[str],
    said: Path,
    *,
    restarts: int = 0,
    draws: bool = False,
    trouble: Callable[[], None] | None = None,
    of: Collection[int] = (),
) -> list[ForkServerProcess]:
    """So many processes of a command, of which some have trouble."""
    context, port = forking(), free_port()
    given = (size, port, words, said, restarts, draws)
    troubles = [trouble if rank in of else None for rank in range(size)]
    found = [context.Process(target=process, args=(rank, *given, troubles[rank])) for rank in range(size)]
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


def finish(size: int, words: list[str], said: Path, **given: Any) -> None:
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
    finish(2, command(dataset, folder / "run"), folder / "said", draws=True)
    return folder / "run"


def test_the_folder_is_that_of_one_process(whole: Path, dataset: Path, tmp_path: Path, pictures: None) -> None:
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
    codes, errors = ended(start(2, command(dataset, out), said, trouble=fill_the_disk, of=[1]), said)
    assert codes == [1, 1], errors
    (line,) = [line for line in errors.splitlines() if line.startswith("mmrns:")]
    assert line.startswith("mmrns: rank 1: ")
    assert "No space left on device" in line
    assert json.loads((out / "checkpoint" / "last.json").read_text())["step"] == 6
    finish(2, [*command(dataset, out), "--resume"], said)
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_full_disk_at_the_end_ends_all(dataset: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "run", tmp_path / "said"
    codes, errors = ended(start(2, command(dataset, out), said, trouble=fill_the_disk_at_the_end, of=[0]), said)
    assert codes == [1, 1], errors
    told = [line for line in errors.splitlines() if line.startswith("mmrns:")]
    assert told[0].startswith(f"mmrns: {out / 'model.safetensors'}: cannot be written (No space left on device)")
    # Where processes say their ends ends with the first one here, with torchrun's own process otherwise.
    assert len(told) == 1 or "rank 0: has ended" in told[1]
    assert not (out / "results.json").exists()


@pytest.mark.parametrize(("of", "told"), [([0, 1], "mmrns: out of memory"), ([1], "mmrns: rank 1: out of memory")])
def test_memory_that_cannot_be_had_is_one_line(dataset: Path, tmp_path: Path, of: list[int], told: str) -> None:
    words = command(dataset, tmp_path / "run", "--set", "model.dim=4000000")
    codes, errors = ended(start(2, words, tmp_path / "said", trouble=allow_little_memory, of=of), tmp_path / "said")
    assert codes == [1, 1], errors
    lines = [line for line in errors.splitlines() if line.startswith("mmrns:")]
    assert len(lines) == 1, errors
    assert lines[0].startswith(told)
    assert "Traceback" not in errors


@pytest.fixture(scope="module")
def calibrated(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with probabilities."""
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    shutil.copytree(whole, folder)
    mmrns.load_run(folder).calibrate()
    return folder


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_use_a_run_as_one_does(calibrated: Path, tmp_path: Path, size: int) -> None:
    said, table = tmp_path / "said", tmp_path / "table.csv"
    graph = mmrns.load_run(calibrated).dataset.graph
    kinds = graph.entities, graph.relations, graph.entities
    triples = [[kind[int(i)] for kind, i in zip(kinds, row, strict=True)] for row in graph.test[:6]]
    for row, asked in zip(triples, (0, 1, 2, 0, 1, 2), strict=True):
        row[asked] = "?"
    queries = tmp_path / "queries.tsv"
    queries.write_text("".join(f"{chr(9).join(row)}\n" for row in triples))
    false = tmp_path / "false.tsv"
    false.write_text("".join(f"{graph.entities[i]}\t{graph.relations[0]}\t{graph.entities[i]}\n" for i in range(9)))
    run = str(calibrated)
    asked = ["predict", run, "--queries", str(queries), "--top", "8", "--json"]
    commands = [
        ["evaluate", run, "--json"],
        ["evaluate", run, "--split", "valid", "--by", "relation", "--candidates", "train", "--json"],
        ["evaluate", run, "--calibration", "--json"],
        ["evaluate", run, "--negatives", str(false), "--json"],
        asked,
        [*asked, "--known", "drop", "--candidates", "train"],
        ["predict", run, "--queries", str(queries), "--out", str(table)],
    ]
    commands = commands[:: size - 1]  # Of four not as much, which take their time.
    alone = [inside(*words) for words in commands]
    written = table.read_text()
    table.unlink()
    context, port = forking(), free_port()
    processes = [context.Process(target=use, args=(rank, size, port, commands, said)) for rank in range(size)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(timeout=100)
    assert [each.exitcode for each in processes] == [0] * size
    found = [json.loads(said.with_suffix(f".{rank}.json").read_text()) for rank in range(size)]
    for done, (out, err) in zip(alone, found[0], strict=True):
        assert [line for line in err.splitlines() if "left" not in line] == done.stderr.splitlines()
        assert_alike(json.loads(out or "0"), json.loads(done.stdout or "0"))
    assert [line.split(",")[:3] for line in table.read_text().splitlines()] == [
        line.split(",")[:3] for line in written.splitlines()
    ]
    assert all(pair == ["", ""] for others in found[1:] for pair in others)


def assert_alike(found: Any, wanted: Any) -> None:
    """The same JSON values but for rounding."""
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert_alike(found[key], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for mine, theirs in zip(found, wanted, strict=True):
            assert_alike(mine, theirs)
    else:
        assert found == (pytest.approx(wanted, abs=1e-5) if isinstance(wanted, float) else wanted)


def test_a_process_that_dies_in_ranking_ends_the_others(whole: Path, tmp_path: Path) -> None:
    since = time.monotonic()
    processes = start(2, ["evaluate", str(whole)], tmp_path / "said", trouble=die_in_ranking, of=[1])
    codes, errors = ended(processes, tmp_path / "said")
    assert time.monotonic() - since < 60
    assert codes == [1, -signal.SIGKILL]
    assert errors == "mmrns: rank 1: has ended without a word; start it again\n"


@pytest.mark.parametrize(
    ("of", "codes", "told"),
    [([0, 1], [130, 130], ""), ([1], [1, 130], "mmrns: rank 1: has ended without a word; start it again\n")],
)
def test_an_interrupt_in_ranking_ends_all(
    whole: Path, tmp_path: Path, of: list[int], codes: list[int], told: str
) -> None:
    processes = start(2, ["evaluate", str(whole)], tmp_path / "said", trouble=interrupt_in_ranking, of=of)
    assert ended(processes, tmp_path / "said") == (codes, told)


def test_a_table_that_cannot_be_written_is_one_line(whole: Path, tmp_path: Path) -> None:
    words = ["predict", str(whole), "--relation", RELATION, "--tail", "e02", "--top", "40", "--out"]
    words += [str(tmp_path / "table.csv")]
    codes, errors = ended(start(2, words, tmp_path / "said", trouble=allow_small_files, of=[0, 1]), tmp_path / "said")
    assert codes == [1, 0]
    (line,) = errors.splitlines()
    assert "table.csv: cannot be written (File too large)" in line


@pytest.mark.parametrize("words", [["data", "list"], ["explain", "run"], ["predict", "run", "--queries", "-"]])
def test_what_is_not_for_several_processes_says_so(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for key, value in told.items():
        monkeypatch.setenv(key, value)
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        done = inside(*words, code=2)
        assert len(done.stderr.splitlines()) == lines
        assert not lines or "several processes" in done.stderr


def test_what_takes_all_vectors_is_for_one_process(whole: Path) -> None:
    run = mmrns.load_run(whole, world=World(0, 2))
    for act in (
        run.embeddings,
        lambda: run.neighbours("e02"),
        lambda: run.explain("e02", RELATION, None),
        lambda: run.inspect("e02", RELATION, "e03"),
    ):
        with pytest.raises(UsageError, match="takes the vectors of all entities; start one process"):
            act()


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
