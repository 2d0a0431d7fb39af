"""A run is used on another machine, with its dataset in another place, or with data that is no longer the same."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import mmrns
from mmrns.data import datasets
from mmrns.data.datasets import changes, load_dataset
from mmrns.data.folders import find_dataset
from mmrns.errors import DataError, Note, UsageError
from mmrns.files import sha256_of, spot_sha256_of
from mmrns.runs.digests import write_sums
from mmrns.runs.places import beside, seen_from
from mmrns.runs.values import read_config

SETTINGS: dict[str, Any] = {
    "model.dim": 8,
    "training.steps": 4,
    "training.evaluate_every": 2,
    "training.batch_size": 64,
    "sampler.negatives": 4,
}


def _train(dataset: Any, out: Path | None, **more: Any) -> mmrns.Run:
    given = {"method": "uniform", "device": "cpu", **more}
    return mmrns.train(dataset=dataset, settings=SETTINGS | given.pop("settings", {}), out=out, plots=False, **given)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a run in `runs/one` and its dataset in `data/kg`; not to be changed."""
    from toy import write_toy

    folder = tmp_path_factory.mktemp("elsewhere")
    _train(write_toy(folder / "data" / "kg"), folder / "runs" / "one")
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, elsewhere, with nothing else around."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MMRNS_DATA", raising=False)
    monkeypatch.setattr("mmrns.data.folders.cache_folder", lambda: tmp_path / "no-cache")
    return Path(shutil.copytree(trained, tmp_path / "x" / "y"))


def _query(run: mmrns.Run) -> pl.DataFrame:
    return run.predict("e04", "likes", top=5)


def test_what_is_written_names_no_folder_above_both(place: Path, trained: Path) -> None:
    for file in (path for path in (place / "runs" / "one").rglob("*") if path.suffix in (".yaml", ".json", ".jsonl")):
        assert str(trained) not in file.read_text()
    assert yaml.safe_load((place / "runs" / "one" / "config.yaml").read_text())["data"]["dataset"] == "../../data/kg"


def test_a_run_and_its_dataset_are_moved_together(place: Path, trained: Path) -> None:
    run = mmrns.load_run(place / "runs" / "one")
    assert run.dataset.folder == place / "data" / "kg"
    assert run.evaluate() == mmrns.load_run(trained / "runs" / "one").evaluate()
    # What was trained is trained again from its configuration, wherever the working directory is.
    assert read_config(place / "runs" / "one" / "config.yaml")["data"]["dataset"] == str(place / "data" / "kg")


