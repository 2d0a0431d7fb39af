"""Datasets from folders and by name, the real folders beside the repository among them."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file, save_file

from mmrns.data.datasets import Dataset, describe, load_dataset
from mmrns.data.folders import EMBEDDED, SPLITS, dataset_folders, find_dataset
from mmrns.errors import DataError, Note, UsageError
from toy import ENTITIES, MISSING, SHAPES


@pytest.fixture(autouse=True)
def _no_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMRNS_DATA", raising=False)
    monkeypatch.setattr("mmrns.data.folders.cache_folder", lambda: tmp_path / "cache")


def triples(folder: Path, split: str) -> list[tuple[str, ...]]:
    return [tuple(line.split("\t")) for line in (folder / f"{split}.tsv").read_text(encoding="utf-8").splitlines()]


def rewrite(folder: Path, layout: str) -> None:
    """Store the splits in another layout, with a line end or column names of its own."""
    for split in SPLITS:
        path = folder / f"{split}.tsv"
        text, rows = path.read_text(encoding="utf-8"), triples(folder, split)
        path.unlink()
        if layout == "txt":
            (folder / f"{split}.txt").write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
        elif layout == "tsv.gz":
            (folder / f"{split}.tsv.gz").write_bytes(gzip.compress(text.encode()))
        else:
            pl.DataFrame(rows, schema=["s", "p", "o"], orient="row").write_parquet(folder / f"{split}.parquet")


def test_toy_holds_what_its_files_hold(toy_folder: Path) -> None:
    dataset = load_dataset(toy_folder)
    graph = dataset.graph
    assert (dataset.name, dataset.folder) == ("toy", toy_folder)
    assert list(graph.entities) == ENTITIES
    assert list(graph.relations) == ["knows", "likes", "next_to", "owns", "part_of"]
    for split, rows in (("train", graph.train), ("valid", graph.valid), ("test", graph.test)):
        named = [(graph.entities[h], graph.relations[r], graph.entities[t]) for h, r, t in rows.tolist()]
        assert named == triples(toy_folder, split)
    assert not graph.seen_entities[39]
    assert graph.seen_entities[:39].all()
    for modality, missing in MISSING.items():
        values, mask = dataset.features.gather(modality, torch.arange(40))
        assert values.shape == (40, *SHAPES[modality])
        assert (~mask.any(1)).nonzero().flatten().tolist() == missing
        assert int((~mask).sum()) > len(missing) * SHAPES[modality][0]
    assert dataset.labels["e07"] == "Entity 7"


@pytest.mark.parametrize("layout", ["txt", "tsv.gz", "parquet"])
def test_layouts_of_the_splits_are_equal(toy_folder: Path, layout: str) -> None:
    plain = load_dataset(toy_folder)
    rewrite(toy_folder, layout)
    other = load_dataset(toy_folder)
    assert {path.name for path in other.files.values()} == {f"{split}.{layout}" for split in SPLITS}
    assert list(other.graph.entities) == list(plain.graph.entities)
    assert list(other.graph.relations) == list(plain.graph.relations)
    for split in SPLITS:
        assert torch.equal(getattr(other.graph, split), getattr(plain.graph, split))


@pytest.mark.parametrize("split", SPLITS)
def test_missing_split(toy_folder: Path, split: str) -> None:
    (toy_folder / f"{split}.tsv").unlink()
    with pytest.raises(DataError) as caught:
        load_dataset(toy_folder)
    remedy = f"`mmrns data split {toy_folder} DST` makes train, valid and test, or add {split}.tsv"
    remedy = remedy if split != "train" else f"add {split}.tsv"
    message = f"split '{split}' is missing; {remedy} (head TAB relation TAB tail)"
    assert str(caught.value) == f"{toy_folder}: {message}"


def test_two_files_for_a_split(toy_folder: Path) -> None:
    (toy_folder / "valid.txt").write_text("e01\tlikes\te02\n")
    with pytest.raises(DataError) as caught:
        load_dataset(toy_folder)
    assert str(caught.value) == f"{toy_folder}: valid.tsv and valid.txt both hold split 'valid'; keep one"


def test_train_must_hold_something_but_valid_need_not(toy_folder: Path) -> None:
    (toy_folder / "valid.tsv").write_text("")
    assert load_dataset(toy_folder).graph.valid.shape == (0, 3)
    (toy_folder / "train.tsv").write_text("")
    with pytest.raises(DataError, match=r"train\.tsv: holds no triple; put the training triples there"):
        load_dataset(toy_folder)


def test_a_bad_row_of_a_split_is_named(toy_folder: Path) -> None:
    path = toy_folder / "test.tsv"
    path.write_text(path.read_text() + "e01\tlikes\n")
    with pytest.raises(DataError) as caught:
        load_dataset(toy_folder)
    assert (caught.value.where, caught.value.line) == (path, 26)


@pytest.mark.parametrize(
    ("frame", "message", "line"),
    [
        (pl.DataFrame({"h": ["a"], "t": ["b"]}), "2 columns where 3 are expected; keep head, relation, tail", None),
        (pl.DataFrame({"h": ["a", ""], "r": ["r", "r"], "t": ["b", "b"]}), "empty field; mend or delete the row", 2),
        (pl.DataFrame({"h": ["a", "a"], "r": ["r", None], "t": ["b", "b"]}), "empty field; mend or delete the row", 2),
        (None, "is not a readable Parquet file", None),
    ],
)
def test_bad_parquet(toy_folder: Path, frame: pl.DataFrame | None, message: str, line: int | None) -> None:
    (toy_folder / "test.tsv").unlink()
    path = toy_folder / "test.parquet"
    if frame is None:
        path.write_bytes(b"nothing of the kind")
    else:
        frame.write_parquet(path)
    with pytest.raises(DataError) as caught:
        load_dataset(toy_folder)
    assert str(caught.value).startswith(f"{path}: {message}" if line is None else f"{path}:{line}: {message}")


def test_parquet_of_integers_is_read_as_names(toy_folder: Path) -> None:
    (toy_folder / "test.tsv").unlink()
    pl.DataFrame({"h": [7], "r": [1], "t": [10]}).write_parquet(toy_folder / "test.parquet")
    graph = load_dataset(toy_folder).graph
    ((h, r, t),) = graph.test.tolist()
    assert (graph.entities[h], graph.relations[r], graph.entities[t]) == ("7", "1", "10")


def test_entities_table_adds_names_and_labels(toy_folder: Path) -> None:
    (toy_folder / "entities.tsv").write_text("image\tentity\tname\n\te00\tZero\n\tnew\t\n")
    dataset = load_dataset(toy_folder)
    assert list(dataset.graph.entities) == [*ENTITIES, "new"]
    assert dataset.labels == {"e00": "Zero"}
    (toy_folder / "entities.tsv").unlink()
    plain = load_dataset(toy_folder)
    assert list(plain.graph.entities) == ENTITIES
    assert plain.labels == {}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("entity\tname\ne00\ta\ne01\tb\ne00\tc\n", 4, "entity 'e00' is listed twice; keep one row"),
        ("id\tname\ne00\ta\n", 1, "has no column `entity`; name the column of entity ids `entity`"),
        ("entity\tname\ne00\n", 2, "1 columns where the header has 2; mend the row"),
        ("entity\tname\ne00\ta\n\tb\n", 3, "empty entity; name it or delete the row"),
        ("entity\ne00\n\n", 3, "empty entity; name it or delete the row"),
    ],
)
def test_bad_entities_table(toy_folder: Path, text: str, line: int, message: str) -> None:
    path = toy_folder / "entities.tsv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_dataset(toy_folder)
    assert str(caught.value) == f"{path}:{line}: {message}"


def test_a_name_with_a_double_quote_survives(toy_folder: Path) -> None:
    for split, text in (("train", 'e00\tsays\t"e00\n'), ("test", '"e00\tsays\te"0"\n')):
        path = toy_folder / f"{split}.tsv"
        path.write_text(path.read_text() + text)
    graph = load_dataset(toy_folder).graph
    h, r, t = graph.test[-1].tolist()
    assert (graph.entities[h], graph.relations[r], graph.entities[t]) == ('"e00', "says", 'e"0"')


def test_labels_without_a_name_column(toy_folder: Path) -> None:
    (toy_folder / "entities.tsv").write_text("entity\ne00\n")
    assert load_dataset(toy_folder).labels == {}


def test_names_are_embedded_first_then_in_the_data_root(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    toy_folder.rename(root / "mine")
    (root / "countries").mkdir()
    (root / "countries" / "train.tsv").write_text("a\tr\tb\n")
    (root / "no dataset").mkdir()
    (root / "README.md").write_text("")
    with pytest.raises(UsageError, match=r"no dataset or folder 'mine'; known: countries \(\$MMRNS_DATA is not set\)"):
        find_dataset("mine")
    monkeypatch.setenv("MMRNS_DATA", str(root))
    assert list(dataset_folders()) == ["countries", "mine"]
    with pytest.warns(Note, match="'countries' is the embedded dataset; for your own folder of that name write"):
        assert find_dataset("countries") == EMBEDDED["countries"]
    dataset = load_dataset("mine")
    assert (dataset.name, dataset.folder) == ("mine", root / "mine")
    with pytest.raises(UsageError) as caught:
        find_dataset("mien")
    assert str(caught.value) == "no dataset or folder 'mien'; did you mean 'mine'? known: countries, mine"
    assert caught.value.exit_code == 2
    monkeypatch.setenv("MMRNS_DATA", str(tmp_path / "nowhere"))
    assert list(dataset_folders()) == ["countries"]


def test_a_folder_of_another_name_is_found_by_path(toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy_folder)
    here = load_dataset(".")
    assert here.name == "toy"
    assert load_dataset(toy_folder.parent / "toy").checksums() == here.checksums()


def test_unfit_features_are_refused_where_they_count(toy_folder: Path) -> None:
    path = toy_folder / "features" / "text.safetensors"
    tensors = load_file(path)
    tensors["mask"][7, 2] = False
    for dtype in (np.float32, np.float16):
        tensors["values"] = tensors["values"].astype(dtype)
        tensors["values"][7, 2, 3] = np.nan
        save_file(tensors, path)
        load_dataset(toy_folder).refuse_unfit()
        for value in (np.nan, -np.inf):
            spoilt = {"values": tensors["values"].copy(), "mask": tensors["mask"]}
            spoilt["values"][9, 0, 7] = value
            save_file(spoilt, path)
            with pytest.raises(DataError) as caught:
                load_dataset(toy_folder).refuse_unfit()
            assert (caught.value.where, caught.value.line) == (path, 10)
            assert "holds NaN or infinity in a token that its mask calls present; encode it again" in str(caught.value)

    dataset = load_dataset(toy_folder)
    (entity,) = (dataset.features["text"].row == 9).nonzero().squeeze(1)
    others = torch.arange(40)[torch.arange(40) != entity].flip(0)
    dataset.refuse_unfit(others)
    with pytest.raises(DataError) as caught:
        dataset.refuse_unfit(others.index_copy(0, torch.tensor([20]), entity[None]))
    assert (caught.value.where, caught.value.line) == (path, 10)


@pytest.mark.parametrize(
    ("value", "fits"), [(1e30, False), (-1e30, False), (2.0**62, False), (6.9e18, False), (4e18, True)]
)
def test_features_too_large_to_be_squared_are_refused(toy_folder: Path, value: float, fits: bool) -> None:
    """A token of the text has 8 values: 8 x^2 is beyond single precision from x = 6.52e18, and 2^62 is 4.61e18."""
    path = toy_folder / "features" / "text.safetensors"
    tensors = load_file(path)
    tensors["values"] = tensors["values"].astype(np.float32)
    tensors["mask"][[7, 9], 0] = [False, True]
    tensors["values"][[7, 9], 0, 5] = [1e30, value]
    save_file(tensors, path)
    dataset = load_dataset(toy_folder)
    if fits:
        dataset.refuse_unfit()
        return
    entity = (toy_folder / "features" / "text.entities").read_text().splitlines()[9]
    with pytest.raises(DataError) as caught:
        dataset.refuse_unfit()
    assert str(caught.value) == (
        f"{path}:10: the row of {entity!r} holds {value:.3g}, too large to be squared in single precision in a token "
        "that its mask calls present; scale the features; `mmrns data check` lists all"
    )


def test_feature_files_that_are_written_to_are_noticed(toy_folder: Path) -> None:
    path = toy_folder / "features" / "text.safetensors"
    content = path.read_bytes()
    dataset = load_dataset(toy_folder)
    dataset.refuse_changed()
    new = path.with_name("new")
    new.write_bytes(content)
    new.rename(path)  # The other file stays mapped.
    dataset.refuse_changed()
    path.unlink()
    dataset.refuse_changed()
    path.write_bytes(content)
    dataset = load_dataset(toy_folder)
    os.utime(path, ns=(0, 0))  # Whatever the clock's resolution.
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    with pytest.raises(DataError, match=r"text\.safetensors: was changed while it is in use; start anew; write a new"):
        dataset.refuse_changed()


def test_checksums_are_those_of_the_files(toy_folder: Path) -> None:
    found = load_dataset(toy_folder).checksums()
    assert {f"{split}.tsv" for split in SPLITS} < set(found)
    assert {f"features/{m}.{kind}" for m in SHAPES for kind in ("entities", "safetensors")} < set(found)
    for name, checksum in found.items():
        assert checksum == hashlib.sha256((toy_folder / name).read_bytes()).hexdigest()
    assert load_dataset(toy_folder).checksums() == found
    path = toy_folder / "valid.tsv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    changed = load_dataset(toy_folder).checksums()
    assert {name for name in found if changed[name] != found[name]} == {"valid.tsv"}


def test_checksums_cover_all_that_ids_depend_on(toy_folder: Path) -> None:
    before = load_dataset(toy_folder)
    checksums = before.checksums()
    path = toy_folder / "entities.tsv"
    path.write_text(path.read_text() + "a new one\t\t\t\n")
    after = load_dataset(toy_folder)
    assert not torch.equal(before.graph.train, after.graph.train)
    assert after.checksums() != checksums


def test_without_leaked_valid(toy_folder: Path) -> None:
    path = toy_folder / "valid.tsv"
    rows = (toy_folder / "train.tsv").read_text().splitlines()[:3]
    path.write_text(path.read_text() + "\n".join(rows) + "\n")
    dataset = load_dataset(toy_folder)
    assert len(dataset.graph.valid) == 28
    clean = dataset.without_leaked_valid()
    assert len(clean.graph.valid) == 25
    assert clean.features is dataset.features
    notes = describe(dataset)["notes"]
    assert notes == ["3 of 28 rows of valid are also in train or test"]
    assert describe(clean)["notes"] == []


def test_describe_counts(toy: Dataset) -> None:
    found = describe(toy)
    assert (found["entities"], found["relations"]) == (40, 5)
    n = len(toy.graph.train)
    assert found["triples"]["train"] == {"rows": n, "distinct": n, "with an entity unseen in train": 0}
    assert found["triples"]["test"] == {"rows": 25, "distinct": 25, "with an entity unseen in train": 1}
    image = {"entities": 35, "coverage": 0.875, "tokens": 5, "width": 7, "unmatched": 0, "encoder": "toy"}
    assert found["features"]["image"] == image
    assert found["notes"] == []


def real(shared: Path, name: str) -> Dataset:
    folder = shared / "data" / name
    if not folder.is_dir():
        pytest.skip(f"needs the dataset {name}")
    return load_dataset(folder)


def test_fb15k_237(shared: Path) -> None:
    dataset = real(shared, "FB15k-237")
    graph = dataset.graph
    assert (len(graph.entities), len(graph.relations)) == (14_541, 237)
    assert (len(graph.train), len(graph.valid), len(graph.test)) == (272_115, 17_535, 20_466)
    assert list(dataset.features) == ["numeric", "text"]
    ids = torch.tensor([0, 14_540, 7_000])
    for name, modality in dataset.features.items():
        assert 0 < modality.covered <= 14_541
        assert not modality.unmatched
        values, mask = dataset.features.gather(name, ids)
        assert values.shape == (3, modality.tokens, modality.width)
        assert torch.equal(values.any(-1), mask)
    assert not graph.leaked_valid().any()


def test_db15k(shared: Path) -> None:
    dataset = real(shared, "DB15K")
    graph = dataset.graph
    assert any('"' in name for name in graph.entities)
    in_train = graph.train_index.contains(*graph.valid.unbind(1))
    assert int(in_train.sum()) == 8_719
    assert len(graph.valid) == 9_904
    assert int(graph.leaked_valid().sum()) >= 8_719
    clean = dataset.without_leaked_valid().graph
    assert not graph.train_index.contains(*clean.valid.unbind(1)).any()


def test_what_looks_wrong_is_noted(toy_folder: Path) -> None:
    assert load_dataset(toy_folder).notes == ()
    test, valid = toy_folder / "test.tsv", toy_folder / "valid.tsv"
    test.write_text("head\trelation\ttail\n" + test.read_text())
    valid.write_text("".join('"' + line.replace("\t", '"\t"') + '"\n' for line in valid.read_text().splitlines()))
    with (toy_folder / "train.tsv").open("a") as file:
        file.write("e0\u200b0\tlikes\te01\ne00\tlikes\u00a0\te01\n")
    dataset = load_dataset(toy_folder)
    assert dataset.notes == (
        "valid.tsv: every head and relation and tail is in quotes, which are read as part of the names; "
        "`mmrns data convert` takes them off",
        "test.tsv:1: head TAB relation TAB tail looks like a header, and is read as a triple; delete the line",
        "1 entities differ from another only in blanks or invisible characters, first: 'e0\\u200b0' and 'e00'; write "
        "them alike if they are one",
        "1 relations differ from another only in blanks or invisible characters, first: 'likes\\xa0' and 'likes'; "
        "write them alike if they are one",
    )
    assert describe(dataset)["notes"][:4] == list(dataset.notes)


def test_names_in_memory_that_look_alike_are_noted() -> None:
    (note,) = Dataset.from_triples([("a", "r", "b"), ("b", "r", "a ")]).notes
    assert "first: 'a ' and 'a'" in note
