"""RDF as it is in the world: malformed lines, blank nodes, declared properties, literals of any datatype."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrns.errors import DataError, UsageError
from mmrns.prepare.formats import Contents, convert
from mmrns.prepare.formats.literals import NAMES, XSD
from mmrns.prepare.formats.rdf import NTriples, Rdf

PREFIXES = f"""@prefix : <http://e/> . @prefix xsd: <{XSD}> . @prefix owl: <http://www.w3.org/2002/07/owl#> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> . @prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> .
"""


def read(folder: Path, options: dict[str, bool] | None = None, **files: str | bytes) -> Contents:
    """What is read of a new folder of files, whose names have `__` in place of a dot; or of a single file."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content.encode() if isinstance(content, str) else content)
    (only, *more) = folder.iterdir()
    return Rdf().read(folder if more else only, **(options or {}))


def triple(head: str, tail: str, graph: str = "") -> str:
    return f"<http://e/{head}> <http://e/r> <http://e/{tail}> {graph}."


def tails(contents: Contents) -> list[str]:
    return [tail.removeprefix("http://e/") for tail in contents.splits["train"]["tail"]]


MALFORMED = [
    "<http://e/a> <http://e/r> <Restriction hasValue=Allen,_Ohio> .",
    "<http://e/a> <http://e/r> <http://e/x#Crew?oldid=12#Deck> .",
    '<http://e/a> <http://e/r> "never closed .',
    "<http://e/a> <http://e/r> <http://e/no-full-stop>",
    "garbage",
    "<a> <r> <relative> .",
    '<http://e/a> <http://e/r> "x"@toolonglanguagetag .',
    b"<http://e/a> <http://e/r> <http://e/\xff> .",
]


@pytest.mark.parametrize("bad", MALFORMED)
@pytest.mark.parametrize(("suffix", "end"), [("nt", "\n"), ("nt", "\r\n"), ("nq", "\n"), ("nt.gz", "\n")])
def test_malformed_statements_are_refused_or_left_out(tmp_path: Path, bad: str | bytes, suffix: str, end: str) -> None:
    bad = bad if isinstance(bad, bytes) else bad.encode()
    graph = "<http://e/g> " if suffix == "nq" else ""
    lines = [triple("a", "b", graph).encode(), bad, triple("b", "c", graph).encode(), b"# a comment", bad, b""]
    content = end.encode().join([*lines, triple("c", "d", graph).encode()])
    path = tmp_path / f"g.{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    with pytest.raises(DataError, match=r"^\S+:2: is malformed \(.+\); mend the statement, or .+ --skip-malformed$"):
        Rdf().read(path)
    contents = Rdf().read(path, skip_malformed=True)
    assert tails(contents) == ["b", "c", "d"]
    assert contents.malformed == 2
    (note,) = contents.notes
    assert note.startswith(f"2 malformed statements were left out, first: {path}:2 (")
    assert f", {path}:5 (" in note


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([*MALFORMED, triple("a", "b"), triple("b", "c"), "", "# x"]), max_size=12))
def test_what_is_left_out_is_what_is_malformed_by_itself(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str | bytes]
) -> None:
    from mmrns.prepare.formats import statements

    folder = tmp_path_factory.mktemp("lines")
    encoded = [line if isinstance(line, bytes) else line.encode() for line in lines]
    (folder / "g.nt").write_bytes(b"\n".join(encoded))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(statements, "_BLOCK_BYTES", 64)  # So that there are several blocks.
        found = statements.read_statements(folder / "g.nt", lambda n: None, skip_malformed=True)
    assert found.n_malformed == sum(line in MALFORMED for line in lines)
    first = [i for i, line in enumerate(lines, 1) if line in MALFORMED][:3]
    assert [line for line, _ in found.malformed] == first
    assert len(found.frame) == sum(str(line).startswith("<http://e/") and line not in MALFORMED for line in lines)


def test_only_lines_can_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"g\.ttl:1: is malformed \(.+\); .+ only lines of N-Triples and N-Quads can"):
        read(tmp_path / "ttl", {"skip_malformed": True}, g__ttl="<http://e/a> <x y> <b> .")
    (tmp_path / "g.tsv").write_text("a\tr\tb\n")
    with pytest.raises(UsageError, match="--skip-malformed is for statements of RDF, not for tsv"):
        convert(tmp_path / "g.tsv", tmp_path / "out", skip_malformed=True)


