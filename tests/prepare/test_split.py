"""Splits: disjoint, complete, covered, nothing of the held-out rows given away; repairs that say what moved."""

from __future__ import annotations

import json
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrns.data.datasets import load_dataset
from mmrns.data.folders import COLUMNS, EMBEDDED, SPLITS
from mmrns.errors import DataError, UsageError
from mmrns.prepare.check import check_dataset
from mmrns.prepare.split import Splits, k_core, repair_splits, split_dataset, split_triples
from toy import write_toy

Triple = tuple[str, str, str]
names = st.sampled_from("abcdefgh")
triples = st.lists(st.tuples(names, st.sampled_from("rs"), names), min_size=1, max_size=40)


def frame(rows: list[Triple]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(COLUMNS, pl.String), orient="row")


def entities(rows: pl.DataFrame) -> set[str]:
    return {*rows["head"], *rows["tail"]}


def pairs(rows: pl.DataFrame) -> set[frozenset[str]]:
    return {frozenset((h, t)) for h, _, t in rows.iter_rows()}


def big(seed: int = 0) -> pl.DataFrame:
    """Triples with inverse and parallel pairs."""
    rows = [(f"e{a:02d}", r, f"e{b:02d}") for a, b, r in product(range(20), range(20), "rs") if (a * b + seed) % 2]
    return frame(rows)


@given(triples, st.integers(0, 3))
def test_a_leakage_free_split_gives_nothing_away(rows: list[Triple], seed: int) -> None:
    source = frame(rows)
    size = len(set(rows))
    try:
        splits = split_triples(source, valid=min(2, size), test=min(3, size), seed=seed)
    except UsageError as error:
        assert "rows can be held out without leaving an entity or a relation" in str(error)  # noqa: PT017
        return
    parts = [set(part.rows()) for part in splits.frames.values()]
    assert set.union(*parts) == set(rows)
    assert sum(len(part) for part in splits.frames.values()) == size
    assert len(splits.valid) <= 2
    assert len(splits.test) <= 3
    assert entities(splits.train) == entities(source)
    assert set(splits.train["relation"]) == set(source["relation"])
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not pairs(splits.frames[a]) & pairs(splits.frames[b])


def test_counts_and_shares_are_met_and_the_order_is_that_of_the_source() -> None:
    source = big()
    n = len(source)
    for valid, test, expected in ((20, 30, (20, 30)), (0.1, 0.05, (round(n / 10), round(n / 20))), (0, 8, (0, 8))):
        splits = split_triples(pl.concat([source, source[:9]]), valid=valid, test=test)
        assert (len(splits.valid), len(splits.test)) == expected
        place = {row: i for i, row in enumerate(source.rows())}
        for part in splits.frames.values():
            assert [place[row] for row in part.rows()] == sorted(place[row] for row in part.rows())


def test_a_split_follows_the_seed() -> None:
    source = big()
    for leakage_free in (True, False):
        a, b, c = (split_triples(source, seed=seed, leakage_free=leakage_free) for seed in (0, 0, 1))
        assert all(x.equals(y) for x, y in zip(a.frames.values(), b.frames.values(), strict=True))
        assert not a.test.equals(c.test)


def test_random_rows_are_as_likely_as_others() -> None:
    source = big()[:20]
    held = pl.concat([split_triples(source, valid=0, test=5, seed=s, leakage_free=False).test for s in range(400)])
    counts = source.join(held.group_by(COLUMNS).len(), on=COLUMNS, how="left")["len"].fill_null(0)
    # Chi-squared with 19 degrees of freedom; less than the binomial's, as each split draws without replacement.
    assert ((counts - 100) ** 2 / 100).sum() < 19 + 5 * (2 * 19) ** 0.5


@pytest.mark.parametrize("leakage_free", [True, False])
def test_too_many_rows_are_refused(leakage_free: bool) -> None:
    with pytest.raises(UsageError, match=r"only 1 of 3 rows can be held out|4 of 3 rows leave nothing to train on"):
        split_triples(
            frame([("a", "r", "b"), ("a", "r", "c"), ("c", "r", "b")]), valid=2, test=2, leakage_free=leakage_free
        )


