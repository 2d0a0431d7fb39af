"""What `mmrns data check` finds: every kind of problem once, in its place, and the real leaks of real datasets."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file

from mmrns.data.datasets import Dataset, load_dataset
from mmrns.data.folders import EMBEDDED
from mmrns.errors import DataError
from mmrns.prepare.check import check_dataset


def append(folder: Path, name: str, text: str | bytes) -> None:
    with (folder / name).open("ab") as file:
        file.write(text.encode() if isinstance(text, str) else text)


def first_row(folder: Path, split: str) -> str:
    return (folder / f"{split}.tsv").read_text().splitlines()[0]


def set_values(folder: Path, row: int, value: float, dtype: Any = np.float32) -> None:
    path = folder / "features" / "text.safetensors"
    tensors = load_file(path)
    tensors["values"] = tensors["values"].astype(dtype)
    tensors["values"][row] = value
    save_file(tensors, path)


def set_mask(folder: Path, row: int, value: bool) -> None:
    path = folder / "features" / "text.safetensors"
    tensors = load_file(path)
    tensors["mask"][row] = value
    save_file(tensors, path)


def set_entities(folder: Path, *rows: str) -> None:
    (folder / "entities.tsv").write_text("entity\timage\n" + "".join(row + "\n" for row in rows))


def picture(folder: Path, name: str, content: bytes) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)


def loop(folder: Path) -> None:
    (folder / "loop.png").symlink_to("loop.png")
    set_entities(folder, "e00\tloop.png")


def truncated(folder: Path) -> None:
    path = folder / "train.tsv"
    (folder / "train.tsv.gz").write_bytes(gzip.compress(path.read_bytes())[:-20])
    path.unlink()


def to_parquet(folder: Path, first_head: Any) -> None:
    rows = [line.split("\t") for line in (folder / "train.tsv").read_text().splitlines()]
    heads = [first_head, *(row[0] if isinstance(first_head, str) else [row[0]] for row in rows[1:])]
    columns = {"head": heads, "relation": [row[1] for row in rows], "tail": [row[2] for row in rows]}
    pl.DataFrame(columns).write_parquet(folder / "train.parquet")
    (folder / "train.tsv").unlink()


def rename_listing(folder: Path, old: str, new: str) -> None:
    path = folder / "features" / "text.entities"
    path.write_text(path.read_text().replace(f"{old}\n", f"{new}\n"))


def two_twins(folder: Path) -> None:
    picture(folder, "pictures/a.png", b"same")
    picture(folder, "pictures/b.png", b"same")
    picture(folder, "pictures/c.png", b"else")
    set_entities(folder, "e00\tpictures/a.png", "e01\tpictures/b.png", "e02\tpictures/c.png")


def twin_rows(folder: Path) -> None:
    path = folder / "features" / "text.safetensors"
    tensors = load_file(path)
    for key in tensors:
        tensors[key][9] = tensors[key][4]
    save_file(tensors, path)


Break = Callable[[Path], object]
LAST = 194  # Rows of train.
N = 24  # Rows of test without that of e39, which is the 25th.

# What is done to the folder; what is found: severity, code, file, line, a part of the message; whether it still loads.
BROKEN: dict[str, tuple[Break, tuple[str, str, str, int | None, str], bool]] = {
    "two columns": (
        lambda f: append(f, "test.tsv", "e01\tlikes\n"),
        ("error", "columns", "test.tsv", N + 2, "2 columns where head TAB relation TAB tail is expected"),
        False,
    ),
    "commas": (
        lambda f: append(f, "test.tsv", "e01,likes,e02\n"),
        (
            "error",
            "columns",
            "test.tsv",
            N + 2,
            "1 column where head TAB relation TAB tail is expected (separated by c",
        ),
        False,
    ),
    "a count line": (
        lambda f: (f / "test.tsv").write_text("1\n" + first_row(f, "test") + "\n"),
        (
            "error",
            "columns",
            "test.tsv",
            1,
            "1 column where head TAB relation TAB tail is expected (a count, as in Ope",
        ),
        False,
    ),
    "a blank line": (
        lambda f: append(f, "test.tsv", "\n"),
        ("error", "blank-line", "test.tsv", N + 2, "blank line where"),
        False,
    ),
    "an empty field": (
        lambda f: append(f, "test.tsv", "e01\t \te02\n"),
        ("error", "empty-field", "test.tsv", N + 2, "empty field"),
        False,
    ),
    "an empty field in Parquet": (
        lambda f: (
            (f / "test.tsv").unlink(),
            pl.DataFrame({"h": ["e00", None], "r": ["likes", "likes"], "t": ["e03", "e02"]}).write_parquet(
                f / "test.parquet"
            ),
        ),
        ("error", "empty-field", "test.parquet", 2, "empty field"),
        False,
    ),
    "no Parquet": (
        lambda f: ((f / "test.tsv").unlink(), (f / "test.parquet").write_text("no")),
        ("error", "unreadable", "test.parquet", None, "is not a readable Parquet file"),
        False,
    ),
    "Latin-1": (
        lambda f: append(f, "test.tsv", b"\xe9\tlikes\te00\n"),
        ("error", "encoding", "test.tsv", N + 2, "is not valid UTF-8"),
        False,
    ),
    "UTF-16": (
        lambda f: (f / "test.tsv").write_text("e01\tlikes\te02\n", encoding="utf-16"),
        ("error", "encoding", "test.tsv", None, "is UTF-16"),
        False,
    ),
    "truncated gzip": (truncated, ("error", "unreadable", "train.tsv.gz", None, "cannot be read"), False),
    "a byte order mark": (
        lambda f: (f / "test.tsv").write_bytes(b"\xef\xbb\xbf" + (f / "test.tsv").read_bytes()),
        ("note", "bom", "test.tsv", 1, "starts with a byte order mark"),
        True,
    ),
    "CRLF": (
        lambda f: (f / "test.tsv").write_bytes((f / "test.tsv").read_bytes().replace(b"\n", b"\r\n", 2)),
        ("note", "crlf", "test.tsv", 1, "2 of 25 lines end with CR LF"),
        True,
    ),
    "a control character": (
        lambda f: append(f, "train.tsv", "e01\tlikes\te0\x002\n"),
        ("warning", "control-character", "train.tsv", LAST + 1, "holds the control character '\\x00'"),
        True,
    ),
    "a header line": (
        lambda f: (f / "test.tsv").write_text("Head\tRelation\tTail\n" + (f / "test.tsv").read_text()),
        ("warning", "header", "test.tsv", 1, "Head TAB Relation TAB Tail looks like a header"),
        True,
    ),
    "a repeated row": (
        lambda f: append(f, "test.tsv", first_row(f, "test") + "\n"),
        ("warning", "duplicate", "test.tsv", N + 2, "repeats line 1"),
        True,
    ),
    "test in train": (
        lambda f: append(f, "test.tsv", first_row(f, "train") + "\n"),
        ("error", "leak", "test.tsv", N + 2, "1 of 26 rows are also rows of train; the first, ('"),
        True,
    ),
    "valid in test": (
        lambda f: append(f, "valid.tsv", first_row(f, "test") + "\n"),
        ("error", "leak", "valid.tsv", 26, "1 of 26 rows are also rows of test; the first, ('"),
        True,
    ),
    "a blank at the end": (
        lambda f: append(f, "train.tsv", "e01 \tlikes\te02\n"),
        ("warning", "blank-edge", "train.tsv", LAST + 1, "entity 'e01 ' begins or ends with a blank"),
        True,
    ),
    "another case": (
        lambda f: append(f, "train.tsv", "E01\tlikes\te02\n"),
        ("warning", "near-duplicate", "train.tsv", LAST + 1, "entity 'E01' and 'e01' (train.tsv:"),
        True,
    ),
    "another Unicode form": (
        lambda f: append(f, "train.tsv", "\u00e9\tlikes\te02\ne\u0301\tlikes\te02\n"),
        ("warning", "near-duplicate", "train.tsv", LAST + 2, "(train.tsv:195) differ in their Unicode form"),
        True,
    ),
    "another blank": (
        lambda f: append(f, "train.tsv", "a\u00a0b\tlikes\te02\na b\tlikes\te02\n"),
        ("warning", "near-duplicate", "train.tsv", LAST + 2, "(train.tsv:195) differ in blanks"),
        True,
    ),
    "names that differ in what nobody sees": (
        lambda folder: append(folder, "train.tsv", "e90\tlikes\te91\ne9\u200b0\tlikes\te\ufe0f91\n"),
        ("warning", "near-duplicate", "train.tsv", LAST + 2, "(train.tsv:195) differ in invisible characters"),
        True,
    ),
    "files joined with their marks": (
        lambda folder: append(folder, "train.tsv", "\ufeffe01\tlikes\te00\n"),
        ("warning", "blank-edge", "train.tsv", LAST + 1, "entity '\\ufeffe01' begins or ends with a blank or an invis"),
        True,
    ),
    "lines that end with CR CR LF": (
        lambda folder: append(folder, "test.tsv", "e01\tlikes\te00\r\r\ne02\tlikes\te00\r\n"),
        ("note", "crlf", "test.tsv", 26, "1 of 27 lines end with CR CR LF"),
        True,
    ),
    "lines that end with CR": (
        lambda folder: (folder / "test.tsv").write_bytes((folder / "test.tsv").read_bytes().replace(b"\n", b"\r")),
        ("note", "crlf", "test.tsv", 1, "25 of 25 lines end with CR"),
        True,
    ),
    "a carriage return within a line": (
        lambda folder: append(folder, "test.tsv", "e01\tlikes\te0\r0\n"),
        ("error", "carriage-return", "test.tsv", 26, "holds a carriage return (CR), which ends no line"),
        False,
    ),
    "a command of terminals": (
        lambda folder: append(folder, "test.tsv", "e01\tlikes\t\x9b31me00\n"),
        ("warning", "control-character", "test.tsv", 26, "holds the control character '\\x9b'"),
        True,
    ),
    "quotes around all names": (
        lambda folder: (folder / "test.tsv").write_text('"e01"\tlikes\t"e02"\n"e03"\tlikes\t"e01"\n'),
        ("warning", "quoted", "test.tsv", 1, "every head and tail is in quotes, which are part of the names here"),
        True,
    ),
    "parquet with a line end in a name": (
        lambda folder: to_parquet(folder, "e0\n1"),
        ("error", "line-break", "train.parquet", 1, "a name holds a tab or line end '\\n'"),
        False,
    ),
    "parquet with a control character in a name": (
        lambda folder: to_parquet(folder, "e0\x1b1"),
        ("warning", "control-character", "train.parquet", 1, "a name holds the control character '\\x1b'"),
        True,
    ),
    "parquet of lists": (
        lambda folder: to_parquet(folder, ["e01"]),
        ("error", "unreadable", "train.parquet", None, "column head is a list"),
        False,
    ),
    "a relation in another case": (
        lambda f: append(f, "train.tsv", "e01\tLikes\te02\n"),
        ("warning", "near-duplicate", "train.tsv", LAST + 1, "relation 'Likes' and 'likes' (train.tsv:"),
        True,
    ),
    "columns in another order": (
        lambda f: append(f, "valid.tsv", "e01\te02\tlikes\n"),
        ("warning", "column-order", "valid.tsv", 26, "2 of 6 relations are also entities, such as 'e02'"),
        True,
    ),
    "a relation unseen in train": (
        lambda f: append(f, "test.tsv", "e01\thates\te02\n"),
        ("warning", "unseen-relation", "test.tsv", N + 2, "1 of 26 rows hold relations that train lacks, 1 in all, s"),
        True,
    ),
    "no test": (
        lambda f: (f / "test.tsv").unlink(),
        ("error", "missing-split", ".", None, "split 'test' is missing"),
        False,
    ),
    "a link to nothing": (
        lambda f: ((f / "test.tsv").unlink(), (f / "test.tsv").symlink_to("gone")),
        ("error", "unreadable", "test.tsv", None, "is a link that leads nowhere"),
        False,
    ),
    "two files for test": (
        lambda f: (f / "test.txt").write_text(""),
        ("error", "two-files", "test.txt", None, "holds test too; only test.tsv was examined"),
        False,
    ),
    "an empty train": (
        lambda f: (f / "train.tsv").write_text(""),
        ("error", "empty-split", "train.tsv", None, "holds no triple"),
        False,
    ),
    "an empty valid": (
        lambda f: (f / "valid.tsv").write_text(""),
        ("warning", "empty-split", "valid.tsv", None, "holds no triple"),
        True,
    ),
    "no column of entities": (
        lambda f: (f / "entities.tsv").write_text("id\tname\ne00\ta\n"),
        ("error", "header", "entities.tsv", 1, "has no column `entity`: 'id', 'name'"),
        False,
    ),
    "an empty table": (
        lambda f: (f / "entities.tsv").write_text(""),
        ("error", "header", "entities.tsv", None, "has no header line"),
        False,
    ),
    "repeated columns": (
        lambda f: (f / "entities.tsv").write_text("entity\tentity\n"),
        ("error", "header", "entities.tsv", 1, "column names repeat"),
        False,
    ),
    "a short row of the table": (
        lambda f: set_entities(f, "e00\t", "e01"),
        ("error", "columns", "entities.tsv", 3, "1 column where the header has 2"),
        False,
    ),
    "an entity listed twice": (
        lambda f: set_entities(f, "e00\t", "e01\t", "e00\t"),
        ("error", "repeated", "entities.tsv", 4, "entity 'e00' is listed twice"),
        False,
    ),
    "an unnamed entity": (
        lambda f: set_entities(f, "\tx.png"),
        ("error", "empty-field", "entities.tsv", 2, "empty entity"),
        False,
    ),
    "an entity without triples": (
        lambda f: set_entities(f, "new\t"),
        ("note", "isolated-entity", "entities.tsv", 2, "1 of 1 occur in no triple; the first is 'new'"),
        True,
    ),
    "entities that are not listed": (
        lambda f: set_entities(f, "e00\t"),
        ("note", "unlisted-entity", "entities.tsv", None, "39 of 40 names of the triples are not listed, such as 'e"),
        True,
    ),
    "a shared name": (
        lambda f: (f / "entities.tsv").write_text("entity\tname\ne00\tAnn\ne01\tAnn\n"),
        ("note", "shared-name", "entities.tsv", 2, "2 rows share their name with another, such as 'Ann'"),
        True,
    ),
    "a bad table of relations": (
        lambda f: (f / "relations.tsv").write_text("relation\tname\nlikes\n"),
        ("warning", "columns", "relations.tsv", 2, "1 column where the header has 2"),
        True,
    ),
    "a picture outside": (
        lambda f: set_entities(f, "e00\ta.png", "e01\timages/../../secret.png"),
        ("error", "image-outside", "entities.tsv", 3, "picture 'images/../../secret.png' leads out of the"),
        True,
    ),
    "an absolute picture": (
        lambda f: set_entities(f, "e00\t/etc/passwd"),
        ("error", "image-outside", "entities.tsv", 2, "picture '/etc/passwd' leads out of the dataset folder"),
        True,
    ),
    "a picture on a Windows drive": (
        lambda f: set_entities(f, "e00\tC:\\x.png"),
        ("error", "image-outside", "entities.tsv", 2, "leads out of the dataset folder"),
        True,
    ),
    "a picture on the web": (
        lambda f: set_entities(f, "e00\thttps://example.org/x.png"),
        ("warning", "image-link", "entities.tsv", 2, "is a web address"),
        True,
    ),
    "a missing picture": (
        lambda f: set_entities(f, "e00\tx.png"),
        ("warning", "image-missing", "entities.tsv", 2, "picture 'x.png' is not there"),
        True,
    ),
    "a loop of links": (loop, ("warning", "image-unreadable", "entities.tsv", 2, "'loop.png' cannot be read"), True),
    "a link that leaves the folder": (
        lambda f: ((f / "x.png").symlink_to("/etc/passwd"), set_entities(f, "e00\tx.png")),
        ("error", "image-outside", "entities.tsv", 2, "picture 'x.png' leads out of the dataset folder"),
        True,
    ),
    "a name that no file can have": (
        lambda f: set_entities(f, "e00\t" + "x" * 300),
        ("warning", "image-unreadable", "entities.tsv", 2, "cannot be read"),
        True,
    ),
    "an empty picture": (
        lambda f: (picture(f, "x.png", b""), set_entities(f, "e00\tx.png")),
        ("warning", "image-empty", "entities.tsv", 2, "picture 'x.png' is empty"),
        True,
    ),
    "a folder without pictures": (
        lambda f: ((f / "pictures").mkdir(), set_entities(f, "e00\tpictures")),
        ("warning", "image-empty", "entities.tsv", 2, "picture 'pictures' is empty"),
        True,
    ),
    "equal pictures in folders": (
        lambda f: (
            picture(f, "a/1.png", b"x"),
            picture(f, "b/1.png", b"x"),
            set_entities(f, "e00\ta", "e01\tb"),
        ),
        ("note", "image-duplicate", "entities.tsv", 3, "picture 'b/1.png' has the same bytes as 'a/1.png'"),
        True,
    ),
    "equal pictures": (
        two_twins,
        ("note", "image-duplicate", "entities.tsv", 3, "'pictures/b.png' has the same bytes as 'pictures/a.png'"),
        True,
    ),
    "too large to be squared": (
        lambda f: set_values(f, 3, 1e30, np.float32),
        ("error", "too-large", "features/text.safetensors", 4, "holds a value too large to be squared in single"),
        True,
    ),
    "no safetensors": (
        lambda f: (f / "features" / "text.safetensors").write_text("no"),
        ("error", "unreadable", "features/text.safetensors", None, "is not a readable safetensors file"),
        False,
    ),
    "no values": (
        lambda f: save_file({"mask": np.ones((2, 3), np.bool_)}, f / "features" / "text.safetensors"),
        ("error", "tensors", "features/text.safetensors", None, "holds no tensor 'values'"),
        False,
    ),
    "float64": (
        lambda f: set_values(f, 0, 1.0, np.float64),
        ("error", "tensors", "features/text.safetensors", None, "values are F64 [36, 3, 8]"),
        False,
    ),
    "a mask of another shape": (
        lambda f: save_file(
            {"values": np.ones((36, 3, 8), np.float32), "mask": np.ones((36, 2), np.bool_)},
            f / "features" / "text.safetensors",
        ),
        ("error", "tensors", "features/text.safetensors", None, "mask is BOOL [36, 2]"),
        False,
    ),
    "a listing too long": (
        lambda f: append(f, "features/text.entities", "e05\n"),
        ("error", "lengths", "features/text.entities", 37, "37 lines but text.safetensors has 36 rows"),
        False,
    ),
    "no listing": (
        lambda f: (f / "features" / "text.entities").unlink(),
        ("error", "missing-listing", "features/text.entities", None, "is missing"),
        False,
    ),
    "a listing without features": (
        lambda f: (f / "features" / "audio.entities").write_text("e00\n"),
        ("warning", "stray-file", "features/audio.entities", None, "belongs to no audio.safetensors"),
        True,
    ),
    "a file of another layout": (
        lambda f: (f / "features" / "visual.pth").write_bytes(b""),
        ("note", "stray-file", "features/visual.pth", None, "is not read"),
        True,
    ),
    "a repeated row of features": (
        lambda f: rename_listing(f, "e01", "e00"),
        ("error", "repeated", "features/text.entities", None, "entity 'e00' is listed twice"),
        False,
    ),
    "an unmatched name": (
        lambda f: rename_listing(f, "e01", " E01"),
        (
            "warning",
            "unmatched",
            "features/text.entities",
            None,
            "' E01' is no entity of the graph; did you mean 'e01'?",
        ),
        True,
    ),
    "NaN": (
        lambda f: set_values(f, 5, np.nan),
        ("error", "not-finite", "features/text.safetensors", 6, "row 6, 'e"),
        True,
    ),
    "infinity in float16": (
        lambda f: set_values(f, 5, np.inf, np.float16),
        (
            "error",
            "float16-overflow",
            "features/text.safetensors",
            6,
            "holds infinity, as float16 makes of what is above",
        ),
        True,
    ),
    "too large for float16": (
        lambda f: set_values(f, 5, -1e5),
        ("warning", "float16-overflow", "features/text.safetensors", 6, "holds values above 65,504"),
        True,
    ),
    "zeros": (
        lambda f: set_values(f, 5, 0.0),
        ("warning", "zero-row", "features/text.safetensors", 6, "is all zeros"),
        True,
    ),
    "a constant": (
        lambda f: set_values(f, 5, 0.5),
        ("warning", "constant-row", "features/text.safetensors", 6, "is constant"),
        True,
    ),
    "a row without tokens": (
        lambda f: set_mask(f, 5, False),
        ("note", "empty-row", "features/text.safetensors", 6, "has no present token"),
        True,
    ),
    "NaN in an absent token": (
        lambda f: (set_values(f, 5, np.nan), set_mask(f, 5, False)),
        ("note", "empty-row", "features/text.safetensors", 6, "has no present token"),
        True,
    ),
    "equal rows": (
        twin_rows,
        (
            "note",
            "equal-rows",
            "features/text.safetensors",
            5,
            "2 rows equal another one; 2 are the same, such as rows",
        ),
        True,
    ),
}


@pytest.fixture(scope="module")
def before(toy: Dataset) -> set[tuple[str, str]]:
    """What is found in the folder before it is broken."""
    return {(p["code"], p["file"]) for p in check_dataset(toy.folder)["problems"]}


@pytest.mark.parametrize("name", BROKEN)
def test_every_problem_has_its_place(toy_folder: Path, before: set[tuple[str, str]], name: str) -> None:
    broken, (severity, code, file, line, message), loads = BROKEN[name]
    broken(toy_folder)
    found = check_dataset(toy_folder)
    (problem, *_) = [
        p for p in found["problems"] if (p["code"], p["file"]) == (code, file) and (code, file) not in before
    ]
    assert (problem["severity"], message in problem["message"]) == (severity, True), problem["message"]
    assert line is None or problem["line"] == line
    assert problem["remedy"]
    assert "\n" not in problem["message"] + problem["remedy"]
    json.dumps(found, allow_nan=False)
    # What loading refuses is an error.
    if loads:
        load_dataset(toy_folder)
    else:
        assert found["errors"]
        with pytest.raises(DataError):
            load_dataset(toy_folder)


def test_every_kind_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "check-and-split.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+`) \| (?:error|warning|note) \|", page, re.MULTILINE)
    elsewhere = {"inverse", "same-pair", "unseen-entity", "not-split", "isolated-relation", "unlisted-relation"}
    assert {code for row in rows for code in re.findall("`(.+?)`", row)} == {
        b[1][1] for b in BROKEN.values()
    } | elsewhere


def test_a_fit_folder_has_no_errors(toy_folder: Path) -> None:
    found = check_dataset(toy_folder)
    assert found["errors"] == 0
    assert found["triples"]["train"] == {"file": "train.tsv", "rows": LAST, "distinct": LAST, "malformed": 0}
    assert (found["entities"], found["relations"]) == (40, 5)
    assert found["unseen"]["test"]["entities"] == 1
    assert found["features"]["text"]["entities"] == 36
    assert {p["code"] for p in found["problems"]} == {"inverse", "same-pair", "unseen-entity"}


def test_embedded_datasets_have_neither_errors_nor_warnings() -> None:
    for folder in EMBEDDED.values():
        found = check_dataset(folder)
        assert {p["severity"] for p in found["problems"]} <= {"note"}
        assert found["errors"] == 0


def test_all_problems_are_found_at_once_and_bounded(toy_folder: Path) -> None:
    append(toy_folder, "test.tsv", "e01 likes e02\n" * 7 + "\n" + first_row(toy_folder, "train") + "\n")
    append(toy_folder, "valid.tsv", b"\xff\n" + first_row(toy_folder, "train").encode() + b"\n")
    (toy_folder / "features" / "image.entities").write_text("")
    found = check_dataset(toy_folder, limit=3)
    assert [p["line"] for p in found["problems"] if p["code"] == "columns"] == [26, 27, 28]
    assert found["more"] == [{"file": "test.tsv", "code": "columns", "severity": "error", "count": 4}]
    assert {"columns", "blank-line", "encoding", "leak", "lengths"} <= {p["code"] for p in found["problems"]}
    assert found["leakage"]["test_in_train"] == found["leakage"]["valid_in_train"] == 1
    assert found["triples"]["test"] == {"file": "test.tsv", "rows": 26, "distinct": 26, "malformed": 8}
    assert found["triples"]["valid"] == {"file": "valid.tsv", "rows": 26, "distinct": 26, "malformed": 1}
    assert found["errors"] == sum(p["severity"] == "error" for p in found["problems"]) + 4


def test_leakage_by_hand(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("a\tr\tb\na\ts\tc\nd\tr\td\n")
    (tmp_path / "valid.tsv").write_text("b\ts\ta\na\tr\tb\na\tr\tc\n")
    (tmp_path / "test.tsv").write_text("c\tr\ta\nd\tr\td\nd\ts\td\nb\tr\tc\nb\ts\ta\n")
    found = check_dataset(tmp_path)["leakage"]
    assert found == {
        "valid_in_train": 1,
        "test_in_train": 1,
        "valid_in_test": 1,
        "inverse_in_train": 3,  # (b s a) twice, (c r a)
        "same_pair_in_train": 2,  # (a r c), (d s d)
        "by_split": {
            "valid": {"inverse_in_train": 1, "same_pair_in_train": 1},
            "test": {"inverse_in_train": 2, "same_pair_in_train": 1},
        },
    }


@pytest.mark.parametrize("name", ["triples.tsv", "train.tsv"])
def test_a_folder_that_is_not_split_yet_is_no_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a\tr\tb\n")
    found = check_dataset(tmp_path)
    assert [p["code"] for p in found["problems"]] == ["not-split"]
    assert (found["errors"], found["triples"]["train"]["rows"]) == (0, 1)


def test_an_empty_folder(tmp_path: Path) -> None:
    found = check_dataset(tmp_path)
    assert [p["code"] for p in found["problems"]] == ["missing-split"]
    assert "holds no file of triples" in check_dataset(tmp_path)["problems"][0]["message"]


def test_a_long_line_is_quoted_short(toy_folder: Path) -> None:
    append(toy_folder, "train.tsv", "x" * 1_000_000 + " \tlikes\te00\n")
    assert all(len(p["message"]) < 500 for p in check_dataset(toy_folder)["problems"])


@pytest.mark.parametrize(
    ("name", "leaks"),
    [
        ("DB15K", {"valid_in_train": 8719, "test_in_train": 0, "valid_in_test": 1105}),
        ("FB15k-237", {"valid_in_train": 0, "test_in_train": 0, "valid_in_test": 0, "inverse_in_train": 0}),
        ("WN9", {"valid_in_train": 0, "test_in_train": 0, "valid_in_test": 0, "inverse_in_train": 1198 + 1186}),
    ],
)
def test_leaks_of_real_datasets(shared: Path, name: str, leaks: dict[str, int]) -> None:
    found = check_dataset(shared / "data" / name)
    assert found["leakage"].items() >= leaks.items()
    assert bool(found["errors"]) == (name == "DB15K")


def test_pictures_are_found_however_they_are_written(toy_folder: Path) -> None:
    (toy_folder / "images").mkdir()
    for name in ("a.png", "b.png"):
        (toy_folder / "images" / name).write_bytes(name.encode())
    set_entities(toy_folder, "e00\timages\\a.png", "e01\timages/B.PNG;images/a.png", "e02\timages\\absent.png")
    found = [one for one in check_dataset(toy_folder)["problems"] if one["code"].startswith("image")]
    assert [(one["code"], one["line"]) for one in found] == [("image-missing", 4)]