@pytest.mark.parametrize("by", ["MMRNS_DATA", "cwd", "above", "folder", "name", "object"])
def test_a_dataset_that_has_moved_is_found_or_given(place: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _query(mmrns.load_run(place / "runs" / "one"))
    new = {"cwd": Path.cwd(), "above": place}.get(by, place / "elsewhere") / "kg"
    new.parent.mkdir(exist_ok=True)
    (place / "data" / "kg").rename(new)
    if by in ("MMRNS_DATA", "name"):
        monkeypatch.setenv("MMRNS_DATA", str(new.parent))
    if by in ("folder", "name", "object"):
        given = {"folder": new, "name": "kg", "object": load_dataset(new)}[by]
        run = mmrns.load_run(place / "runs" / "one", dataset=given)
    else:
        with pytest.warns(Note, match=f"one: its dataset is not where it was; {new} is taken, which has the same name"):
            run = mmrns.load_run(place / "runs" / "one")
    assert _query(run).equals(expected)
    assert run.evaluate()["queries"] == 50


def test_without_its_dataset_a_run_answers_from_its_own_folder(place: Path) -> None:
    def used(run: mmrns.Run) -> list[Any]:
        asked = {"known": "drop"}, {"candidates": "train"}, {"known": "keep"}
        frames = [_query(run), *(run.predict("e04", "likes", **more) for more in asked)]
        scored = run.score([("e04", "likes", "Entity 5")])
        inspected = run.inspect("e04", "likes", "e05", steps=2)
        told = {key: inspected[key] for key in inspected if key != "descriptions"}
        return [[frame.to_dicts() for frame in frames], scored.to_dicts(), run.evaluate(), told]

    expected = used(mmrns.load_run(place / "runs" / "one"))
    shutil.rmtree(place / "data")
    assert used(mmrns.load_run(place / "runs" / "one")) == expected
    # A run of before there was such a copy says what it lacks.
    shutil.rmtree(place / "runs" / "one" / "dataset")
    sums = place / "runs" / "one" / "SHA256SUMS"
    sums.write_text("".join(f"{line}\n" for line in sums.read_text().splitlines() if "dataset/" not in line))
    run = mmrns.load_run(place / "runs" / "one")
    for use in (run.evaluate, lambda: _query(run), lambda: run.dataset):
        with pytest.raises(DataError, match="its dataset 'kg' is not found; say where it is by --dataset NAME"):
            use()


def test_a_model_that_reads_features_needs_them(place: Path) -> None:
    _train(place / "data" / "kg", place / "runs" / "fused", modalities=["text"])
    _train(place / "data" / "kg", place / "runs" / "mmrns", method="mmrns")
    shutil.rmtree(place / "data")
    run = mmrns.load_run(place / "runs" / "fused")
    message = r"its dataset 'kg' is not found, which alone has the features '{}' .* `mmrns export RUN --bundle FOLDER`"
    with pytest.raises(DataError, match=message.format("text")):
        _query(run)
    # Of the other only the sampler reads features.
    run = mmrns.load_run(place / "runs" / "mmrns")
    assert len(_query(run)) == 5
    with pytest.raises(DataError, match=message.format("image")):
        run.inspect("e04", "likes", "e05")
    with pytest.raises(DataError, match=message.format("text")):
        run.neighbours("e04", by="text")
    assert "text" not in run.neighbours("e04").columns


def test_an_old_run_names_an_absolute_path(place: Path) -> None:
    config = place / "runs" / "one" / "config.yaml"
    config.write_text(config.read_text().replace("../../data/kg", str(place / "data" / "kg")))
    assert len(_query(mmrns.load_run(place / "runs" / "one"))) == 5
    config.write_text(config.read_text().replace(str(place / "data" / "kg"), "/gone/data/kg"))
    (place / "data" / "kg").rename(place / "kg")
    with pytest.warns(Note, match="not where it was"):
        assert len(_query(mmrns.load_run(place / "runs" / "one"))) == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_run_of_a_device_that_is_not_here(place: Path) -> None:
    config = place / "runs" / "one" / "config.yaml"
    config.write_text(config.read_text().replace("device: cpu", "device: cuda"))
    with pytest.warns(Note, match="the run was trained on cuda, which is not available here; cpu is used"):
        run = mmrns.load_run(place / "runs" / "one")
    assert run.evaluate()["queries"] == 50
    assert len(_query(run)) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _query(mmrns.load_run(place / "runs" / "one", device="cpu")).equals(_query(run))
    with pytest.raises(UsageError, match="device 'cuda' is not available here"):
        mmrns.load_run(place / "runs" / "one", device="cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_training_goes_on_where_its_device_and_dataset_are_not(place: Path) -> None:
    one = place / "runs" / "one"
    config = one / "config.yaml"
    config.write_text(config.read_text().replace("device: cpu", "device: cuda"))
    (one / "results.json").unlink()
    (place / "data" / "kg").rename(place / "moved")
    with pytest.raises(UsageError, match="no dataset or folder"), pytest.warns(Note, match="trained on cuda"):
        mmrns.train(out=one, resume=True)
    assert mmrns.train(out=one, resume=True, device="cpu", dataset=place / "moved").results["test"]
    with pytest.raises(UsageError, match=r"data\.dataset is .*moved' in .*, not 'countries'"):
        mmrns.train(out=one, resume=True, dataset="countries")


def _append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def _edit(path: Path) -> None:
    """Another value of the same size."""
    tensors = load_file(path)
    tensors["values"][0, 0, 0] += 1
    save_file(tensors, path, {"encoder": "toy"})


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("test.tsv has changed", lambda kg: _append(kg / "test.tsv", "e00\tlikes\te01\n")),
        ("train.tsv has changed", lambda kg: _append(kg / "train.tsv", "e00\tlikes\te01\n")),
        ("entities.tsv has changed", lambda kg: _append(kg / "entities.tsv", "e00x\t\t\t\n")),
        ("features/text.safetensors has changed", lambda kg: _edit(kg / "features" / "text.safetensors")),
        ("features/text.entities is missing", lambda kg: (kg / "features" / "text.entities").unlink()),
        ("valid.tsv is missing, valid.txt is new", lambda kg: (kg / "valid.tsv").rename(kg / "valid.txt")),
    ],
)
def test_data_that_is_not_that_of_the_training_is_said(place: Path, what: str, change: Any) -> None:
    kg = place / "data" / "kg"
    change(kg)
    message = f"{kg} is not as it was when {place / 'runs' / 'one'} was trained: {what}"
    with pytest.warns(Note) as said:
        mmrns.load_run(place / "runs" / "one")
    assert [str(note.message) for note in said] == [message]
    kg.rename(place / "other")
    with pytest.warns(Note, match=f"other is not as it was .*: {what}"):
        mmrns.load_run(place / "runs" / "one", dataset=place / "other")


