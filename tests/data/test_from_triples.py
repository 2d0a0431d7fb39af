"""Datasets made of what is in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmrns.data.datasets import Dataset, describe, load_dataset
from mmrns.errors import UsageError

ROWS = [("ann", "knows", "bob"), ("bob", "knows", "cem"), ("cem", "likes", "ann")]
NAMES = [*"abcd", 'the "b"', "Zürich", "1"]


def named(dataset: Dataset, split: str = "train") -> list[tuple[str, ...]]:
    graph = dataset.graph
    return [(graph.entities[h], graph.relations[r], graph.entities[t]) for h, r, t in getattr(graph, split).tolist()]


def pandas_frame(rows: list[tuple[Any, ...]], columns: list[str]) -> Any:
    return pytest.importorskip("pandas").DataFrame(rows, columns=columns)


def polars_frame(rows: list[tuple[Any, ...]], columns: list[str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=columns, orient="row")


FRAMES = [polars_frame, pandas_frame]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from("rst"), st.sampled_from(NAMES)), min_size=1))
def test_lists_arrays_and_frames_say_the_same(rows: list[tuple[str, str, str]]) -> None:
    columns = ["head", "relation", "tail"]
    expected = sorted({name for h, _, t in rows for name in (h, t)})
    for given_rows in (rows, [list(row) for row in rows], np.array(rows), polars_frame(rows, columns)):
        dataset = Dataset.from_triples(given_rows)
        assert named(dataset) == rows
        assert list(dataset.graph.entities) == expected
        assert dataset.graph.valid.shape == dataset.graph.test.shape == (0, 3)


@pytest.mark.parametrize("frame", FRAMES)
def test_columns_are_found_by_name_or_by_place(frame: Any) -> None:
    swapped = [(i, t, h, r) for i, (h, r, t) in enumerate(ROWS)]
    assert named(Dataset.from_triples(frame(swapped, ["n", "tail", "head", "relation"]))) == ROWS
    assert named(Dataset.from_triples(frame(ROWS, ["von", "wie", "nach"]))) == ROWS
    with pytest.raises(
        UsageError, match=r"^triples: 4 columns \(a, b, c, d\); call three of them head, relation, tail$"
    ):
        Dataset.from_triples(frame(swapped, ["a", "b", "c", "d"]))


@pytest.mark.parametrize("frame", FRAMES)
def test_integers_are_names_by_their_decimals(frame: Any) -> None:
    rows = [(10, 0, 9), (9, 1, -3)]
    expected = [("10", "0", "9"), ("9", "1", "-3")]
    for given_rows in (
        rows,
        np.array(rows),
        np.array(rows, dtype=object),
        torch.tensor(rows),
        frame(rows, list("hrt")),
    ):
        assert named(Dataset.from_triples(given_rows)) == expected
    assert named(Dataset.from_triples([("a", 1, "1")])) == [("a", "1", "1")]


def test_categories_and_missing_values_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS, columns=["head", "relation", "tail"]).astype("category")
    assert named(Dataset.from_triples(frame)) == ROWS
    for missing in (None, float("nan"), pandas.NA, pandas.NaT, "", "  "):
        rows = [*ROWS, ("ann", "knows", missing)]
        with pytest.raises(UsageError, match=r"^triples: row 3 \(counted from 0\) has no tail; name it, or leave"):
            Dataset.from_triples(pandas.DataFrame(rows, columns=["head", "relation", "tail"]))
        with pytest.raises(UsageError, match=r"row 3 .* has no tail"):
            Dataset.from_triples(rows)
    numbers = pandas.DataFrame({"head": [1, None, 2], "relation": 0, "tail": 3})
    with pytest.raises(UsageError, match=r"the head of row 0 .counted from 0. is 1.0; a name is a string"):
        Dataset.from_triples(numbers)
    assert named(Dataset.from_triples(numbers.dropna().astype("Int64"))) == [("1", "0", "3"), ("2", "0", "3")]


@pytest.mark.parametrize(
    ("triples", "message"),
    [
        ([], "triples: there is none to train on; give at least one"),
        ("abc", "triples: a str; give a frame, an array [n, 3] or a list of triples"),
        (7, "triples: a int; give a frame"),
        (["abc"], "triples: row 0 (counted from 0) is 'abc'; give head, relation and tail"),
        ([*ROWS, ("a", "b")], "triples: row 3 (counted from 0) is ('a', 'b')"),
        (np.zeros((2, 2), dtype=int), "triples: an array of shape [2, 2]; give [n, 3]"),
        (np.zeros((2, 3)), "triples: the head of row 0 (counted from 0) is 0.0; a name is"),
        ([("a", True, "b")], "triples: the relation of row 0 (counted from 0) is True"),
        ([("a", "r", b"b")], "triples: the tail of row 0 (counted from 0) is b'b'"),
        ([("a", "r", "b\nc")], "triples: row 0 (counted from 0) has a tab or a line end in a name"),
        (pl.DataFrame({"head": ["a"], "relation": [True], "tail": ["b"]}), "the relation of row 0"),
        (pl.DataFrame({"head": [None], "relation": ["r"], "tail": ["b"]}), "row 0 (counted from 0) has no head"),
    ],
)
def test_what_is_no_list_of_triples(triples: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Dataset.from_triples(triples)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value).replace("\\n", "")
    if isinstance(triples, list) and triples:
        with pytest.raises(UsageError, match=r"^valid: (row|the)"):
            Dataset.from_triples(ROWS, valid=triples)


def test_splits_are_given_or_made() -> None:
    given = Dataset.from_triples(ROWS, valid=[("ann", "likes", "bob")], test=np.array([["ann", "likes", "zoe"]]))
    assert named(given, "valid") == [("ann", "likes", "bob")]
    assert named(given, "test") == [("ann", "likes", "zoe")]
    rows = [(h, r, t) for h in range(12) for r in ("r", "s") for t in range(12) if (h + t) % 3]
    # Triples between the same two entities stay together, two or four at a time.
    made = Dataset.from_triples([*rows, *rows], split={"valid": 0.1, "test": 20}, seed=3)
    assert (len(made.graph.valid), len(made.graph.test)) == (18, 20)
    everything = [row for split in ("train", "valid", "test") for row in named(made, split)]
    assert sorted(everything) == sorted((str(h), r, str(t)) for h, r, t in rows)
    assert made.graph.seen_entities.all()
    again, other = (Dataset.from_triples(rows, split={"valid": 0.1, "test": 20}, seed=seed) for seed in (3, 4))
    assert again.graph.test.tolist() == made.graph.test.tolist() != other.graph.test.tolist()
    assert len(Dataset.from_triples(rows, split={"test": 5}).graph.valid) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": {"valid": 0.1}, "test": ROWS}, "give either valid= and test=, or split= with"),
        ({"split": {"dev": 0.1}}, "give either valid= and test=, or split= with"),
        ({"split": {"valid": 1.5}}, "give shares below 1"),
        ({"split": {"valid": -1}}, "give shares below 1"),
        ({"split": {"valid": 3}}, "rows can be held out without leaving an entity"),
    ],
)
def test_splits_that_cannot_be_made(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Dataset.from_triples(ROWS, **options)
    assert "\n" not in str(caught.value)


VALUES = np.arange(12, dtype=np.float32).reshape(2, 2, 3)


def test_features_in_every_form() -> None:
    mask = np.array([[True, True], [True, False]])
    dataset = Dataset.from_triples(
        ROWS,
        features={
            "tokens": {"ann": VALUES[0], "bob": VALUES[1, :1].tolist(), "nobody": torch.zeros(2, 3)},
            "vectors": {"cem": [1, 2], "ann": np.float64([0.5, 3])},
            "pair": (["cem", "ann"], VALUES[:, 0]),
            "masked": (np.array(["cem", "ann"]), torch.from_numpy(VALUES), mask),
            "half": (pl.Series(["bob"]), VALUES[:1].astype(np.float16)),
        },
    )
    entities, features = dataset.graph.entities, dataset.features
    ids = torch.tensor([entities.id(name) for name in ("ann", "bob", "cem")])
    values, present = features.gather("tokens", ids)
    assert present.tolist() == [[True, True], [True, False], [False, False]]
    assert values[0].tolist() == VALUES[0].tolist()
    assert values[1].tolist() == [VALUES[1, 0].tolist(), [0, 0, 0]]
    assert list(features["tokens"].unmatched) == ["nobody"]
    assert features.gather("vectors", ids)[0].tolist() == [[[0.5, 3]], [[0, 0]], [[1, 2]]]
    assert features["vectors"].values.dtype == features["pair"].values.dtype == torch.float32
    assert features.gather("pair", ids)[0][:, 0].tolist() == [VALUES[1, 0].tolist(), [0, 0, 0], VALUES[0, 0].tolist()]
    assert features.gather("masked", ids)[1].tolist() == [[True, False], [False, False], [True, True]]
    assert features["half"].values.dtype == torch.float16
    dataset.refuse_unfit()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (VALUES, "features['x']: a ndarray; give a mapping of entities to arrays"),
        ((1, VALUES), "features['x']: a tuple; give a mapping of entities to arrays"),
        ({}, "features['x']: no entity; leave the modality out"),
        ({"ann": VALUES}, "features['x']['ann']: [2, 2, 3] where 'ann' has [2, 2, 3]; give every entity [L, D] or [D]"),
        ({"ann": [1, 2], "bob": [1, 2, 3]}, "features['x']['bob']: [1, 3] where 'ann' has [1, 2]"),
        ({"ann": [[1], [1, 2]]}, "features['x']['ann']: is no array ("),
        ({"ann": ["x"]}, "features['x']['ann']: holds <U1, not numbers"),
        ({"ann": [float("nan")]}, "features['x']: the row of 'ann' holds NaN or infinity"),
        ({"ann": [1e39]}, "features['x']: the row of 'ann' holds NaN or infinity"),
        ({"ann": [1e30]}, "features['x']: the row of 'ann' holds 1e+30, too large to be squared in single precision"),
        ({"Ann": [1.0], "Bob": [1.0]}, "none of its 2 entities is in the graph (first: 'Ann'); use the entity names"),
        ((["ann"], VALUES), "features['x']: 1 entities, values [2, 2, 3], mask [2, 2] do not fit"),
        ((["ann", "ann"], VALUES), "features['x']: entity 'ann' has two rows; keep one"),
        ((["ann", None], VALUES), "features['x']: row 1 (counted from 0) has no entity"),
        ((["ann", "bob"], VALUES[..., None]), "features['x']: values are [2, 2, 3, 1]; give [n, L, D] or [n, D]"),
        ((["ann", "bob"], VALUES[:, :0]), "features['x']: values are [2, 0, 3]"),
        ((["ann", "bob"], VALUES, np.ones((2, 3), dtype=bool)), "mask [2, 3] do not fit"),
        ((["ann", "bob"], VALUES, np.ones((2, 2))), "features['x']: the mask holds float64; give True where"),
    ],
)
def test_features_that_are_not_fit(given: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Dataset.from_triples(ROWS, features={"x": given})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absent_tokens_may_hold_anything() -> None:
    values, mask = VALUES.copy(), np.array([[True, False], [True, True]])
    values[0, 1] = np.nan
    dataset = Dataset.from_triples(ROWS, features={"x": (["ann", "bob"], values, mask)})
    assert dataset.features.gather("x", torch.tensor([0]))[0].isfinite().all()


def test_what_reads_a_folder_does_without() -> None:
    dataset = Dataset.from_triples(
        ROWS, features={"age": {"ann": [0.3], "cem": [0.9]}}, names={"ann": "Ann", "x": "X"}, name="people"
    )
    assert dataset.folder is None
    assert dataset.files == {}
    assert dataset.labels == {"ann": "Ann"}
    assert dataset.relation_labels == dataset.descriptions == dataset.images == {}
    assert all(modality.made_of(0) == [] for modality in dataset.features.values())
    found = describe(dataset)
    assert (found["name"], found["folder"], found["entities"]) == ("people", None, 3)
    assert found["features"]["age"]["entities"] == 2
    assert dataset.without_leaked_valid().labels == {"ann": "Ann"}


def test_checksums_tell_whether_anything_changed() -> None:
    def sums(triples: Any = ROWS, age: Any = None, **more: Any) -> dict[str, str]:
        return Dataset.from_triples(triples, features={"age": age or {"ann": [0.3], "cem": [0.9]}}, **more).checksums()

    first = sums()
    assert sums() == first
    assert set(first) == {"entities", "relations", "train", "valid", "test", "features/age"}
    assert all(len(digest) == 64 for digest in first.values())

    def changed(other: dict[str, str]) -> set[str]:
        return {key for key in first if first[key] != other[key]}

    assert changed(sums(ROWS[::-1])) == {"train"}
    assert changed(sums(valid=ROWS[:1])) == {"valid"}
    assert changed(sums(age={"ann": [0.3], "cem": [0.8]})) == changed(sums(age={"ann": [0.3], "bob": [0.9]}))
    assert changed(sums(age={"ann": [0.3], "cem": [0.8]})) == {"features/age"}
    assert changed(sums([(h.upper(), r, t) for h, r, t in ROWS], age={"ANN": [0.3]})) >= {"entities"}
    kept = Dataset.from_triples(ROWS, features={"age": {"ann": [0.3], "cem": [0.9]}})
    assert replace(kept, features=kept.features.drop(0.5, 0)).checksums() == first


def test_reprs_say_sizes(toy_folder: Path) -> None:
    dataset = load_dataset("countries")
    graph, features = dataset.graph, dataset.features
    assert repr(dataset) == "Dataset(countries: 843 entities, 8 relations, image 29 %, text 100 %)"
    assert repr(graph) == "KnowledgeGraph(843 entities, 8 relations, train 1,829, valid 228, test 228)"
    assert repr(graph.entities) == "Vocabulary(843 names)"
    assert repr(features) == "Features(image, text)"
    assert repr(features["image"]) == "Modality(245 x 24 x 42, 245 of 843 entities)"
    assert repr(graph.train_index) == "TripleIndex(1,829 triples)"
    assert repr(Dataset.from_triples(ROWS)) == "Dataset(triples: 3 entities, 2 relations)"
    assert repr(Dataset.from_triples(ROWS).graph.domain_range) == "DomainRangeIndex(3 heads and 3 tails of relations)"
