"""The command line: every command, its mistakes; training, an answer, signals and how a process ends as processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from command import inside as mmrns
from command import process

SMALL = [
    "--set=model.dim=8",
    "--set=training.steps=40",
    "--set=training.batch_size=64",
    "--set=training.evaluate_every=20",
    "--set=sampler.negatives=5",
    "--device=cpu",
]


KEYS = {"head", "relation", "tail", "score", "rank", "known", "seen", "asked", "query"}
KEYS |= {"head_name", "relation_name", "tail_name"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from toy import write_toy

    folder = tmp_path_factory.mktemp("cli")
    dataset = write_toy(folder / "toy")
    done = process("train", "--dataset", dataset, "--scorer", "TransE", "--sampler", "mmrns", *SMALL, cwd=folder)
    assert "relation frequency" in done.stdout
    assert "runs/toy-TransE-mmrns-s0/plots/curves.png" in done.stdout
    assert "image: 35 of 40 entities matched" in done.stderr
    assert (
        "1 of the entities of valid and test have no triple in train and no feature that the model reads" in done.stderr
    )
    assert "model.modalities=[image,text] reads features" in done.stderr
    return folder / "runs" / "toy-TransE-mmrns-s0"


def test_evaluate(run: Path) -> None:
    found = json.loads(mmrns("evaluate", run, "--json").stdout)
    assert found == json.loads((run / "results.json").read_text())["test"]
    valid = json.loads(mmrns("evaluate", run, "--split", "valid", "--json").stdout)
    assert valid == json.loads((run / "results.json").read_text())["valid"]
    table = mmrns("evaluate", run).stdout
    assert process("evaluate", run).stdout == table
    assert f"{found['both']['realistic']['mrr']:.4f}" in table
    rows = json.loads(mmrns("evaluate", run, "--by", "relation", "--json").stdout)
    assert sum(row["queries"] for row in rows) == found["queries"]
    assert "category" in mmrns("evaluate", run, "--by", "category").stdout
    # The toy graph has one triple whose head train lacks.
    rows = json.loads(mmrns("evaluate", run, "--by", "unseen", "--json").stdout)
    kept = [row for row in rows if row["unseen"] != "nothing"]
    assert kept == found["cold_start"]
    assert [(row["unseen"], row["side"], row["queries"]) for row in kept] == [
        ("anchor", "tail", 1),
        ("target", "head", 1),
    ]


def test_evaluate_with_intervals_and_candidates(run: Path, tmp_path: Path) -> None:
    options = ["--bootstrap", "50", "--candidates", "train"]
    found = json.loads(mmrns("evaluate", run, *options, "--json").stdout)
    low, high = found["both"]["realistic"]["interval"]["hits@10"]
    assert low <= found["both"]["realistic"]["hits@10"] <= high
    table = mmrns("evaluate", run, *options).stdout
    assert f"{low:.4f}" in table
    assert f"{high:.4f}" in table
    assert table.count("  95% from ") == table.count("  95% to ") == 5
    assert f"{found['outside']} true answers are not among the candidates" in table
    by = mmrns("evaluate", run, "--by", "side", *options).stdout
    assert by.count("  95% from ") == by.count("  95% to ") == 2
    types = tmp_path / "types.tsv"
    types.write_text("part_of\ttail\te01\n")
    query = ["--head", "e04", "--relation", "part_of"]
    rows = json.loads(mmrns("predict", run, *query, "--candidates", types, "--json").stdout)
    assert [row["tail"] for row in rows] == ["e01"]
    types.write_text("part_of\tleft\te01\n")
    assert "types.tsv:1: unknown side 'left'" in mmrns("evaluate", run, "--candidates", types, code=1).stderr
    assert "missing.tsv: cannot be read" in mmrns("evaluate", run, "--candidates", "missing.tsv", code=1).stderr


def test_predict(run: Path, tmp_path: Path) -> None:
    query = ["--head", "e04", "--relation", "likes", "--top", "3"]
    rows = json.loads(mmrns("predict", run, *query, "--json").stdout)
    assert [set(row) for row in rows] == [KEYS] * 3
    told = json.loads(process("predict", run, *query, "--json").stdout)
    assert [row["tail"] for row in told] == [row["tail"] for row in rows]
    for suffix, read in ((".csv", pl.read_csv), (".parquet", pl.read_parquet), (".json", pl.read_json)):
        file = tmp_path / f"out{suffix}"
        mmrns("predict", run, *query, "--out", file)
        assert read(file)["tail"].to_list() == [row["tail"] for row in rows]
    assert "e04 (Entity 4)  likes  ?" in mmrns("predict", run, *query).stdout
    assert "?  likes  e04 (Entity 4)" in mmrns("predict", run, "--relation", "likes", "--tail", "e04").stdout
    queries = tmp_path / "queries.tsv"
    queries.write_text("e04\tlikes\t?\n?\tpart_of\te01\n")
    both = json.loads(mmrns("predict", run, "--queries", queries, "--top", "3", "--json").stdout)
    assert both[:3] == rows
    assert {row["tail"] for row in both[3:]} == {"e01"}


def test_data_describe(run: Path) -> None:
    toy = run.parents[1] / "toy"
    found = json.loads(mmrns("data", "describe", toy, "--json").stdout)
    assert found["entities"] == 40
    assert found["features"]["image"]["entities"] == 35
    assert found["triples"]["test"]["with an entity unseen in train"] == 1
    assert "40 entities, 5 relations" in mmrns("data", "describe", toy).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "--dataset", "countrys"], 2, "no dataset or folder 'countrys'; did you mean 'countries'?"),
        (["train", "--set", "trainin.steps=3"], 2, "unknown configuration key"),
        (["train", "--sampler", "mmrn"], 2, "unknown method 'mmrn'; did you mean 'mmrns'?"),
        (["train", "--nonsense"], 2, "No such option"),
        (["evaluate", "no-such-run"], 1, "no-such-run: holds no finished run; train one"),
        (["train", "no-such.yaml"], 1, "no-such.yaml: cannot be read"),
        (["train", "--resume", "--out", "no-such-run"], 1, "holds no run to resume"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    done = mmrns(*arguments, code=code, cwd=tmp_path)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    if not message.startswith("No such option"):
        assert len(done.stderr.strip().splitlines()) == 1
        assert "Traceback" in mmrns("--debug", *arguments, code=code, cwd=tmp_path).stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["train", "--sampler", "mmrn"], 2), (["train", "--nonsense"], 2), (["evaluate", "none"], 1)],
)
def test_a_mistake_ends_a_process_as_it_ends_here(arguments: list[str], code: int, tmp_path: Path) -> None:
    done = process(*arguments, code=code, cwd=tmp_path)
    assert done.stdout == ""
    # Before the last line stands how to call it, if anything.
    assert done.stderr.splitlines()[-1] == mmrns(*arguments, code=code, cwd=tmp_path).stderr.splitlines()[-1]


def test_mistaken_predictions(run: Path, tmp_path: Path) -> None:
    query = ["--head", "e04", "--relation", "likes"]
    assert "write one of .csv" in mmrns("predict", run, *query, "--out", tmp_path / "x.xls", code=2).stderr
    assert "did you mean" in mmrns("predict", run, "--head", "e4", "--relation", "likes", code=2).stderr
    lost = tmp_path / "no" / "x.csv"
    assert f"--out {lost}: no folder '{lost.parent}'" in mmrns("predict", run, *query, "--out", lost, code=2).stderr
    queries = tmp_path / "queries.tsv"
    queries.write_text("e04\tlikes\n")
    assert "queries.tsv:1: 2 columns" in mmrns("predict", run, "--queries", queries, code=1).stderr


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("train.tsv", "a\tb\n", r"train.tsv:1: 2 columns"),
        ("features/text.entities", "e00\n", "lines but text.safetensors has 36 rows"),
    ],
)
def test_unfit_data_is_one_line(toy_folder: Path, tmp_path: Path, file: str, line: str, message: str) -> None:
    path = toy_folder / file
    path.write_text(line + path.read_text())
    done = mmrns("train", "--dataset", toy_folder, "--out", tmp_path / "run", code=1)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """The words of a training with checkpoints, and the run that they make when nothing stops it."""
    from toy import write_toy

    folder = tmp_path_factory.mktemp("long")
    settings = [*SMALL, "--set=training.steps=200", "--set=training.checkpoint_every=10"]
    train = ["train", "--dataset", str(write_toy(folder / "toy")), *settings]
    mmrns(*train, "--out", folder / "whole")
    return train, folder / "whole"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_resumes_to_the_same_bytes(
    long: tuple[list[str], Path], tmp_path: Path, number: signal.Signals
) -> None:
    train, whole = long
    cut = tmp_path / "cut"
    command = [sys.executable, "-m", "mmrns", *train, "--out", str(cut)]
    stopped = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (cut / "metrics.jsonl").exists() or not (cut / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    stopped.send_signal(number)
    _, stderr = stopped.communicate(timeout=60)
    assert stopped.returncode == 128 + number
    assert "interrupted at step" in stderr
    assert "Traceback" not in stderr
    assert not (cut / "results.json").exists()
    mmrns("train", "--resume", "--out", cut)
    for file in ("model.safetensors", "sampler.safetensors"):
        assert (cut / file).read_bytes() == (whole / file).read_bytes()


def test_help_has_an_example() -> None:
    for command in (["train"], ["evaluate"], ["predict"], ["export"], ["neighbours"], ["push"], ["data", "describe"]):
        assert f"Example: mmrns {' '.join(command)}" in mmrns(*command, "--help").stdout


def test_python_and_command_line_agree_on_the_version() -> None:
    import importlib.metadata

    import mmrns as package

    assert package.__version__ == importlib.metadata.version("mmrns")
    assert process("--version").stdout.strip() == f"mmrns {package.__version__}"