def test_large_features_are_read_in_spots(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets, "WHOLE", 100)
    kg = place / "data" / "kg"
    recorded = load_dataset(kg).fingerprint()
    assert set(recorded["spots"]) == {"features/image.safetensors", "features/text.safetensors"}
    assert changes(recorded, kg) == []
    read: list[str] = []
    monkeypatch.setattr(datasets, "sha256_of", lambda path: read.append(path.suffix) or sha256_of(path))
    assert changes(recorded, kg) == []
    assert set(read) == {".tsv", ".entities"}
    _edit(kg / "features" / "text.safetensors")
    assert changes(recorded, kg) == ["features/text.safetensors has changed"]
    # A record of before there were spots is told by the size.
    assert changes({"sha256": recorded["sha256"]}, kg) == []
    big = tmp_path / "big"
    big.write_bytes(bytes(2**24))
    before = spot_sha256_of(big)
    for place_of_change, seen in ((0, True), (2**24 - 1, True), (2**24 - 2**17, False)):
        changed = bytearray(2**24)
        changed[place_of_change] = 1
        big.write_bytes(changed)
        assert (spot_sha256_of(big) != before) is seen


def test_names_that_are_gone_are_refused_and_new_ones_left_out(place: Path) -> None:
    kg = place / "data" / "kg"
    test = kg.joinpath("test.tsv").read_text()
    kg.joinpath("test.tsv").write_text(test.replace("likes", "adores"))
    with pytest.warns(Note, match=r"test\.tsv has changed"):
        run = mmrns.load_run(place / "runs" / "one")
    with pytest.warns(Note, match=r"kg has 1 more relation \('adores'\) since the training, .*; left out"):
        assert len(_query(run)) == 5
    with pytest.raises(DataError, match=r"test\.tsv: \d+ triples name what the model has no vector for; train again"):
        run.evaluate()
    assert run.evaluate("valid")["queries"] == 50
    with pytest.raises(UsageError, match=r"^relation 'adores' was added to .*kg after the training, and the"):
        run.predict("e04", "adores")
    for split in ("train", "valid", "test"):
        path = kg / f"{split}.tsv"
        path.write_text(path.read_text().replace("likes", "adores"))
    with pytest.warns(Note, match="has changed"):
        run = mmrns.load_run(place / "runs" / "one")
    with pytest.raises(
        DataError,
        match=r"relations\.txt: is not the relations of .*kg \(1 gone, first 'likes'; 1 new, first 'adores'\)",
    ):
        _query(run)


def test_a_dataset_of_python_is_compared(tmp_path: Path) -> None:
    triples = [("a", "r", "b"), ("b", "r", "c"), ("c", "r", "a"), ("a", "s", "c")]
    made = mmrns.Dataset.from_triples(
        triples, valid=[("b", "s", "a")], features={"age": {"a": [0.1], "b": [0.2]}}, names={"a": "An\tA"}
    )
    run = _train(made, tmp_path / "run")
    same = mmrns.load_run(tmp_path / "run", dataset=made)
    assert same.evaluate("valid")["queries"] == 2
    other = mmrns.Dataset.from_triples(triples, valid=[("b", "s", "c")], features={"age": {"a": [0.1], "b": [0.3]}})
    with pytest.warns(Note, match="features/age has changed, valid has changed"):
        mmrns.load_run(tmp_path / "run", dataset=other)
    # Its own folder knows the rest.
    alone = mmrns.load_run(tmp_path / "run")
    assert alone.predict("a", "r").drop("head_name").equals(run.predict("a", "r").drop("head_name"))
    assert alone.predict("an a", "r")["head_name"].to_list() == ["An A", "An A"]
    assert alone.evaluate("valid") == run.evaluate("valid")