def test_the_usual_shares_give_way_and_what_was_used_is_recorded(tmp_path: Path) -> None:
    """Of a star with a ring of six only the ring's rows can be held out, fewer than two tenths."""
    names = [f"e{i}" for i in range(40)]
    rows = [("hub", "r", name) for name in names] + [(a, "r", b) for a, b in pairwise(names[:7])]
    path = tmp_path / "g.tsv"
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    record = split_dataset(path, tmp_path / "new")
    counts = record["counts"]
    assert 0 < counts["valid"] == counts["test"] <= 3
    assert record["split"]["valid"] == counts["valid"]
    assert record["split"]["notes"] == [
        f"valid has {counts['valid']} rows and test {counts['test']}, since more cannot be held out without leaving an "
        "entity or a relation out of train; --random draws a tenth each whatever train then lacks"
    ]
    with pytest.raises(UsageError, match="not 14; hold out at most ") as caught:
        split_dataset(path, tmp_path / "more", valid=7, test=7)
    most = int(str(caught.value).partition("at most ")[2].split()[0])
    split_dataset(path, tmp_path / "most", valid=1, test=most - 1)
    with pytest.raises(UsageError, match=f"hold out at most {most} for valid and test together"):
        split_dataset(path, tmp_path / "more", valid=1, test=most)
    usual = split_dataset(write_toy(tmp_path / "toy"), tmp_path / "tenths")["split"]
    assert (usual["valid"], usual["test"], "notes" in usual) == (0.1, 0.1, False)
    assert split_dataset(tmp_path / "toy", tmp_path / "one", test=5)["split"]["valid"] == 0.1


@given(triples, triples, triples, st.one_of(st.none(), st.integers(0, 3)))
def test_a_repair_keeps_test_and_makes_the_splits_disjoint(
    train: list[Triple], valid: list[Triple], test: list[Triple], fill: int | None
) -> None:
    before = Splits(frame(train), frame(valid), frame(test))
    try:
        after, moved = repair_splits(before, valid=fill)
    except UsageError:
        assert fill
        return
    assert after.test.equals(before.test)
    sets = [set(part.rows()) for part in after.frames.values()]
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]
    assert set.union(*sets) == {*train, *valid, *test}
    assert after.train.is_unique().all()
    assert after.valid.is_unique().all()
    kept = set(valid) - set(train) - set(test)
    assert kept <= sets[1] <= kept | set(train)
    assert len(sets[1]) <= max(len(kept), fill or 0)
    # Every row that is missing from a split, or new in it, is accounted for.
    for split, rows in (("train", train), ("valid", valid)):
        away, here = (moved.filter(pl.col(column) == split).height for column in ("from", "to"))
        assert len(rows) - away + here == len(after.frames[split])
    assert sets[0].isdisjoint(moved.filter(pl.col("to") == "valid").select(COLUMNS).rows())


def test_a_clean_split_is_left_alone() -> None:
    splits = split_triples(big())
    after, moved = repair_splits(splits)
    assert all(a.equals(b) for a, b in zip(splits.frames.values(), after.frames.values(), strict=True))
    assert moved.is_empty()


@given(triples, st.integers(1, 4))
def test_k_core_is_the_largest_such_set(rows: list[Triple], k: int) -> None:
    core = k_core(frame(rows), k)
    left = set(rows)
    while weak := {e for h, _, t in left for e in (h, t) if sum(e in (a, b) for a, _, b in left) < k}:
        left = {row for row in left if not {row[0], row[2]} & weak}
    assert set(core.rows()) == left
    assert len(core) == len(left)