NESTED = {
    "g.ttl": ":a :r ( :b [ :s :c ] ) . _:b1 :r [] . [ :s :d ] :r _:b0, _:abcdefabcdefabcdef .",
    "g.trig": "_:g { :a :r [ :s ( :b ) ] } :h { [] :s _:b1 }",
}
XML = """<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:e="http://e/">
<rdf:Description rdf:nodeID="b0"><e:r rdf:parseType="Collection"><rdf:Description rdf:about="http://e/q"/></e:r>
<e:r rdf:parseType="Resource"><e:s rdf:resource="http://e/x"/></e:r></rdf:Description></rdf:RDF>"""


@pytest.mark.parametrize("name", ["g.ttl", "g.trig", "g.ttl.gz", "g.rdf"])
def test_anonymous_nodes_have_names_that_follow_from_the_file(tmp_path: Path, name: str) -> None:
    content = XML.encode() if name == "g.rdf" else (PREFIXES + NESTED[name.removesuffix(".gz")]).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    one, two = (Rdf().read(tmp_path / name).splits["train"] for _ in range(2))
    assert one.equals(two)
    names = set(one["head"]) | set(one["tail"])
    blank = {name.removeprefix("_:") for name in names if name.startswith("_:")}
    labels = {"g.ttl": {"b0", "b1", "abcdefabcdefabcdef"}, "g.trig": {"b1"}, "g.rdf": {"b0"}}[name.removesuffix(".gz")]
    n_anonymous = {"g.ttl": 5, "g.trig": 3, "g.rdf": 2}[name.removesuffix(".gz")]
    free = [f"b{i}" for i in range(9) if f"b{i}" not in labels]
    assert blank == labels | set(free[:n_anonymous])


def test_blank_nodes_are_kept_apart_by_file(tmp_path: Path) -> None:
    node = "<http://e/{}> <http://e/r> _:n1 .\n_:n1 <http://e/is> <http://e/{}> .\n"
    contents = read(
        tmp_path / "in",
        part1__nt=node.format("a", "X"),
        part2__nt=node.format("b", "Y"),
        part2__nq=node.format("b", "Y"),
        part3__ttl=PREFIXES + ":c :r [ :is :Z ] .",
    )
    blank = {name for name in contents.names() if name.startswith("_:")}
    assert blank == {"_:part1.n1", "_:part2.n1", "_:part2-2.n1", "_:part3.b0"}
    assert contents.notes == [
        "1 labels of blank nodes are in several files and taken for different nodes, named after their files, "
        "first: _:n1"
    ]


def test_files_of_one_graph_share_their_blank_nodes(tmp_path: Path) -> None:
    """Those that we wrote say so; files named after splits are taken for it."""
    train, test = (pl.DataFrame({"head": ["_:x", "_:a.b"], "relation": "r", "tail": tail}) for tail in ("b", "c"))
    entities = pl.DataFrame({"entity": ["_:x"], "name": ["unknown"]})
    (tmp_path / "ours").mkdir()
    NTriples().write(Contents(tmp_path, {"train": train, "test": test}, entities=entities), tmp_path / "ours")
    assert (tmp_path / "ours" / "entities.nt").read_text().startswith("# mmrns graph ")
    back = Rdf().read(tmp_path / "ours")
    assert (back.splits["train"].rows(), back.splits["test"].rows()) == (train.rows(), test.rows())
    assert back.entities is not None
    assert back.entities.rows() == entities.rows()
    assert back.notes == []
    others = {f"{split}__ttl": PREFIXES + ":a :r _:x , [] ." for split in ("train", "valid")}
    contents = read(tmp_path / "splits", **others, more__ttl=PREFIXES + '_:x rdfs:label "another" .')
    assert contents.splits["train"]["tail"].to_list() == ["_:x", "_:train.b0"]
    assert contents.splits["valid"]["tail"].to_list() == ["_:x", "_:valid.b0"]
    assert contents.entities is not None
    assert contents.entities["entity"].to_list() == ["_:more.x"]
    assert [note.split(", first")[0] for note in contents.notes] == [
        "1 labels of blank nodes are in several splits and taken for the same nodes",
        "1 labels of blank nodes are in several files and taken for different nodes, named after their files",
    ]


DECLARED = {
    "type": ':likes a owl:ObjectProperty ; rdfs:label "is fond of" . :a :likes :b .',
    "type, after its use": ':a :likes :b . :likes rdfs:label "is fond of" ; a owl:ObjectProperty .',
    "domain and range": ':likes rdfs:domain :c ; rdfs:range :c ; rdfs:label "mag"@de, "is fond of"@en . :a :likes :b .',
    "inverse": ':a :likes :b . :loved owl:inverseOf :likes . :likes rdfs:label "is fond of" .',
}


