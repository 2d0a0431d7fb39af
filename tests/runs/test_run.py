"""Runs end to end on the toy graph, through the Python interface."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

import mmrns
from mmrns.errors import DataError, Note, UsageError
from mmrns.evaluation.frequency import RelationFrequency
from mmrns.evaluation.ranking import rank
from mmrns.evaluation.report import policies
from mmrns.files import JsonLines, read_json_lines
from mmrns.runs.config import apply_settings, dump_config, make_config
from mmrns.runs.train import _config_of
from mmrns.training.callbacks import Callback, Training
from mmrns.types import Batch
from toy import write_toy
from undrawn import drawing

SMALL: dict[str, Any] = {
    "model": {"dim": 12},
    "objective": {"gamma": 3.0},
    "method": "mmrns",
    "sampler": {"negatives": 6, "discount": 0.25},
    "training": {
        "steps": 60,
        "batch_size": 64,
        "lr": 0.01,
        "evaluate_every": 20,
        "log_every": 7,
        "checkpoint_every": 15,
        "patience": 0,
    },
    "device": "cpu",
}


def _config(folder: Path, **sections: Any) -> dict[str, Any]:
    return {**SMALL, "data": {"dataset": str(folder)}, **sections}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> mmrns.Run:
    folder = tmp_path_factory.mktemp("run")
    with drawing():
        return mmrns.train(_config(write_toy(folder / "toy")), out=folder / "run")


def test_the_folder_holds_what_it_should(run: mmrns.Run) -> None:
    files = {str(p.relative_to(run.folder)) for p in run.folder.rglob("*") if p.is_file()}
    assert files == {
        "config.yaml",
        "record.json",
        "metrics.jsonl",
        "results.json",
        "SHA256SUMS",
        "model.safetensors",
        "sampler.safetensors",
        "entities.txt",
        "relations.txt",
        "checkpoint/last.safetensors",
        "checkpoint/best.safetensors",
        "plots/curves.png",
        "plots/curves.svg",
        "plots/hardness.png",
        "plots/hardness.svg",
        *(f"dataset/{split}.parquet" for split in ("train", "valid", "test")),
        "dataset/entities.tsv",
        "dataset/relations.tsv",
    }
    assert all(plot.read_bytes().startswith(b"\x89PNG") for plot in (run.folder / "plots").glob("*.png"))
    assert all("<svg" in plot.read_text(encoding="utf-8") for plot in (run.folder / "plots").glob("*.svg"))
    record = json.loads((run.folder / "record.json").read_text())
    assert {"code", "packages", "device", "threads", "seed", "dataset", "wall_seconds"} <= set(record)
    assert set(record["dataset"]["sha256"]) >= {"train.tsv", "features/text.safetensors", "features/text.entities"}
    text = (run.folder / "record.json").read_text()
    assert str(Path.home()) not in text
    assert not re.search(r"user|host", text)
    rows = read_json_lines(run.folder / "metrics.jsonl")
    assert [row["step"] for row in rows if "valid_mrr" in row] == [20, 40, 60]
    assert [row["step"] for row in rows if "loss" in row] == [*range(7, 60, 7), 60]
    assert all(("hardness" in row) == ("loss" in row) for row in rows)


def test_results_have_the_documented_keys(run: mmrns.Run) -> None:
    results = json.loads((run.folder / "results.json").read_text())
    assert {"test", "valid", "selected_step", "seconds", "baseline_mrr"} <= set(results)
    assert {"pretrain", "train", "evaluate"} <= set(results["seconds"])
    test = results["test"]
    assert set(test) == {"both", "head", "tail", "seen", "unseen", "cold_start", "queries", "ties", "outside"}
    assert set(test["both"]) == {"realistic", "optimistic", "pessimistic"}
    assert set(test["both"]["realistic"]) == {"mrr", "hits@1", "hits@3", "hits@10", "mr", "amri"}
    assert set(test["both"]["optimistic"]) == {"mrr", "hits@1", "hits@3", "hits@10", "mr"}
    assert test["queries"] == 2 * len(run.dataset.graph.test)
    assert 0 < results["baseline_mrr"] < 1


def test_the_best_model_is_kept(run: mmrns.Run) -> None:
    rows = read_json_lines(run.folder / "metrics.jsonl")
    best = max((row["valid_mrr"], -row["step"]) for row in rows if "valid_mrr" in row)
    assert run.results["selected_step"] == -best[1]
    assert run.results["valid"]["both"]["realistic"]["mrr"] == best[0]


class _Spoils(Callback):
    """Sets everything to 0 after a step, so that all candidates tie."""

    def __init__(self, after: int):
        self.after = after

    def on_start(self, training: Training) -> None:
        self.training = training

    def on_progress(self, step: int, loss: float | None) -> None:
        if step == self.after:
            for weight in self.training.model.parameters():
                torch.nn.init.zeros_(weight)
            for value in self.training.sampler.state_dict().values():
                value.zero_()


@pytest.mark.parametrize("in_folder", [True, False])
def test_the_selected_weights_are_the_best_and_not_the_last(toy_folder: Path, tmp_path: Path, in_folder: bool) -> None:
    config = _config(toy_folder) | {"training": SMALL["training"] | {"steps": 24, "evaluate_every": 12, "lr": 0.05}}
    out = tmp_path / "run" if in_folder else None
    best = mmrns.train({**config, "training": config["training"] | {"steps": 12}})
    run = mmrns.train(config, out=out, callbacks=[_Spoils(24)], plots=False)
    mrrs = run.history["valid_mrr"].drop_nulls().to_list()
    assert mrrs[0] > mrrs[1]
    assert run.results["selected_step"] == 12
    for split in ("valid", "test"):
        assert run.results[split] == best.results[split]
    for part in ("model", "sampler"):
        expected, found = getattr(best, part).state_dict(), getattr(run, part).state_dict()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
        if in_folder:
            written = load_file(tmp_path / "run" / f"{part}.safetensors")
            assert all(torch.equal(expected[key], written[key]) for key in expected)


def test_the_baseline_is_of_the_test_split(run: mmrns.Run) -> None:
    graph = run.dataset.graph
    test, valid = (
        policies(rank(RelationFrequency(graph), split, graph.known_index)) for split in (graph.test, graph.valid)
    )
    assert run.results["baseline"] == test != valid
    assert run.results["baseline_mrr"] == test["realistic"]["mrr"]


def test_a_reopened_run_evaluates_to_the_same(run: mmrns.Run) -> None:
    again = mmrns.load_run(run.folder)
    assert again.evaluate("test") == run.results["test"]
    assert again.evaluate("valid") == run.results["valid"]


def test_candidates_restrict_ranking_and_prediction(run: mmrns.Run, tmp_path: Path) -> None:
    graph = run.dataset.graph
    among = run.evaluate(candidates="train")
    assert among["outside"] > 0
    assert run.results["test"]["outside"] == 0
    for policy, found in among["both"].items():
        assert found["mr"] < run.results["test"]["both"][policy]["mr"]
    # Every tail of the relation is one of three hubs.
    hubs = run.predict("e04", "part_of", top=40, candidates="train")
    assert sorted(hubs["tail"]) == ["e00", "e01", "e02"]
    everyone = run.predict("e04", "part_of", top=40).filter(pl.col("tail").is_in(["e00", "e01", "e02"]))
    assert hubs.drop("rank").equals(everyone.drop("rank"))
    assert hubs["rank"].to_list() == [1, 2, 3]
    path = tmp_path / "types.tsv"
    path.write_text("part_of\ttail\te00\npart_of\ttail\te01\n")
    assert len(run.predict("e04", "part_of", top=40, candidates=path)) == 2
    assert len(run.predict("e04", "likes", top=40, candidates=path)) == 39
    ranks = run.ranks(candidates=path)
    left_out = (graph.test == torch.tensor([-1, graph.relations.id("part_of"), 2])).sum(1) == 2
    assert ranks.outside.tolist() == [*left_out.tolist(), *[False] * len(graph.test)]


def test_intervals_are_given_where_asked(run: mmrns.Run) -> None:
    found = run.evaluate(bootstrap=100)
    low, high = found["both"]["realistic"].pop("interval")["mrr"]
    assert low < found["both"]["realistic"]["mrr"] < high
    assert found["both"] == run.results["test"]["both"]


def test_predictions_agree_with_scores_and_known_triples(run: mmrns.Run) -> None:
    graph = run.dataset.graph
    frame = run.predict("e04", "likes", top=40)
    keys = ["head", "relation", "tail", "score", "rank", "known", "seen", "asked", "query"]
    assert frame.columns == [*keys, "head_name", "relation_name", "tail_name"]
    # All 40 entities but e04 itself: nothing likes itself in this graph, while each hub is part of itself.
    assert frame["rank"].to_list() == list(range(1, 40))
    assert "e04" not in frame["tail"]
    assert "e01" in run.predict("e01", "part_of", top=40)["tail"]
    assert frame["score"].is_sorted(descending=True)
    every = {tuple(t) for t in torch.cat([graph.train, graph.valid, graph.test]).tolist()}
    h, r = graph.entities.id("e04"), graph.relations.id("likes")
    expected = [(h, r, graph.entities.id(t)) in every for t in frame["tail"]]
    assert frame["known"].to_list() == expected
    assert any(expected)
    for row in frame.head(3).iter_rows(named=True):
        triple = torch.tensor([[h, r, graph.entities.id(row["tail"])]])
        with torch.no_grad():
            score = run.model.score(run.model.lookup(Batch.of(triple, torch.tensor([False]))))
        assert float(score) == pytest.approx(row["score"], abs=1e-5)
    dropped = run.predict("e04", "likes", top=40, known="drop")
    assert dropped["tail"].to_list() == frame.filter(~pl.col("known"))["tail"].to_list()
    kept = run.predict("e04", "likes", top=3, known="keep")
    assert kept["known"].to_list() == [None] * 3
    assert kept["tail"].to_list() == frame["tail"].to_list()[:3]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("side", ["head", "tail"])
def test_triples_of_every_split_are_known(run: mmrns.Run, split: str, side: str) -> None:
    graph = run.dataset.graph
    for h, r, t in getattr(graph, split)[:5].tolist():
        asked = {"relation": graph.relations[r]} | (
            {"tail": graph.entities[t]} if side == "head" else {"head": graph.entities[h]}
        )
        answer = graph.entities[h if side == "head" else t]
        frame = run.predict(**asked, top=40)
        assert frame.filter(pl.col(side) == answer)["known"].to_list() == [True]
        assert answer not in run.predict(**asked, top=40, known="drop")[side]


def test_heads_labels_and_query_files(run: mmrns.Run, tmp_path: Path) -> None:
    heads = run.predict(relation="part_of", tail="Entity 1", top=2)
    assert heads["tail"].to_list() == ["e01", "e01"]
    queries = tmp_path / "queries.tsv"
    queries.write_text("?\tpart_of\te01\ne04\tlikes\t?\n")
    both = run.predict(queries=queries, top=2)
    assert both.head(2).equals(heads)
    assert both.tail(2).drop("query").equals(run.predict("e04", "likes", top=2).drop("query"))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (("e4", "likes", None), "unknown entity 'e4'; did you mean"),
        (("e04", "like", None), "unknown relation 'like'; did you mean 'likes'"),
        (("e04", "likes", "e05"), "asks for the third; this asks for nothing"),
        ((None, "likes", None), "asks for the third; this asks for 2"),
        (("e04", None, None), "asks for the third; this asks for 2"),
    ],
)
def test_mistaken_queries_are_named(
    run: mmrns.Run, query: tuple[str | None, str | None, str | None], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run.predict(*query)


class _Writes(Callback):
    """Writes into a file after a step."""

    def __init__(self, path: Path, after: int):
        self.path, self.after = path, after

    def on_progress(self, step: int, loss: float | None) -> None:
        if step == self.after:
            with self.path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"\0")
            os.utime(self.path, ns=(0, 0))  # Whatever the clock's resolution.


@pytest.mark.parametrize("after", [1, SMALL["training"]["steps"]])
def test_training_notices_that_a_feature_file_changes(toy_folder: Path, tmp_path: Path, after: int) -> None:
    path = toy_folder / "features" / "text.safetensors"
    with pytest.raises(DataError, match=r"text\.safetensors: was changed while it is in use; start anew"):
        mmrns.train(_config(toy_folder), out=tmp_path / "run", callbacks=[_Writes(path, after)])
    assert not (tmp_path / "run" / "results.json").exists()


class _Stop(Exception):
    """Stands for whatever ends a process without warning."""


class _Abandon(mmrns.Callback):
    """Ends the process after a step."""

    def __init__(self, at: int):
        self.at = at

    def on_progress(self, step: int, loss: float | None) -> None:
        if step == self.at:
            raise _Stop


class _Notes(mmrns.Callback):
    """Keeps what is worth saying."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize(
    ("method", "modalities", "told"),
    [
        (
            "mmrns",
            [],
            "The sampler mmrns compares image and text; the scores read structure alone. --set "
            "model.modalities=[image,text] has entities scored by these too.",
        ),
        ("mmrns", ["text"], "The sampler mmrns compares image and text; the scores read structure and text."),
        (
            "self-adversarial",
            ["image", "text"],
            "The sampler uniform reads no modality; the scores read structure, image and text. --method mmrns draws by "
            "them.",
        ),
    ],
)
def test_it_says_what_is_read(toy_folder: Path, method: str, modalities: list[str], told: str) -> None:
    notes = _Notes()
    config = _config(toy_folder, method=method, sampler={}, model={"modalities": modalities, "dim": 6})
    mmrns.train(config, steps=2, callbacks=[notes])
    assert told in notes.notes


