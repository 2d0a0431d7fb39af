"""Tab-separated tables: what is tolerated, and the line, reason and remedy of what is not."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmrns.data import tables
from mmrns.data.tables import read_bytes, read_columns, read_header_table, read_lines
from mmrns.errors import DataError

COLUMNS = ["head", "relation", "tail"]
ROWS = [("a", "r", "b"), ('the "b"', "r s", '"'), ("é", "r", "\U0001f600")]
CLEAN = "".join("\t".join(row) + "\n" for row in ROWS)
LAYOUTS = {
    "plain": CLEAN.encode(),
    "crlf": CLEAN.replace("\n", "\r\n").encode(),
    "bom": CLEAN.encode("utf-8-sig"),
    "bom and crlf": CLEAN.replace("\n", "\r\n").encode("utf-8-sig"),
    "no final newline": CLEAN.rstrip("\n").encode(),
    "cr cr lf": CLEAN.replace("\n", "\r\r\n").encode(),
    "cr": CLEAN.replace("\n", "\r").encode(),
    "cr, last lf": CLEAN.replace("\n", "\r")[:-1].encode() + b"\n",
    "cr, bom, no final one": CLEAN.replace("\n", "\r").rstrip("\r").encode("utf-8-sig"),
    "mixed": CLEAN.replace("\n", "\r\n", 1).replace("\n", "\r\r\n").replace("\r\r\r", "\r", 1).encode(),
    "no final newline, crlf": CLEAN.rstrip("\n").replace("\n", "\r\n").encode(),
}


def write(folder: Path, data: str | bytes, name: str = "t.tsv") -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize("packed", [False, True], ids=["tsv", "gz"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_the_same(tmp_path: Path, layout: str, packed: bool) -> None:
    data = LAYOUTS[layout]
    path = write(tmp_path, gzip.compress(data), "t.tsv.gz") if packed else write(tmp_path, data)
    frame = read_columns(path, COLUMNS)
    assert frame.columns == COLUMNS
    assert frame.rows() == ROWS


PARTS = ["a", "\t", "\t", "\n", "\n", "\r", "\r\n", "é", "\xff", "a\tr\tb\n", "a\tr\tb\r\n", "a\tr\tb\r"]


@settings(max_examples=50)
@given(st.lists(st.sampled_from(PARTS), max_size=20), st.integers(1, 24), st.booleans(), st.booleans())
@example(["a\tr\tb\n", "a\tr\tb\r"], 8, False, False)
@example(["a\tr\tb\r", "a\tr\tb\n", "\n"], 10, False, False)
def test_a_file_is_read_alike_in_blocks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], size: int, packed: bool, bom: bool
) -> None:
    data = b"\xef\xbb\xbf" * bom + "".join(parts).encode("utf-8").replace("\xff".encode(), b"\xff")
    name = "blocks.tsv.gz" if packed else "blocks.tsv"
    path = write(tmp_path_factory.getbasetemp(), gzip.compress(data) if packed else data, name)

    def outcome() -> object:
        try:
            return read_columns(path, COLUMNS).rows()
        except DataError as error:
            return str(error)

    whole = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "BLOCK", size)
        in_blocks = outcome()
        if isinstance(whole, list):
            assert sum(len(block) for block in tables.column_blocks(path, COLUMNS)) == len(whole)
    # Which of two faults comes first depends on the blocks.
    assert isinstance(in_blocks, str) if isinstance(whole, str) else in_blocks == whole


def test_blocks_are_cut_at_line_ends_and_count_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BLOCK", 16)
    path = write(tmp_path, "a\tr\tb\n" * 9 + "a\tr\n" + "a\tr\tb\n" * 9)
    blocks = tables.line_blocks(path)
    assert [(first, lines.to_list()) for first, lines in itertools.islice(blocks, 2)] == [
        (1, ["a\tr\tb"] * 2),
        (3, ["a\tr\tb"] * 3),
    ]
    with pytest.raises(DataError, match=r"t\.tsv:10: 2 columns"):
        read_columns(path, COLUMNS)
    path = write(tmp_path, b"a\tr\tb\n" * 9 + b"\xff\tr\tb\n")
    with pytest.raises(DataError, match=r"t\.tsv:10: is not valid UTF-8"):
        read_columns(path, COLUMNS)


NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\ufeff"), min_size=1, max_size=6
).filter(lambda s: s.strip() != "")


@given(st.lists(st.tuples(NAMES, NAMES, NAMES), min_size=1, max_size=5), st.booleans())
def test_any_name_survives(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], crlf: bool) -> None:
    end = "\r\n" if crlf else "\n"
    path = write(tmp_path_factory.getbasetemp(), "".join("\t".join(row) + end for row in rows), "any.tsv")
    assert read_columns(path, COLUMNS).rows() == rows


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"])
def test_an_empty_file_has_no_rows(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path, data)
    assert read_lines(path).to_list() == []
    assert read_columns(path, COLUMNS).shape == (0, 3)


def test_lines_are_kept_blank_ones_too(tmp_path: Path) -> None:
    assert read_lines(write(tmp_path, "\n\na\n\n")).to_list() == ["", "", "a", ""]
    assert read_lines(write(tmp_path, "a\x0bb\u2028c\x85d")).to_list() == ["a\x0bb\u2028c\x85d"]


EXPECTED = "where head TAB relation TAB tail is expected"


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ("", "blank line"),
        ("  ", "blank line"),
        ("\t\t", "blank line"),
        ("a\tr", "2 columns"),
        ("a", "1 column"),
        ("a r b", "1 column"),
        ("a\tr\tb\tc", "4 columns"),
        ("a\tr\tb\t", "4 columns"),
        ("a\tr\t", "empty field"),
        ("a\t\tb", "empty field"),
        (" \tr\tb", "empty field"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, bad: str, what: str, end: str) -> None:
    path = write(tmp_path, end.join(["a\tr\tb", "c\tr\td", bad, "worse"]) + end)
    with pytest.raises(DataError) as caught:
        read_columns(path, COLUMNS)
    assert str(caught.value) == f"{path}:3: {what} {EXPECTED}; mend or delete the row"
    assert caught.value.line == 3


def test_blank_first_and_last_lines_are_named(tmp_path: Path) -> None:
    for text, line in (("\na\tr\tb\n", 1), ("a\tr\tb\n\n", 2), ("\n", 1)):
        with pytest.raises(DataError) as caught:
            read_columns(write(tmp_path, text), COLUMNS)
        assert caught.value.line == line
        assert "blank line" in str(caught.value)


@pytest.mark.parametrize("name", ["t.tsv", "t.tsv.gz"])
def test_invalid_utf8_is_named_by_its_line(tmp_path: Path, name: str) -> None:
    data = "a\tr\té\n".encode() * 4 + b"a\tr\t\xff\n" + b"a\tr\tb\n"
    path = write(tmp_path, gzip.compress(data) if name.endswith("gz") else data, name)
    with pytest.raises(DataError) as caught:
        read_columns(path, COLUMNS)
    assert str(caught.value) == f"{path}:5: is not valid UTF-8; save the file as UTF-8"


DAMAGES = {
    "half": lambda z: z[: len(z) // 2],
    "no trailer": lambda z: z[:-4],
    "flipped": lambda z: z[:12] + b"\xff" + z[13:],
    "not gzip": lambda z: b"no gzip",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_gzip(tmp_path: Path, damage) -> None:
    packed = gzip.compress(CLEAN.encode() * 50, mtime=0)
    damaged = damage(packed)
    assert damaged != packed
    path = write(tmp_path, damaged, "t.tsv.gz")
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_columns(path, COLUMNS)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).endswith("; check the file")
    assert caught.value.line is None


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read \(No such file or directory\); check the file"):
        read_lines(tmp_path / "no.tsv")


def test_header_table(tmp_path: Path) -> None:
    frame = read_header_table(write(tmp_path, '\ufeffentity\tname\r\na\t\r\nb\tthe "b"\r\n'))
    assert frame.columns == ["entity", "name"]
    assert frame.rows() == [("a", ""), ("b", 'the "b"')]
    assert read_header_table(write(tmp_path, "entity\na\nb")).rows() == [("a",), ("b",)]
    assert read_header_table(write(tmp_path, "entity\tname\n")).shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "is empty; give it a header line"),
        ("a\tb\ta\n1\t2\t3\n", 1, "column names repeat; name each column once"),
        ("a\tb\n1\t2\n1\n", 3, "1 columns where the header has 2; mend the row"),
        ("a\tb\n1\t2\n\n1\t2\n", 3, "1 columns where the header has 2; mend the row"),
        ("a\tb\n1\t2\t3\n", 2, "3 columns where the header has 2; mend the row"),
        ("a\n1\n1\t2\n", 3, "2 columns where the header has 1; mend the row"),
    ],
)
def test_bad_header_table(tmp_path: Path, text: str, line: int | None, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_header_table(path)
    place = path if line is None else f"{path}:{line}"
    assert str(caught.value) == f"{place}: {message}"


def test_statements_of_rdf_are_told_from_malformed_rows(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("<http://e/a> <http://e/r> <http://e/b> .\n")
    with pytest.raises(DataError, match=r"train\.txt:1: 1 column where .+; it looks like RDF: let `mmrns data convert"):
        read_columns(tmp_path / "train.txt", ["head", "relation", "tail"])


@pytest.mark.parametrize("text", ["a\tr\tb\nb\tr\tc\rd\n", "a\tr\tb\r\n\rb\tr\tc\r\nc\tr\ta\r\n"])
def test_a_carriage_return_within_a_line_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    for read in (read_lines, read_header_table):
        with pytest.raises(DataError, match="a carriage return within the line; end lines with LF") as caught:
            read(path)
        assert caught.value.line == 2


def test_many_carriage_returns_take_no_time(tmp_path: Path) -> None:
    """Whatever their number, each is looked at a few times."""
    many = "\r" * 400_000
    assert read_lines(write(tmp_path, f"a{many}\nb{many}\n")).to_list() == ["a", "b"]
    assert len(read_lines(write(tmp_path, many))) == 400_000
    with pytest.raises(DataError):
        read_lines(write(tmp_path, f"a{many}b\nc{many}d\n"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_utf_16_is_named(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(DataError, match=r"t\.tsv:1: is not valid UTF-8 \(it looks like UTF-16\)"):
        read_lines(write(tmp_path, CLEAN.encode(encoding)))


def test_what_grows_beyond_measure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, gzip.compress(bytes(50_000)), "t.tsv.gz")
    monkeypatch.setattr(tables, "LARGEST_GZIP", 49_999)
    with pytest.raises(DataError, match=r"t\.tsv\.gz: grows more than 200-fold when it is decompressed"):
        read_bytes(path)
    monkeypatch.setattr(tables, "LARGEST_GZIP", 50_000)
    assert read_bytes(path) == bytes(50_000)
    monkeypatch.setattr(tables, "LARGEST_GZIP", 10)
    dense = bytes(range(256)) * 4
    assert read_bytes(write(tmp_path, gzip.compress(dense), "t.tsv.gz")) == dense