def test_a_folder_keeps_its_features_names_and_pictures(tmp_path: Path) -> None:
    source = write_toy(tmp_path / "toy")
    (source / "images").mkdir()
    (source / "images" / "a.png").write_bytes(b"png")
    for name in ("pictures/e00/1.png", "pictures/e00/2.png", "pictures/e01.png", "pictures/unnamed.png"):
        (source / name).parent.mkdir(exist_ok=True, parents=True)
        (source / name).write_bytes(name.encode())
    table = (source / "entities.tsv").read_text().splitlines()
    table[1:4] = [table[1] + "pictures/e00", table[2] + "pictures\\\\E01.png", table[3] + "../secret.png"]
    (source / "entities.tsv").write_text("\n".join(table) + "\n")
    (tmp_path / "secret.png").write_text("")
    (source / "texts.tsv").write_text("entity\ttext\ne00\tzero\n")
    (source / "secret.txt").write_text("")
    (source / "README.md").write_text("about the old split")
    (source / "LICENSE").write_text("free")
    (source / "relations.tsv").write_text(
        "relation\n" + "".join(f"{r}\n" for r in ("knows", "likes", "next_to", "owns", "part_of"))
    )
    (source / "dataset.json").write_text('{"licence": "CC0-1.0", "counts": 7}')
    record = split_dataset(source, tmp_path / "new", valid=0.1, test=20, seed=3)
    old, new = load_dataset(source), load_dataset(tmp_path / "new")
    assert set(new.features) == {"image", "text"}
    assert new.labels == old.labels
    assert list(new.graph.entities) == list(old.graph.entities)
    files = {str(p.relative_to(tmp_path / "new")) for p in (tmp_path / "new").rglob("*") if p.is_file()}
    features = {f"features/{m}.{end}" for m in ("image", "text") for end in ("safetensors", "entities")}
    assert files == {
        *(f"{split}.tsv" for split in SPLITS),
        *("entities.tsv", "relations.tsv", "texts.tsv", "dataset.json", "LICENSE", "README.source.md", "images/a.png"),
        *("pictures/e00/1.png", "pictures/e00/2.png", "pictures/e01.png"),
        *features,
    }
    assert record == json.loads((tmp_path / "new" / "dataset.json").read_text())
    assert record["name"] == "new"
    assert record["licence"] == "CC0-1.0"
    assert (
        record["derived_from"]["sha256"].items()
        == {name: sha for name, sha in old.checksums().items() if name in {f"{split}.tsv" for split in SPLITS}}.items()
    )
    assert record["split"]["method"] == "leakage-free"
    assert record["counts"] == {
        "entities": 40,
        "relations": 5,
        "train": len(new.graph.train),
        "valid": len(new.graph.valid),
        "test": 20,
    }
    assert [p["code"] for p in check_dataset(tmp_path / "new")["problems"]] == ["image-outside"]
    again = split_dataset(source, tmp_path / "again", valid=0.1, test=20, seed=3)
    assert {**again, "name": "new"} == record
    for split in SPLITS:
        assert (tmp_path / "again" / f"{split}.tsv").read_bytes() == (tmp_path / "new" / f"{split}.tsv").read_bytes()


def test_editing_a_text_of_the_split_leaves_the_source_alone(tmp_path: Path) -> None:
    source = write_toy(tmp_path / "toy")
    before = (source / "entities.tsv").read_text(), (source / "features" / "text.entities").read_text()
    split_dataset(source, tmp_path / "new")
    for name in ("entities.tsv", "features/text.entities"):
        with (tmp_path / "new" / name).open("a") as file:
            file.write("e99\n")
    assert ((source / "entities.tsv").read_text(), (source / "features" / "text.entities").read_text()) == before


def test_a_core_leaves_out_the_other_entities(tmp_path: Path) -> None:
    source = write_toy(tmp_path / "toy")
    record = split_dataset(source, tmp_path / "new", core=8)
    graph = load_dataset(tmp_path / "new").graph
    assert record["counts"]["entities"] == len(graph.entities) < 40
    listed = (tmp_path / "new" / "entities.tsv").read_text().splitlines()
    assert len(listed) == len(graph.entities) + 1


