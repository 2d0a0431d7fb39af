"""Runs with features that are not the true ones, trained so or ranked so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

import mmrns
from forms import scorer_for
from mmrns.cli import app
from mmrns.cli.show import out
from mmrns.errors import UsageError
from mmrns.nn.embedders import Embedder
from mmrns.runs.build import build_dataset
from mmrns.runs.config import make_config, takes
from toy import SHORT, write_toy

GIVEN: dict[str, Any] = {"device": "cpu", "method": "domain-range", "plots": False}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset `kg` and a run `fused` of it; not to be changed."""
    folder = tmp_path_factory.mktemp("sees")
    write_toy(folder / "kg")
    settings = SHORT | {"training.steps": 60, "training.lr": 0.02}
    mmrns.train(dataset=folder / "kg", out=folder / "fused", modalities=["text", "image"], settings=settings, **GIVEN)
    return folder


def test_what_is_ranked_is_what_a_dataset_with_such_features_gives(place: Path) -> None:
    run = mmrns.load_run(place / "fused")
    found = run.sees(seeds=2, bootstrap=20)
    assert found.columns[:5] == ["modality", "features", "part", "queries", "seeds"]
    true = run.evaluate()["both"]["realistic"]["mrr"]
    whole = found.filter(part="all")
    assert whole["mrr"][0] == pytest.approx(true)
    assert len(whole) == 1 + 2 * 6 + 2
    for name, how in (("shuffled", "shuffled"), ("dropped 30 %", 0.3), ("without", 1.0), ("noise", "noise")):
        each: list[float] = []
        for seed in (0, 1):
            values = {**run.config.model_dump(), "seed": seed}
            values["data"] = {**values["data"], "altered": {"text": how}}
            dataset = build_dataset(make_config(values), mmrns.load_dataset(place / "kg"))
            other = mmrns.load_run(place / "fused", dataset=dataset)
            each.append(other.evaluate()["both"]["realistic"]["mrr"])
        row = whole.filter(modality="text", features=name).row(0, named=True)
        each = each[: row["seeds"]]
        assert row["mrr"] == pytest.approx(sum(each) / len(each)), name
        assert row["difference"] == pytest.approx(row["mrr"] - true)
        assert row["low"] <= row["difference"] <= row["high"]
    assert {row["features"]: row["seeds"] for row in whole.to_dicts()}["without"] == 1
    unseen = found.filter(part="unseen", features="true").row(0, named=True)
    assert (unseen["queries"], found.filter(part="few")["queries"].unique().len()) == (2, 1)
    # Nothing of it stays.
    assert run.evaluate()["both"]["realistic"]["mrr"] == true


def test_the_command_prints_a_table_or_json(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A console asks how wide it is but once, when it is made.
    monkeypatch.setattr(out, "width", 200)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["sees", str(place / "fused"), *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    table = run("--seeds", "1", "--bootstrap", "0")
    assert "all: 50 queries, few triples: " in table
    assert ", not in train: 2 queries" in table
    assert len(table.splitlines()) == 2 + 1 + 2 * 6 + 2
    rows = json.loads(run("--by", "relation", "--seeds", "1", "--split", "valid", "--json"))
    assert {(row["modality"], row["features"]) for row in rows} == {(n, "shuffled") for n in ("text", "image", "all")}
    assert [row["difference"] for row in rows] == sorted(row["difference"] for row in rows)
    run("--by", "relation", "--seeds", "1", "--out", str(tmp_path / "x.csv"))
    assert pl.read_csv(tmp_path / "x.csv")["name"].null_count() == len(pl.read_csv(tmp_path / "x.csv"))


def test_a_run_trained_with_altered_features_goes_on_with_them(place: Path, tmp_path: Path) -> None:
    altered = {"data.altered": {"text": "noise", "image": 0.5}}
    folder = tmp_path / "noise"
    run = mmrns.train(dataset=place / "kg", out=folder, modalities=["text", "image"], settings=SHORT | altered, **GIVEN)
    again = mmrns.load_run(folder)
    assert again.config.data.altered == {"text": "noise", "image": 0.5}
    assert again.evaluate() == run.results["test"]
    assert again.dataset.features["image"].covered == 35 - round(35 / 2)
    with pytest.raises(UsageError, match=r"^features in memory that are not the true ones .* stay behind$"):
        again.export_bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"txt": "noise"}, "unknown modality 'txt'; did you mean 'text'"),
        ({"text": "shufled"}, r"^data\.altered\.text"),
        ({"text": 1.5}, r"^data\.altered\.text"),
    ],
)
def test_what_is_no_alteration_is_refused(place: Path, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mmrns.train(dataset=place / "kg", settings=SHORT | {"data.altered": value}, **GIVEN)


def test_a_model_of_structure_sees_nothing(place: Path) -> None:
    run = mmrns.train(dataset=place / "kg", settings=SHORT, **GIVEN)
    with pytest.raises(UsageError, match=r"^the model reads no features, so that there is nothing to see; give model"):
        run.sees()


READERS = [name for name in Embedder.registry.names() if takes(Embedder.registry.get(name), "modalities")]


@pytest.mark.parametrize("name", READERS)
def test_every_embedder_that_reads_features_is_given_the_altered_ones(place: Path, name: str) -> None:
    given = {"modalities": ["text"], "embedder": name, "scorer": scorer_for(name)}
    run = mmrns.train(dataset=place / "kg", settings=SHORT | {"training.steps": 2}, **given, **GIVEN)
    ids = torch.arange(8, 16)
    with torch.no_grad():
        before, after = (one.model.entities(ids).vectors for one in (run, run._altered({"text": "shuffled"}, 0)))
    assert not torch.allclose(before, after), (
        f"the embedder {name} keeps features of the dataset among its weights; read them from `features` instead, and "
        "leave buffers that are made of them out of the state (persistent=False)"
    )
