"""Tables as spreadsheets, editors and other programs leave them: read rightly and said, or refused by line."""

from __future__ import annotations

import datetime
import decimal
import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrns.data.datasets import load_dataset
from mmrns.errors import DataError, MmrnsError
from mmrns.prepare.formats import convert

ROWS = [("a", "r", "b"), ("b", "r", "c")]
EDGES = "blanks around the names of 2 triples were taken off"


def put(folder: Path, files: dict[str, str | bytes | pl.DataFrame]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        if isinstance(content, pl.DataFrame):
            content.write_parquet(folder / name)
        else:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def rows(folder: Path, split: str = "train") -> list[tuple[str, ...]]:
    return [tuple(line.split("\t")) for line in (folder / f"{split}.tsv").read_text().split("\n")[:-1]]


def loaded(folder: Path) -> int:
    """How many entities a converted folder has when it is loaded, valid and test being train."""
    for split in ("valid", "test"):
        (folder / f"{split}.tsv").write_bytes((folder / "train.tsv").read_bytes())
    return len(load_dataset(folder).graph.entities)


TABLES: dict[str, tuple[str, str | bytes, list[str]]] = {
    "comma and blank": ("g.csv", "a, r, b\nb, r, c\n", [EDGES]),
    "semicolon and blank": ("g.csv", "a; r; b\nb; r; c\n", [EDGES]),
    "bar between blanks": ("g.txt", "a | r | b\nb | r | c\n", [EDGES]),
    "tab and blanks": ("g.tsv", " a \t r\tb\nb\tr \tc\n", [EDGES]),
    "blanks at line ends": ("g.tsv", "a\tr\tb \nb\tr\tc  \n", [EDGES]),
    "no-break spaces": ("g.csv", "a,\u00a0r,b\nb\u00a0,r,c\n", [EDGES]),
    "vertical tab, line separator": ("g.tsv", "a\tr\tb\x0b\nb\tr\tc\u2028\n", [EDGES]),
    "form feed, next line": ("g.csv", "a,r,b\x0c\nb,r,c\x85\n", [EDGES]),
    "aligned by blanks": ("g.txt", "a   r b \nb r     c\n", []),
    "cr cr lf": ("g.tsv", "a\tr\tb\r\r\nb\tr\tc\r\r\n", []),
    "cr cr lf in csv": ("g.csv", "a,r,b\r\r\nb,r,c\r\r\n", []),
    "cr": ("g.csv", "a,r,b\rb,r,c\r", []),
    "cr, gzip": ("g.tsv.gz", gzip.compress(b"a\tr\tb\rb\tr\tc"), []),
    "cr, but for the last": ("g.tsv", "a\tr\tb\rb\tr\tc\n", []),
    "crlf and lf": ("g.csv", "a,r,b\r\nb,r,c\n", []),
    "quotes after a blank": ("g.csv", 'a, "r", b\n"b", r, "c"\n', ["blanks after ',' were taken off"]),
    "quoted tsv": ("g.tsv", '"a"\t"r"\t"b"\n"b"\t"r"\t"c"\n', ["the fields are in quotes, which were taken off"]),
    "joined files": (
        "g.tsv",
        "\ufeffa\tr\tb\n\ufeffb\tr\tc\n",
        ["1 byte order marks at the start of later lines were taken off (joined files?)"],
    ),
    "variables of SPARQL": (
        "g.tsv",
        "?s\t?p\t?o\na\tr\tb\nb\tr\tc\n",
        ["the first line was taken for a header (?s, ?p, ?o)"],
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_one_entity_does_not_become_two(tmp_path: Path, case: str) -> None:
    name, content, notes = TABLES[case]
    done = convert(put(tmp_path / "in", {name: content}) / name, tmp_path / "out")
    assert rows(tmp_path / "out") == ROWS
    assert done.notes == [f"{name}: {note}" for note in notes]
    assert done.entities == loaded(tmp_path / "out") == 3


def test_a_carriage_return_between_rows_ends_a_line(tmp_path: Path) -> None:
    source = put(tmp_path / "in", {"g.tsv": "a\tr\tb\rb\tr\tc\nc\tr\ta\n"})
    done = convert(source, tmp_path / "out")
    assert rows(tmp_path / "out") == [*ROWS, ("c", "r", "a")]
    assert done.notes == ["g.tsv: 1 carriage returns were taken for line ends"]


@pytest.mark.parametrize("n", [1, 40])
@pytest.mark.parametrize(("name", "tab"), [("g.tsv", "\t"), ("g.csv", ",")])
def test_a_carriage_return_within_a_name_becomes_a_blank(tmp_path: Path, name: str, tab: str, n: int) -> None:
    text = tab.join(["b", "r", "c"]) + "\n"
    source = put(tmp_path / "in", {name: text * n + tab.join(["a", "r", "b\rx"]) + "\n"})
    done = convert(source, tmp_path / "out")
    assert rows(tmp_path / "out") == [("b", "r", "c")] * n + [("a", "r", "b x")]
    assert done.notes == [f"{name}: 1 carriage returns within lines became blanks"]


@pytest.mark.parametrize("kind", ["tsv", "csv", "parquet"])
def test_nul_in_a_name_becomes_a_blank(tmp_path: Path, kind: str) -> None:
    """Many of them would make the written file pass for UTF-16."""
    rowed = [("a", "r\0s", "b" * 99), ("b", "r\0\0", "c\0" * 20)]
    text = "".join(("," if kind == "csv" else "\t").join(row) + "\n" for row in rowed)
    table = pl.DataFrame(rowed, ["head", "relation", "tail"], orient="row")
    source = put(tmp_path / "in", {f"g.{kind}": table if kind == "parquet" else text})
    done = convert(source, tmp_path / "out")
    assert rows(tmp_path / "out")[0] == ("a", "r s", "b" * 99)
    assert " ".join(rows(tmp_path / "out")[1][2].split()) == " ".join("c" * 20)
    assert rows(tmp_path / "out")[1][1] == "r"
    assert any("NUL" in note for note in done.notes)
    assert loaded(tmp_path / "out") == 4
    with pytest.raises(DataError, match=":1: empty"):
        convert(put(tmp_path / "no", {"g.csv": "aa,\0,b\n"}), tmp_path / "none")


def test_nul_in_a_text_becomes_a_blank(tmp_path: Path) -> None:
    files = {"train.tsv": "a\tr\tb\n", "entities.csv": "entity,name\na,one\0two\nb,\0\n"}
    convert(put(tmp_path / "in", files), tmp_path / "out")
    assert (tmp_path / "out" / "entities.tsv").read_text() == "entity\tname\na\tone two\nb\t\n"


QUOTES = {
    "a comma after a blank": ('a, "likes, a lot", b\nb, "likes, a lot", c\n', "likes, a lot"),
    "doubled": ('a,"the ""r""",b\nb,"the ""r""",c\n', 'the "r"'),
    "inches": ('a,5" wide,b\nb,5" wide,c\n', '5" wide'),
    "at the end": ('a,wide 5",b\nb,wide 5",c\n', 'wide 5"'),
    "after é": ('a,é"x,b\nb,é"x,c\n', 'é"x'),
    "a line end": ('a,"one\r\ntwo",b\nb,"one\ntwo",c\n', "one two"),
}


@pytest.mark.parametrize("case", QUOTES)
def test_quotes(tmp_path: Path, case: str) -> None:
    text, relation = QUOTES[case]
    convert(put(tmp_path / "in", {"g.csv": text}), tmp_path / "out")
    assert rows(tmp_path / "out") == [("a", relation, "b"), ("b", relation, "c")]


def test_a_blank_after_a_quote_is_refused_by_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"g.csv:2: is malformed \(',' expected after '\"'\); check the quotes"):
        convert(put(tmp_path / "in", {"g.csv": 'a,r,b\n"b" ,r,c\n'}), tmp_path / "out")


def test_quoted_fields_of_r(tmp_path: Path) -> None:
    """R leaves numbers bare; a tab or a quote may be within quotes."""
    text = '"head"\t"relation"\t"tail"\n"a ""x"""\t"r\tr"\t3\n"b"\t"r\tr"\t-1.5\n'
    done = convert(put(tmp_path / "in", {"g.tsv": text}), tmp_path / "out")
    assert rows(tmp_path / "out") == [('a "x"', "r r", "3"), ("b", "r r", "-1.5")]
    assert done.notes[:2] == [
        "g.tsv: the fields are in quotes, which were taken off",
        "g.tsv: the first line was taken for a header (head, relation, tail)",
    ]


def test_some_quoted_names_are_kept_and_said(tmp_path: Path) -> None:
    done = convert(put(tmp_path / "in", {"g.tsv": '"a"\tr\tb\nb\tr\ta\n'}), tmp_path / "out")
    assert rows(tmp_path / "out") == [('"a"', "r", "b"), ("b", "r", "a")]
    assert done.notes == ['1 entities are in quotes, which were kept, first: "a"']


def test_names_that_look_alike_are_said(tmp_path: Path) -> None:
    done = convert(
        put(tmp_path / "in", {"g.tsv": "Oslo\tin\tNorway\nOs\u200blo\tin\u00a0\tNorway\n"}), tmp_path / "out"
    )
    assert done.notes == [
        "g.tsv: blanks around the names of 1 triples were taken off",
        "1 entities differ from another only in blanks or invisible characters, first: 'Os\\u200blo' and 'Oslo'; write "
        "them alike if they are one",
    ]


def test_words_of_a_header_may_be_names(tmp_path: Path) -> None:
    text = "head\trelation\ttail\nhead\tpart of\tbody\ntail\trelation\tbody\n"
    done = convert(put(tmp_path / "in", {"g.tsv": text}), tmp_path / "out")
    assert rows(tmp_path / "out")[0] == ("head", "relation", "tail")
    (note,) = done.notes
    assert note.endswith(
        "taken for a triple, since its relation 'relation' occurs again; --header takes it for a header"
    )
    convert(tmp_path / "in", tmp_path / "told", header=True)
    assert len(rows(tmp_path / "told")) == 2


@pytest.mark.parametrize(
    ("header", "columns", "note"),
    [
        ("country,property,value", None, "was taken for a header (country, property, value); --no-header makes it"),
        ("von,wie,nach", None, "was taken for a header (von, wie, nach); --no-header makes it a triple"),
        ("e30,wie,nach", None, None),
        ("Ann,type,Person", None, "was taken for a header (Ann, type, Person); --no-header makes it a triple"),
        (",film,property,value", None, "was taken for a header (, film, property, value)"),
        (",von,wie,nach", None, "was taken for a header (von, wie, nach); --no-header makes it a triple"),
        ("value,property,film", ["1", "2", "3"], "was taken for a header (value, property, film)"),
    ],
)
def test_headers_of_all_kinds(tmp_path: Path, header: str, columns: list[str] | None, note: str | None) -> None:
    body = [(f"e{i}", f"r{i % 3}", f"e{i + 1}") for i in range(30)]
    numbered = header.startswith(",")
    lines = [",".join((str(i), *row) if numbered else row) for i, row in enumerate(body)]
    source = put(tmp_path / "in", {"g.csv": "\n".join([header, *lines]) + "\n"})
    done = convert(source, tmp_path / "out", columns=columns)
    assert rows(tmp_path / "out") == (body if note else [tuple(header.split(",")), *body])
    assert any(f"g.csv: the first line {note}" in said for said in done.notes) == (note is not None)
    assert any("numbers the rows" in said for said in done.notes) == numbered
    if not numbered:
        told = convert(source, tmp_path / "told", header=False, columns=columns)
        assert told.triples == {"train": 31}


def test_a_first_line_that_may_be_a_header_is_named(tmp_path: Path) -> None:
    text = "Zoe,type,Person\nAnn,knows,Bob\nBob,knows,Ann\nKim,owns,Car\n"
    done = convert(put(tmp_path / "in", {"g.csv": text}), tmp_path / "out")
    assert done.triples == {"train": 4}
    said = "g.csv: the first line (Zoe, type, Person) was taken for a triple; --header takes it for a header"
    assert done.notes == [said]


ENTITIES: dict[str, tuple[str, str, str]] = {
    "id and name": ("entities.tsv", "id\tname\na\tAnn\n", "entity\tname\na\tAnn\n"),
    "upper case": ("entities.tsv", "Entity\tLabel\na\tAnn\n", "entity\tname\na\tAnn\n"),
    "no header": ("entities.tsv", "a\tAnn\nb\tBob\n", "entity\tdescription\na\tAnn\nb\tBob\n"),
    "blanks": ("entities.tsv", "entity\tname\n a\tAnn \nb \tBob\n", "entity\tname\na\tAnn\nb\tBob\n"),
    "quoted": ("entities.tsv", '"entity"\t"name"\n"a"\t"Ann"\n', "entity\tname\na\tAnn\n"),
    "semicolons": ("entities.csv", "entity;name\na;Ann\n", "entity\tname\na\tAnn\n"),
    "several descriptions": (
        "entities.tsv",
        "entity\tdescription\na\tone\na\ttwo\na\tone\nb\tx\n",
        "entity\tdescription\na\tone two\nb\tx\n",
    ),
    "several descriptions beside a name": (
        "entities.tsv",
        "entity\tname\tdescription\na\tAnn\tone\nb\tBob\t\na\t\ttwo\n",
        "entity\tname\tdescription\na\tAnn\tone two\nb\tBob\t\n",
    ),
    "as it should be": ("entities.tsv", 'entity\tname\na\tthe  "Ann"\n', 'entity\tname\na\tthe  "Ann"\n'),
}


@pytest.mark.parametrize("case", ENTITIES)
def test_what_is_written_of_entities_loads(tmp_path: Path, case: str) -> None:
    name, content, expected = ENTITIES[case]
    convert(put(tmp_path / "in", {"train.tsv": "a\tr\tb\nb\tr\tc\n", name: content}), tmp_path / "out")
    assert (tmp_path / "out/entities.tsv").read_text() == expected
    assert loaded(tmp_path / "out") == 3


def test_an_entity_of_two_names_is_refused(tmp_path: Path) -> None:
    source = {"train.tsv": "a\tr\tb\n", "entities.tsv": "entity\tname\tdescription\na\tAnn\tx\nb\tBob\t\na\tAnna\ty\n"}
    with pytest.raises(DataError, match=r"entities.tsv:4: entity 'a' is listed twice"):
        convert(put(tmp_path / "in", source), tmp_path / "out")


@pytest.mark.parametrize(
    "table", ["id\tlabel\nr\tlikes\n", "r\tlikes\n", "relation\tname\n r\tlikes\n", "name\tname of\nr\tlikes\n"]
)
def test_what_is_written_of_relations_loads(tmp_path: Path, table: str) -> None:
    convert(put(tmp_path / "in", {"train.tsv": "a\tr\tb\n", "relations.tsv": table}), tmp_path / "out")
    loaded(tmp_path / "out")
    assert load_dataset(tmp_path / "out").relation_labels["r"] == "likes"


def test_names_in_tables_of_texts_and_numbers_fit_those_of_the_triples(tmp_path: Path) -> None:
    tables = {"texts.tsv": "entity\ttext\na \tx  y\n", "numbers.tsv": "a \tarea\t1\n"}
    convert(put(tmp_path / "in", {"train.tsv": "a \tr\tb\n", **tables}), tmp_path / "out")
    assert (tmp_path / "out/texts.tsv").read_text() == "entity\ttext\na\tx y\n"
    assert (tmp_path / "out/numbers.tsv").read_text() == "entity\tattribute\tvalue\na\tarea\t1\n"


def parquet(tails: Any) -> pl.DataFrame:
    return pl.DataFrame({"head": ["a", "b"], "relation": ["r", "r"], "tail": tails})


PARQUET: dict[str, tuple[Any, str]] = {
    "lists": ([["b"], ["c"]], ": column tail is a list; write names there, as strings or integers"),
    "structs": ([{"x": "b"}, {"x": "c"}], ": column tail is a struct; write names"),
    "Latin-1": ([b"b", b"\xe9"], ":2: column tail holds bytes that are not UTF-8; write the column as strings"),
    "floats": ([1.0, 2.0], ": column tail is of Float64; write names"),
    "decimals": ([decimal.Decimal("1.0")] * 2, ": column tail is of Decimal; write names"),
    "times": ([datetime.datetime(2020, 1, 1)] * 2, ": column tail is of Datetime; write names"),
    "truth values": ([True, False], ": column tail is of Boolean; write names"),
    "nulls": ([None, None], ":1: empty field; mend or delete the row"),
    "a null": (["b", None], ":2: empty field; mend or delete the row"),
    "a blank": (["b", " "], ":2: empty field; mend or delete the row"),
}


@pytest.mark.parametrize("case", PARQUET)
def test_parquet_without_names_is_refused_alike(tmp_path: Path, case: str) -> None:
    tails, message = PARQUET[case]
    source = put(tmp_path / "in", {f"{split}.parquet": parquet(tails) for split in ("train", "valid", "test")})
    for read in (lambda: convert(source, tmp_path / "out"), lambda: load_dataset(source)):
        with pytest.raises(DataError) as caught:
            read()
        assert str(caught.value).startswith(f"{source}/train.parquet{message}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tails", "names"),
    [
        ([b"b", b"c"], ["b", "c"]),
        ([1, 2], ["1", "2"]),
        (pl.Series(["b", "c"], dtype=pl.Categorical), ["b", "c"]),
        ([datetime.date(2020, 1, 2)] * 2, ["2020-01-02"] * 2),
    ],
)
def test_parquet_with_names_of_other_types(tmp_path: Path, tails: Any, names: list[str]) -> None:
    source = put(tmp_path / "in", {f"{split}.parquet": parquet(tails) for split in ("train", "valid", "test")})
    convert(source, tmp_path / "out")
    assert [row[2] for row in rows(tmp_path / "out")] == names
    assert list(load_dataset(source).graph.entities) == sorted({"a", "b", *names})


def test_columns_of_parquet_that_are_not_chosen_may_hold_anything(tmp_path: Path) -> None:
    frame = parquet(["b", "c"]).with_columns(when=pl.Series([[1], [2]]), weight=0.5)
    convert(put(tmp_path / "in", {"g.parquet": frame}), tmp_path / "out")
    assert rows(tmp_path / "out") == ROWS


def test_a_name_in_parquet_that_no_line_can_hold(tmp_path: Path) -> None:
    source = put(tmp_path / "in", {f"{split}.parquet": parquet(["b", "c\nd"]) for split in ("train", "valid", "test")})
    with pytest.raises(DataError, match=r"train.parquet:2: a name has a tab or a line end; rename it"):
        load_dataset(source)
    convert(source, tmp_path / "out")
    assert rows(tmp_path / "out")[1] == ("b", "r", "c d")


PIECES = st.sampled_from(
    ["a", "r", '"', '""', ",", ";", "\t", " ", "\n", "\r", "\r\n", "\ufeff", "\u00a0", "\x00", "head", "1"]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(PIECES, max_size=25).map("".join) | st.binary(max_size=40), st.sampled_from(["g.tsv", "g.csv", "g.txt"])
)
def test_any_file_is_converted_and_loads_or_is_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: str | bytes, name: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    try:
        done = convert(put(folder / "in", {name: content}) / name, folder / "out")
    except MmrnsError as error:
        said = str(error)
    else:
        assert loaded(folder / "out") == done.entities
        return
    assert "\n" not in said
    assert not (folder / "out").exists()