def test_it_says_that_there_is_no_modality_to_compare() -> None:
    notes = _Notes()
    triples = [("ann", "knows", "bob"), ("bob", "knows", "cem"), ("cem", "knows", "ann")]
    dataset = mmrns.Dataset.from_triples(triples, valid=[("ann", "knows", "cem")])
    mmrns.train(dataset=dataset, dim=4, steps=2, callbacks=[notes])
    assert "The dataset has no features: the sampler mmrns compares structure alone." in notes.notes
    mmrns.train(dataset=dataset, dim=4, steps=2, method="uniform", callbacks=[quiet := _Notes()])
    assert not any("features" in note for note in quiet.notes)


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, Any], mmrns.Run]]:
    """The configuration of a method, and its run that nothing stopped."""
    folder = tmp_path_factory.mktemp("in-one-go")
    dataset = write_toy(folder / "toy")

    @cache
    def trained(method: str) -> tuple[dict[str, Any], mmrns.Run]:
        config = _config(dataset, method=method, sampler={"negatives": 6})
        return config, mmrns.train(config, out=folder / method, plots=False)

    return trained


@pytest.mark.parametrize("method", ["mmrns", "self-adversarial"])
@pytest.mark.parametrize("at", [3, 20, 33, 55, 60])
def test_an_abandoned_run_resumes_to_the_same_bytes(
    in_one_go: Callable[[str], tuple[dict[str, Any], mmrns.Run]], tmp_path: Path, method: str, at: int
) -> None:
    config, whole = in_one_go(method)
    with pytest.raises(_Stop):
        mmrns.train(config, out=tmp_path / "cut", callbacks=[_Abandon(at)])
    with pytest.raises(DataError, match="holds no finished run; continue it with"):
        mmrns.load_run(tmp_path / "cut")
    with pytest.raises(DataError, match="holds a run already"):
        mmrns.train(config, out=tmp_path / "cut")
    resumed = mmrns.train(out=tmp_path / "cut", resume=True, plots=False)
    for name in ("model", "sampler"):
        file = f"{name}.safetensors"
        assert (resumed.folder / file).read_bytes() == (whole.folder / file).read_bytes()
    for split in ("valid", "test", "selected_step"):
        assert resumed.results[split] == whole.results[split]
    rows = [read_json_lines(folder / "metrics.jsonl") for folder in (whole.folder, resumed.folder)]
    for row in [*rows[0], *rows[1]]:
        del row["seconds"]
    assert rows[0] == rows[1]