def test_names_are_compared_as_they_are(tmp_path: Path) -> None:
    names = ["a\x0bb", "a\x85b", "a\u2028b", "c\x1cd", "e"]
    triples = [(h, "r\x0c", t) for h in names for t in names if h != t]
    run = _train(mmrns.Dataset.from_triples(triples, valid=triples[:3]), tmp_path / "run")
    again = mmrns.load_run(tmp_path / "run", dataset=run.dataset)
    assert again.predict("e", "r\x0c")["tail"].sort().to_list() == sorted(names[:4])


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("/srv/runs/one/kg", "./kg"),
        ("/srv/data/kg", "../../data/kg"),
        ("/home/ann/data/kg", "~/data/kg"),
        ("countries", "countries"),
        ("../kg", "../kg"),
    ],
)
def test_paths_as_seen_from_a_run(value: str, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert seen_from(Path("/srv/runs/one"), value) == written
    assert "ann" not in written


def test_within_the_home_nothing_is_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert seen_from(Path("/home/ann/runs/one"), "/home/ann/data/kg") == os.path.join("..", "..", "data", "kg")


def test_a_path_beside_the_configuration_is_taken_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there" / "kg").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    file = tmp_path / "there" / "study.yaml"
    values = {"data": {"dataset": "kg"}, "sampler": {"path": "n.tsv"}}
    assert beside(values, file)["data"]["dataset"] == str(tmp_path / "there" / "kg")
    assert beside(values, file)["sampler"]["path"] == "n.tsv"
    (tmp_path / "here" / "kg").mkdir()
    with pytest.warns(
        Note, match=r"study\.yaml: data\.dataset is 'kg' beside this file, not the one in the working dir"
    ):
        assert beside(values, file)["data"]["dataset"] == str(tmp_path / "there" / "kg")
    assert beside({"data": None, "sampler": {"path": None}}, file) == {"data": None, "sampler": {"path": None}}


def test_negatives_of_the_users_own_travel_with_the_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toy import write_negatives

    write_negatives(place / "negatives.tsv")
    monkeypatch.chdir(place)
    _train("data/kg", place / "runs" / "file", method="file", settings={"sampler.path": "negatives.tsv"})
    config = place / "runs" / "file" / "config.yaml"
    assert yaml.safe_load(config.read_text())["sampler"]["path"] == "../../negatives.tsv"
    moved = place.rename(place.with_name("z"))
    monkeypatch.chdir("/")
    run = mmrns.load_run(moved / "runs" / "file")
    assert run.inspect("e08", "part_of", "e02", steps=2)["queries"]
    (moved / "negatives.tsv").unlink()
    run = mmrns.load_run(moved / "runs" / "file")
    assert run.evaluate()["queries"] == 50
    with pytest.raises(DataError, match=r"negatives\.tsv: cannot be read"):
        run.inspect("e08", "part_of", "e02", steps=2)


@pytest.mark.parametrize("file", ["model.safetensors", "sampler.safetensors"])
def test_damaged_weights_are_named(place: Path, file: str) -> None:
    _train(place / "data" / "kg", place / "runs" / "two", method="mmrns")
    path = place / "runs" / "two" / file
    tensors = load_file(path)
    name = next(name for name, values in tensors.items() if values.is_floating_point() and values.numel() > 1)
    tensors[name].view(-1)[1] = np.nan
    save_file(tensors, path)
    write_sums(path.parent, sha256_of(path.with_name("results.json")))  # Written so, not damaged since.
    run = mmrns.load_run(place / "runs" / "two")
    uses: list[Any] = [lambda: run.inspect("e04", "likes", "e05", steps=1)]
    if file == "model.safetensors":
        uses += [run.evaluate, lambda: _query(run), lambda: run.score([("e04", "likes", "e05")]), run.embeddings]
    for use in uses:
        with pytest.raises(
            DataError, match=rf"{file}: holds what is not finite in '{name}'; restore the file, or train"
        ):
            use()


def test_an_own_folder_of_a_known_name_is_not_passed_over_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toy import write_toy

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmrns.data.folders.cache_folder", lambda: tmp_path / "no-cache")
    (tmp_path / "countries").mkdir()
    find_dataset("countries")  # It is no dataset.
    write_toy(tmp_path / "countries")
    with pytest.warns(Note, match=r"'countries' is the embedded dataset; for your own folder .* write \./countries$"):
        assert find_dataset("countries") != tmp_path / "countries"
    assert find_dataset("./countries") == Path("countries")
    write_toy(tmp_path / "graphs" / "kg")
    write_toy(tmp_path / "kg")
    monkeypatch.setenv("MMRNS_DATA", str(tmp_path / "graphs"))
    with pytest.warns(Note, match=r"'kg' is .*graphs/kg; for your own folder of that name write \./kg"):
        assert find_dataset("kg") == tmp_path / "graphs" / "kg"
    monkeypatch.chdir(tmp_path / "graphs")
    assert find_dataset("kg") == tmp_path / "graphs" / "kg"
    write_toy(tmp_path / "graphs" / "countries")
    with pytest.warns(Note, match=r"for your own folder of that name write \./countries"):
        find_dataset("countries")
    monkeypatch.chdir(tmp_path / "kg")
    with pytest.warns(Note, match=r"for your own folder of that name write .*/graphs/countries"):
        find_dataset("countries")