@pytest.mark.parametrize("case", DECLARED)
@pytest.mark.parametrize("parts", [1, 2])
def test_declared_properties_name_their_relations(tmp_path: Path, case: str, parts: int) -> None:
    statements = [part + " ." for part in DECLARED[case].removesuffix(" .").split(" . ")]
    if parts == 1:
        files = {"g__ttl": PREFIXES + "\n".join(statements)}
    else:
        files = {f"part{i}__ttl": PREFIXES + statement for i, statement in enumerate(statements)}
    contents = read(tmp_path / "in", **files)
    assert contents.relations is not None
    assert contents.relations.rows() == [("http://e/likes", "is fond of")]
    assert contents.entities is not None  # It is an entity too, and named as one.
    assert ("http://e/likes", "is fond of") in contents.entities.select("entity", "name").rows()


def test_properties_that_are_no_entities_make_none(tmp_path: Path) -> None:
    contents = read(
        tmp_path / "in",
        g__ttl=PREFIXES
        + ':a :likes :b ; :age 5 . :likes rdfs:label "is fond of" ; rdfs:comment "x" . :age rdfs:label "in years" .',
    )
    assert contents.entities is None
    assert contents.relations is not None
    assert contents.relations.rows() == [("http://e/likes", "is fond of")]
    assert contents.notes == ["2 literals about properties, which are no entities, were left out"]


NUMBERS = {
    "5": ("integer", "5"),
    "+7": ("integer", "+7"),
    ".5": ("decimal", ".5"),
    " 2.50E3 ": ("double", "2.50E3"),
    "true": ("boolean", "1"),
    "0": ("boolean", "0"),
    "1963": ("gYear", "1963"),
    "1963Z": ("gYear", "1963"),
    "-0044": ("gYear", "-0044"),
    "1963-07": ("gYearMonth", "1963.5"),
    "2012-02-29": ("date", "2012.159993"),
    "2000-02-29": ("date", "2000.159993"),
    "1963-07-01T23:59:59.5+01:00": ("dateTime", "1963.5"),
    "1963-07-01T24:00:00": ("dateTime", "1963.5"),
}
NOTHING = {
    "NaN": "double",
    "nan": "double",
    "INF": "float",
    "-INF": "float",
    "1e999": "double",
    "five": "integer",
    "yes": "boolean",
    "2013-13-45": "date",
    "2013-02-30": "date",
    "2013-00-10": "date",
    "2011-02-29": "date",
    "1900-02-29": "date",
    "2013-04-31": "date",
    "2013-04-25T118:09:00Z": "dateTime",
    "2013-04-25T24:09:00Z": "dateTime",
    "2013-13": "gYearMonth",
    "--03-14": "gMonthDay",
    "---14": "gDay",
    "--03": "gMonth",
    "12:00:00": "time",
    "P1Y": "duration",
    "beef": "hexBinary",
    "1234": "base64Binary",
    "http://x/y": "anyURI",
    "en": "language",
}


@pytest.mark.parametrize("lexical", NUMBERS)
def test_literals_that_are_numbers(tmp_path: Path, lexical: str) -> None:
    kind, value = NUMBERS[lexical]
    contents = read(tmp_path / "in", g__ttl=f'{PREFIXES} :a :r :b ; :p "{lexical}"^^xsd:{kind} .')
    assert contents.numbers is not None
    assert contents.numbers.rows() == [("http://e/a", "http://e/p", value)]
    assert (contents.texts, contents.notes, contents.left_out) == (None, [], {})


@pytest.mark.parametrize("lexical", NOTHING)
def test_literals_that_are_neither_number_nor_text(tmp_path: Path, lexical: str) -> None:
    kind = NOTHING[lexical]
    contents = read(tmp_path / "in", g__ttl=f'{PREFIXES} :a :r :b ; :p "{lexical}"^^xsd:{kind} .')
    assert (contents.numbers, contents.texts, contents.entities) == (None, None, None)
    assert contents.left_out == {XSD + kind: 1}
    assert contents.notes == [
        f"1 literal is neither a number nor a text and was left out: 1 xsd:{kind} such as {lexical!r}"
    ]


def test_literals_of_other_vocabularies_and_texts(tmp_path: Path) -> None:
    values = (
        '"12.5"^^<http://u/usd>, "POINT(1 2)"^^<http://u/wkt>, "<b>bold</b>"^^rdf:HTML, "a token"^^xsd:token, "nan"'
    )
    contents = read(tmp_path / "in", g__ttl=f"{PREFIXES} :a :r :b ; :p {values} .")
    assert contents.numbers is not None
    assert contents.numbers["value"].to_list() == ["12.5"]
    assert contents.texts is not None
    assert contents.texts["text"].to_list() == ["a token", "nan"]
    assert set(contents.left_out) == {"http://u/wkt", "http://www.w3.org/1999/02/22-rdf-syntax-ns#HTML"}
    assert contents.notes[1] == (
        "numbers of other datatypes were taken without their units: 1 <http://u/usd> such as '12.5'"
    )