def test_resume_refuses_what_conflicts(run: mmrns.Run, tmp_path: Path) -> None:
    assert mmrns.train(out=run.folder, resume=True).results == run.results
    same = ["training.steps=60", f"data.dataset={run.dataset.folder}"]
    assert mmrns.train(out=run.folder, settings=same, resume=True).results == run.results
    with pytest.raises(UsageError, match=r"training\.steps is 60 in .*config\.yaml, not 70"):
        mmrns.train(out=run.folder, settings=["training.steps=70"], resume=True)
    with pytest.raises(UsageError, match=r"did you mean 'training\.steps'"):
        mmrns.train(out=run.folder, settings=["training.step=60"], resume=True)
    with pytest.raises(DataError, match="holds no run to resume"):
        mmrns.train(out=tmp_path / "none", resume=True)


def test_another_number_of_threads_is_said_and_recorded(toy_folder: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    for sitting, more in enumerate((0, 1, 1, 2)):
        told = _Notes()
        with pytest.raises(_Stop):
            mmrns.train(
                None if sitting else _config(toy_folder),
                settings={"threads": threads + more},
                out=tmp_path / "run",
                resume=sitting > 0,
                callbacks=[told, _Abandon(16 + 2 * sitting)],
            )
        now, before = threads + more, threads + more - 1
        said = f"The run goes on with threads {now} (before {before}), so it may differ in the last bits from "
        said += "one in one go."
        assert [note for note in told.notes if "goes on" in note] == ([said] if sitting in (1, 3) else [])
        assert told.notes[0] == f"Training on cpu with {now} thread{'s' if now > 1 else ''}."
        record = json.loads((tmp_path / "run" / "record.json").read_text())
        assert record["threads"] == now
        assert [one["threads"] for one in record.get("earlier", [])] == [threads + i for i in range(more)]
        # The process has as many as before.
        assert torch.get_num_threads() == threads


def test_resume_refuses_other_data_than_it_began_with(toy_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(_Stop):
        mmrns.train(_config(toy_folder), out=tmp_path / "run", callbacks=[_Abandon(1)])
    record = (tmp_path / "run" / "record.json").read_bytes()
    path = toy_folder / "test.tsv"
    text = path.read_text()
    path.write_text(text.replace("\n", "\r\n"))
    with pytest.raises(
        DataError, match=r"test\.tsv: has changed since the run in .*run began; restore it, or train anew"
    ):
        mmrns.train(out=tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "record.json").read_bytes() == record
    path.write_text(text)
    assert mmrns.train(out=tmp_path / "run", resume=True, plots=False).results["test"]


def test_training_refuses_features_that_are_not_finite(toy_folder: Path, tmp_path: Path) -> None:
    path = toy_folder / "features" / "text.safetensors"
    tensors = load_file(path)
    tensors["values"][3, 0] = float("inf")
    save_file(tensors, path)
    with pytest.raises(DataError, match=r"text\.safetensors:4: the row of .+ holds NaN or infinity"):
        mmrns.train(_config(toy_folder), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validation_leak_is_said_and_can_be_dropped(toy_folder: Path, tmp_path: Path) -> None:
    train, valid = toy_folder / "train.tsv", toy_folder / "valid.tsv"
    valid.write_text(valid.read_text() + "".join(train.read_text().splitlines(keepends=True)[:5]))
    told = _Notes()
    config = _config(toy_folder) | {"training": SMALL["training"] | {"steps": 2}}
    leaking = mmrns.train(config, out=tmp_path / "a", callbacks=[told], plots=False)
    assert any("5 of 30 validation rows" in note for note in told.notes)
    config["data"] = {"dataset": str(toy_folder), "drop_leaked_valid": True}
    clean = mmrns.train(config, out=tmp_path / "b", plots=False)
    assert (leaking.results["valid"]["queries"], clean.results["valid"]["queries"]) == (60, 50)


def test_the_test_split_is_left_alone_when_asked(toy_folder: Path, tmp_path: Path) -> None:
    config = _config(toy_folder, evaluation={"test": False}) | {"training": SMALL["training"] | {"steps": 2}}
    results = mmrns.train(config, out=tmp_path / "run", plots=False).results
    assert "test" not in results
    assert "baseline" not in results


def test_a_changed_dataset_is_noticed(toy_folder: Path, tmp_path: Path) -> None:
    config = _config(toy_folder) | {"training": SMALL["training"] | {"steps": 2}}
    run = mmrns.train(config, out=tmp_path / "run", plots=False)
    with (toy_folder / "test.tsv").open("a") as file:
        file.write("new\tlikes\te00\n")
    with pytest.warns(Note, match=r"test\.tsv has changed"):
        again = mmrns.load_run(run.folder)
    with pytest.warns(Note, match=r"toy has 1 more entity \('new'\) since the training"):
        assert len(again.predict("e04", "likes", top=99)) == 39
    with pytest.raises(DataError, match=r"test\.tsv: 1 triple names what the model has no vector for; train again"):
        again.evaluate()
    assert again.evaluate("valid") == run.evaluate("valid")


def test_nothing_to_validate_on_is_an_error(toy_folder: Path, tmp_path: Path) -> None:
    (toy_folder / "valid.tsv").write_text("")
    with pytest.raises(DataError, match=r"valid\.tsv: no triple to validate on"):
        mmrns.train(_config(toy_folder), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_metrics_log_truncates_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = JsonLines(path)
    log.write({"step": 1})
    length = log.length
    log.write({"step": 2})
    assert read_json_lines(JsonLines(path, length).path) == [{"step": 1}]
    with pytest.raises(ValueError, match="not JSON compliant"):
        log.write({"loss": float("nan")})


@pytest.mark.parametrize(
    ("begun", "resumed"),
    [
        (["training.lr=1e-3"], ["training.lr=0.001"]),
        (["training.lr=1e-3"], {"training.lr": "1e-3"}),
        (["training.lr=1", "seed=1"], {"training.lr": 1.0, "seed": 1.0}),
        (["sampler.pool_sampler=nscaching"], ["sampler.pool_sampler=nscaching"]),
        (["sampler.pool_sampler={name: nscaching, cache: 7}"], ["sampler.pool_sampler={cache: 7, name: nscaching}"]),
        (["sampler.modalities=[text]"], {"sampler.modalities": ("text",)}),
        (["model.modalities=[text]"], {"model.modalities": ("text",), "model.embedder": "fused"}),
        ([], {"training.patience": 5, "method": "mmrns", "sampler.name": "mmrns", "objective.alpha": None}),
        ([], {"training.hardness": "yes"}),
    ],
)
def test_what_a_run_was_begun_with_is_what_it_is_resumed_with(tmp_path: Path, begun: list[str], resumed: Any) -> None:
    config = make_config(apply_settings({"method": "mmrns"}, begun))
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert _config_of(tmp_path, apply_settings({}, resumed)) == config
    assert _config_of(tmp_path, apply_settings({}, begun)) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.warmup=5"], r"training\.warmup is 0 in .*, not 5; --resume keeps .*, but for the learning rates"),
        (["method=sans"], r"method is 'mmrns' in .*, not 'sans'"),
        (["sampler.name=sans"], r"sampler\.name is 'mmrns' in .*, not 'sans'"),
        (["model.scorer=RotatE"], r"model\.scorer is 'TransE' in .*, not 'RotatE'"),
        (["sampler.pool_sampler=nscaching"], r"sampler\.pool_sampler.* in .*nscaching"),
        (["sampler.pol=3"], "unknown configuration key 'sampler.pol'; did you mean 'sampler.pool'"),
        (["training.lr=-1"], "greater than 0"),
    ],
)
def test_resume_tells_which_option_is_another(tmp_path: Path, settings: list[str], message: str) -> None:
    (tmp_path / "config.yaml").write_text(dump_config(make_config({"method": "mmrns"})))
    with pytest.raises(UsageError, match=message):
        _config_of(tmp_path, apply_settings({}, settings))


MANGLED = {
    "results.json": [
        '{"valid": {"both": {"optimistic": {"mrr": 0.5}}}, "selected_step": 1, "seconds": {}}',
        "[]",
        "{",
        '{"valid": null}',
        '{"valid": {"both": {"realistic": {"mrr": "x"}}}}',
        "[" * 5000,
    ],
    "record.json": [
        "3",
        '{"dataset": "toy"}',
        '{"dataset": {"name": "toy"}}',
        '{"dataset": {"name": 3, "sha256": {}}}',
    ],
    "metrics.jsonl": [
        "{\n",
        "3\n",
        '{"loss": 1}\n',
        '{"step": 1, "loss": [2]}\n',
        '{"step": 1}\n\n',
        '{"step": NaN}\n',
    ],
}


@pytest.mark.parametrize(("name", "content"), [(name, c) for name, contents in MANGLED.items() for c in contents])
def test_files_of_a_run_that_were_mangled_are_named(run: mmrns.Run, tmp_path: Path, name: str, content: str) -> None:
    assert run.folder is not None
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        repr(mmrns.load_run(tmp_path / "run"))


def test_names_of_a_run_that_are_no_text_are_named(run: mmrns.Run, tmp_path: Path) -> None:
    assert run.folder is not None
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "run" / "entities.txt").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match=r"entities\.txt: is not valid UTF-8"):
        _ = mmrns.load_run(tmp_path / "run", dataset=run.dataset).dataset