@pytest.mark.parametrize("name", ["triples.tsv", "train.tsv"])
def test_a_single_file_is_split_with_or_without_its_folder(tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    big().write_csv(source / name, separator="\t", include_header=False)
    records = [split_dataset(source, tmp_path / "a"), split_dataset(source / name, tmp_path / "b")]
    assert records[0]["counts"] == records[1]["counts"]
    assert (tmp_path / "a" / "test.tsv").read_bytes() == (tmp_path / "b" / "test.tsv").read_bytes()
    assert check_dataset(tmp_path / "b")["errors"] == 0


def test_a_repair_writes_what_moved(tmp_path: Path) -> None:
    source = write_toy(tmp_path / "toy")
    leak = (source / "train.tsv").read_text().splitlines()[:3]
    with (source / "valid.tsv").open("a") as file:
        file.write("\n".join([*leak, leak[0]]) + "\n")
    assert check_dataset(source)["leakage"]["valid_in_train"] == 4
    record = split_dataset(source, tmp_path / "new", repair=True, valid=30)
    assert record["split"]["method"] == "repair"
    assert record["split"]["changes"] == [
        {"from": "valid", "to": "", "reason": "repeated", "rows": 1},
        {"from": "valid", "to": "", "reason": "in train", "rows": 3},
        {"from": "train", "to": "valid", "reason": "to fill valid", "rows": 5},
    ]
    assert record["counts"]["valid"] == 30
    assert (tmp_path / "new" / "test.tsv").read_bytes() == (source / "test.tsv").read_bytes()
    moved = (tmp_path / "new" / "moved.tsv").read_text().splitlines()
    assert moved[0].split("\t") == ["from", "to", "reason", *COLUMNS]
    assert moved[1].split("\t") == ["valid", "", "repeated", *leak[0].split("\t")]
    assert len(moved) == 1 + 9
    assert check_dataset(tmp_path / "new")["errors"] == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"repair": True, "test": 5}, UsageError, "--repair keeps test as it is"),
        ({"repair": True, "core": 2}, UsageError, "--repair keeps test as it is"),
        ({"repair": True, "new_entities": 2}, UsageError, "--repair keeps test as it is"),
        ({"new_entities": 40}, UsageError, "entities can be held back without leaving another"),
        (
            {"core": 1000},
            DataError,
            r"toy: nothing is left of it in which every entity has 1,000 triples; lower --k-core",
        ),
        ({"valid": 200, "test": 200}, UsageError, "rows can be held out"),
    ],
)
def test_what_cannot_be_split(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    source = write_toy(tmp_path / "toy")
    with pytest.raises(error, match=message):
        split_dataset(source, tmp_path / "new", **options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy"]


def test_bad_sources_and_targets_leave_nothing(tmp_path: Path) -> None:
    source = write_toy(tmp_path / "toy")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").write_text("")
    with pytest.raises(DataError, match="there: exists already; choose another name or remove it"):
        split_dataset(source, tmp_path / "there")
    with pytest.raises(DataError, match="toy: exists already"):
        split_dataset(source, source)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none: holds no triples; add triples\.tsv"):
        split_dataset(tmp_path / "none", tmp_path / "new")
    with pytest.raises(UsageError, match="has no train, valid and test to repair"):
        split_dataset(source / "train.tsv", tmp_path / "new", repair=True)
    for text in ("[" * 100_000, '{"licence": "\\ud800"}'):
        (source / "dataset.json").write_text(text)
        with pytest.raises(DataError, match=r"dataset\.json: is not a JSON object"):
            split_dataset(source, tmp_path / "new")
        assert not (tmp_path / "new").exists()
    (source / "dataset.json").write_text("[")
    with pytest.raises(DataError, match=r"dataset\.json: is not a JSON object"):
        split_dataset(source, tmp_path / "new")
    (source / "dataset.json").unlink()
    (source / "entities.tsv").write_text("entity\timage\ne00\n")
    with pytest.raises(DataError, match=r"entities\.tsv:2: 1 columns"):
        split_dataset(source, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".new*"))


def test_a_disk_that_refuses_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(DataError, match=r"new: cannot be written \(.*No space left on device"):
        split_dataset(EMBEDDED["countries"], tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_countries_can_be_split_anew(tmp_path: Path) -> None:
    split_dataset(EMBEDDED["countries"], tmp_path / "new", seed=1)
    found = check_dataset(tmp_path / "new")
    assert (found["errors"], found["leakage"]["inverse_in_train"], found["leakage"]["same_pair_in_train"]) == (0, 0, 0)
    assert not any(found["unseen"]["test"].values())


def test_db15k_is_repaired(shared: Path, tmp_path: Path) -> None:
    record = split_dataset(shared / "data" / "DB15K", tmp_path / "clean", repair=True, valid=4000)
    assert {split: record["counts"][split] for split in SPLITS} == {"train": 75_295, "valid": 4_000, "test": 9_902}
    found = check_dataset(tmp_path / "clean")
    assert [found["leakage"][key] for key in ("valid_in_train", "test_in_train", "valid_in_test")] == [0, 0, 0]


@pytest.mark.parametrize("header", ["head\trelation\ttail\n", "tail\thead\trelation\n"])
def test_a_header_is_left_out_and_said(tmp_path: Path, header: str) -> None:
    order = [["head", "relation", "tail"].index(name) for name in header.split()]
    rows = [(f"e{i}", "r", f"e{(i + step) % 9}") for i in range(9) for step in (1, 2)]
    text = header + "".join("\t".join(row[place] for place in order) + "\n" for row in rows)
    (tmp_path / "g.tsv").write_text(text)
    record = split_dataset(tmp_path / "g.tsv", tmp_path / "out", valid=1, test=1)
    dataset = load_dataset(tmp_path / "out")
    assert (len(dataset.graph.entities), list(dataset.graph.relations)) == (9, ["r"])
    assert record["split"]["notes"] == [f"g.tsv: the first line was taken for a header ({', '.join(header.split())})"]


def test_words_of_a_header_may_be_names(tmp_path: Path) -> None:
    rows = [f"e{i}\trelation\te{(i + step) % 9}\n" for i in range(9) for step in (1, 2)]
    (tmp_path / "g.tsv").write_text("head\trelation\ttail\n" + "".join(rows))
    record = split_dataset(tmp_path / "g.tsv", tmp_path / "out", valid=1, test=1)
    assert "notes" not in record["split"]
    assert "tail" in load_dataset(tmp_path / "out").graph.entities


@given(triples, st.integers(1, 4), st.integers(0, 3), st.booleans())
def test_new_entities_are_held_back_whole(rows: list[Triple], n: int, seed: int, leakage_free: bool) -> None:
    source = frame(rows)
    options = {"seed": seed, "leakage_free": leakage_free, "new_entities": n}
    try:
        splits = split_triples(source, valid=0, test=0, **options)
    except UsageError as error:
        assert "hold back fewer" in str(error)  # noqa: PT017
        return
    parts = [set(part.rows()) for part in splits.frames.values()]
    assert set.union(*parts) == set(rows)
    assert sum(len(part) for part in splits.frames.values()) == len(set(rows))
    held = entities(source) - entities(splits.train)
    if leakage_free:
        # No one is lost but them, and each triple outside train has one.
        assert len(held) == n
        assert set(splits.train["relation"]) == set(source["relation"])
    assert len(held) >= n
    for part in (splits.valid, splits.test):
        assert all({h, t} & held for h, _, t in part.iter_rows())
    # What both have is in a triple of test with an entity of test: a triple has two.
    both = entities(splits.valid) & entities(splits.test) & held
    assert not any(h in both and t in both for h, _, t in splits.test.iter_rows() if h != t)


def test_half_of_the_new_entities_are_for_test_and_rows_of_the_others_are_split_as_always() -> None:
    source = big()
    splits = split_triples(source, valid=10, test=0.05, new_entities=4)
    held = entities(source) - entities(splits.train)
    assert len(held) == 4
    seen = [part.filter(~pl.col("head").is_in(held) & ~pl.col("tail").is_in(held)) for part in splits.frames.values()]
    assert [len(part) for part in seen][1:] == [10, round(0.05 * sum(len(part) for part in seen))]
    only_valid = held - entities(splits.test)
    assert len(entities(splits.valid) & held) == 2 >= len(only_valid)
    again, other = (split_triples(source, new_entities=4, seed=seed) for seed in (0, 1))
    assert entities(source) - entities(again.train) == held
    assert entities(source) - entities(other.train) != held


def test_any_entity_may_be_new() -> None:
    # A ring, of which each entity may go: its neighbours keep a triple.
    source = frame([(f"e{i}", "r", f"e{(i + 1) % 10}") for i in range(10)])
    counts = dict.fromkeys(sorted(entities(source)), 0)
    for seed in range(400):
        for name in entities(source) - entities(
            split_triples(source, valid=0, test=0, new_entities=1, seed=seed).train
        ):
            counts[name] += 1
    # 9 degrees of freedom: the 99.99 % quantile of chi-squared is 33.7.
    assert sum((n - 40) ** 2 / 40 for n in counts.values()) < 33.7


@pytest.mark.parametrize(
    ("n", "message"),
    [
        (3, "only 1 of 3 entities can be held back without leaving another entity or a relation out of train, not 3"),
        (1, None),
    ],
)
def test_too_many_new_entities_are_refused(n: int, message: str | None) -> None:
    source = frame([("a", "r", "b"), ("a", "r", "c"), ("c", "r", "b")])
    if message is None:
        assert len(split_triples(source, valid=0, test=0, new_entities=n).train) == 1
        return
    with pytest.raises(UsageError, match=message):
        split_triples(source, valid=0, test=0, new_entities=n)
    with pytest.raises(UsageError, match="without 3 of 3 entities nothing is left to train on; hold back fewer"):
        split_triples(source, valid=0, test=0, new_entities=n, leakage_free=False)


def test_a_folder_says_how_many_entities_are_new(tmp_path: Path) -> None:
    record = split_dataset(EMBEDDED["countries"], tmp_path / "new", new_entities=0.1)
    graph = load_dataset(tmp_path / "new").graph
    counts = [
        int((~graph.seen_entities)[rows[:, [0, 2]].flatten().unique()].sum()) for rows in (graph.valid, graph.test)
    ]
    assert record["split"]["new_entities"] == {"asked": 0.1, "valid": counts[0], "test": counts[1]}
    assert int((~graph.seen_entities).sum()) == 84
    assert graph.seen_relations.all()
    assert "new_entities" not in split_dataset(EMBEDDED["countries"], tmp_path / "other")["split"]