@pytest.mark.parametrize("year", [-4, 0, 1900, 1963, 2000, 2024])
def test_the_days_are_those_of_the_calendar(tmp_path: Path, year: int) -> None:
    import calendar

    days = [(m, d) for m in range(14) for d in range(33)]
    dates = ", ".join(f'"{year:05d}-{m:02}-{d:02}"^^xsd:date'.replace('"0', '"') for m, d in days)
    contents = read(tmp_path / "in", g__ttl=f"{PREFIXES} :a :r :b ; :p {dates} .")
    known = calendar.isleap(year)
    assert sum(contents.left_out.values()) == len(days) - (366 if known else 365)
    assert contents.numbers is not None
    values = contents.numbers["value"].cast(pl.Float64)
    assert values.is_sorted()
    assert (values >= year).all()
    assert (values < year + 1).all()


TEXT_FILES = {
    "n-triples": (triple("a", "b"), [("http://e/a", "http://e/r", "http://e/b")]),
    "after comments and a byte order mark": (
        "\ufeff# DB15K\n\n" + triple("a", "b"),
        [("http://e/a", "http://e/r", "http://e/b")],
    ),
    "relative": ("<Albert> <bornIn> <Ulm> .\n", [("Albert", "bornIn", "Ulm")]),
    "turtle": (PREFIXES + ":a :r :b .", [("http://e/a", "http://e/r", "http://e/b")]),
    "quads": (triple("a", "b", "<http://e/g> "), [("http://e/a", "http://e/r", "http://e/b")]),
}


@pytest.mark.parametrize("case", TEXT_FILES)
@pytest.mark.parametrize("layout", ["rdf", "nt", "ntriples", "turtle"])
def test_rdf_is_read_whatever_the_suffix(tmp_path: Path, case: str, layout: str) -> None:
    content, expected = TEXT_FILES[case]
    (tmp_path / "in").mkdir()
    for name in ("train.txt", "test.tsv", "README"):
        (tmp_path / "in" / name).write_text("see [the page]" if name == "README" else content, encoding="utf-8")
    (tmp_path / "g.data").write_text(content, encoding="utf-8")
    done = convert(tmp_path / "in", tmp_path / "out", layout=layout)
    assert done.triples == {"train": 1, "test": 1}
    assert Rdf().read(tmp_path / "in").splits["test"].rows() == expected
    assert Rdf().read(tmp_path / "g.data").splits["train"].rows() == expected
    with pytest.raises(DataError, match=r"train\.txt: is RDF, with names such as <\.\.\.>; read it with --from rdf"):
        convert(tmp_path / "in", tmp_path / "new")


def test_a_suffix_that_is_wrong_is_seen(tmp_path: Path) -> None:
    assert tails(read(tmp_path / "owl", g__owl=PREFIXES + ":a :r :b .")) == ["b"]
    assert len(read(tmp_path / "xml", g__ttl=XML).splits["train"]) == 5
    with pytest.raises(DataError, match=r"g\.txt: is no RDF that is recognised; check the file, or name it \.nt,"):
        read(tmp_path / "none", g__txt="a\tr\tb\n")


def test_statements_about_statements_are_counted(tmp_path: Path) -> None:
    about = "<http://e/a> <http://e/r> <<( <http://e/a> <http://e/r> <http://e/c> )>> .\n"
    assert read(tmp_path / "in", g__nt=about + triple("a", "b")).notes == [
        "g.nt: 1 statements about statements were left out"
    ]


def test_labels_of_every_language_name_a_relation_once(tmp_path: Path) -> None:
    labels = "".join(f'<http://e/r> <{NAMES[0]}> "{text}" .\n' for text in ('mag"@de', 'aime"@fr'))
    contents = read(tmp_path / "in", g__nt=(labels + triple("a", "b")).replace('" .', " ."))
    assert contents.relations is not None
    assert contents.relations.rows() == [("http://e/r", "mag")]


def test_further_pictures_are_counted(tmp_path: Path) -> None:
    images = "<http://x/1.png>, <http://x/2.avif>, <http://x/1.png>"
    contents = read(tmp_path / "in", g__ttl=f"{PREFIXES} :a :r :b ; :p {images} .")
    assert contents.entities is not None
    assert contents.entities["image"].to_list() == ["http://x/1.png"]
    assert contents.notes == ["1 further pictures of entities that have one were left out"]
