"""Every layout is recognised by its files and read to the same names."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from mmrns.data.datasets import load_dataset
from mmrns.errors import DataError, UsageError
from mmrns.prepare.formats import convert, sniff

TRIPLES = [("a", "likes", "b c"), ("b c", "likes", "d"), ("d", "hates", "a")]


def put(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def rows(folder: Path, split: str = "train") -> list[tuple[str, ...]]:
    return [tuple(line.split("\t")) for line in (folder / f"{split}.tsv").read_text().splitlines()]


def table(separator: str, *, header: str = "", order: tuple[int, ...] = (0, 1, 2)) -> str:
    return header + "".join(separator.join(row[i] for i in order) + "\n" for row in TRIPLES)


TABLES = {
    "tsv": ("g.tsv", table("\t"), {}),
    "csv": ("g.csv", table(","), {}),
    "semicolons": ("g.csv", table(";"), {}),
    "bars": ("g.txt", table("|"), {}),
    "quoted": ("g.csv", 'a,likes,"b c"\n"b c",likes,d\nd,"hates",a\n', {}),
    "header": ("g.csv", table(",", header="subject,predicate,object\n"), {}),
    "header, other order": ("g.tsv", table("\t", header="tail\thead\trelation\n", order=(2, 0, 1)), {}),
    "header by name": ("g.csv", table(",", header="von,wie,nach\n"), {"columns": ["von", "wie", "nach"]}),
    "header as told": ("g.tsv", table("\t", header="x\ty\tz\n"), {"header": True}),
    "numbers": ("g.tsv", "".join(f"9\t{t}\t{h}\t{r}\n" for h, r, t in TRIPLES), {"columns": ["3", "4", "2"]}),
    "crlf and bom": ("g.csv", b"\xef\xbb\xbf" + table(",").replace("\n", "\r\n").encode(), {}),
    "gzip": ("g.csv.gz", gzip.compress(table(",").encode()), {}),
    "delimiter": ("g.txt", table("^"), {"delimiter": "^"}),
    "no final line end": ("g.csv", table(",").rstrip("\n"), {}),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables(tmp_path: Path, case: str) -> None:
    name, content, options = TABLES[case]
    put(tmp_path, {name: content})
    done = convert(tmp_path / name, tmp_path / "out", **options)
    assert rows(tmp_path / "out") == TRIPLES
    assert done.triples == {"train": 3}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.tsv"]
    assert any("taken for a header" in note for note in done.notes) == (case in ("header", "header, other order"))


def test_a_header_is_a_triple_where_one_says_so(tmp_path: Path) -> None:
    put(tmp_path, {"g.tsv": "head\trelation\ttail\na\tr\tb\n"})
    convert(tmp_path / "g.tsv", tmp_path / "out", header=False)
    assert rows(tmp_path / "out") == [("head", "relation", "tail"), ("a", "r", "b")]


def test_parquet(tmp_path: Path) -> None:
    frame = pl.DataFrame(TRIPLES, schema=["s", "p", "o"], orient="row").with_columns(weight=1.0)
    frame.write_parquet(tmp_path / "g.parquet")
    convert(tmp_path / "g.parquet", tmp_path / "out")
    assert rows(tmp_path / "out") == TRIPLES
    frame.select("weight", "o", "p", "s").write_parquet(tmp_path / "h.parquet")
    convert(tmp_path / "h.parquet", tmp_path / "out2", columns=["s", "p", "o"])
    assert rows(tmp_path / "out2") == TRIPLES


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    put(tmp_path, {"g.csv": "x,y,z\n1,2,3\n"})
    with pytest.raises(UsageError, match=r"--columns: g.csv has no column 'w'; it has 3: x, y, z"):
        convert(tmp_path / "g.csv", tmp_path / "out", columns=["x", "y", "w"])
    with pytest.raises(UsageError, match="not 2"):
        convert(tmp_path / "g.csv", tmp_path / "out", columns=["x", "y"])


OPENKE = {
    "entity2id.txt": "3\na\t0\nb c\t2\nd\t1\n",
    "relation2id.txt": "2\nlikes\t0\nhates\t1\n",
    "train2id.txt": "2\n0 2 0\n2 1 0\n",
    "valid2id.txt": "1\n1\t0\t1\n",
}
LAYOUTS: dict[str, dict[str, str | bytes]] = {
    "openke": OPENKE,
    "openke without counts in the lists": OPENKE
    | {"entity2id.txt": "a 0\nb c 2\nd 1\n", "relation2id.txt": "likes 0\nhates 1\n"},
    "ids and entities.txt": {
        "entities.txt": "a\nd\nb c\n",
        "relations.txt": "likes\nhates\n",
        "train.txt": "0\t0\t2\n2\t0\t1\n",
        "valid.txt": "1\t1\t0\n",
    },
    "entities.dict, by name": {
        "entities.dict": "0\ta\n1\td\n2\tb c\n",
        "relations.dict": "0\tlikes\n1\thates\n",
        "train.txt": "a\tlikes\tb c\nb c\tlikes\td\n",
        "valid.txt": "d\thates\ta\n",
    },
    "entities.dict, by id": {
        "entities.dict": "0\ta\n1\td\n2\tb c\n",
        "relations.dict": "0\tlikes\n1\thates\n",
        "train.txt": "0 0 2\n2 0 1\n",
        "dev.txt": "1 1 0\n",
    },
    "entity2id.txt and names": {
        "entity2id.txt": "a\t0\nd\t1\nb c\t2\n",
        "train.txt": "a\tlikes\tb c\nb c\tlikes\td\n",
        "valid.txt": "d\thates\ta\n",
    },
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts_with_ids(tmp_path: Path, case: str) -> None:
    source = put(tmp_path / "in", LAYOUTS[case])
    done = convert(source, tmp_path / "out")
    assert done.layout == ("openke" if case.startswith("openke") else "ids")
    assert rows(tmp_path / "out") == TRIPLES[:2]
    assert rows(tmp_path / "out", "valid") == TRIPLES[2:]
    assert (done.entities, done.relations) == (3, 2)


def test_the_order_of_openke_can_be_told(tmp_path: Path) -> None:
    source = put(tmp_path / "in", OPENKE | {"train2id.txt": "2\n0 0 2\n2 0 1\n", "valid2id.txt": "1\n1 1 0\n"})
    with pytest.raises(UsageError, match="--columns"):
        convert(source, tmp_path / "out", columns=["h", "r", "t"])
    convert(source, tmp_path / "out", columns=["1", "2", "3"])
    assert rows(tmp_path / "out") == TRIPLES[:2]


def test_entities_without_triples_are_kept(tmp_path: Path) -> None:
    source = put(tmp_path / "in", OPENKE | {"entity2id.txt": "4\na\t0\nb c\t2\nd\t1\nlonely\t3\n"})
    assert convert(source, tmp_path / "out").entities == 4
    assert (tmp_path / "out" / "entities.tsv").read_text() == "entity\nlonely\n"


TURTLE = """
@prefix ex: <http://example.org/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix foaf: <http://xmlns.com/foaf/0.1/> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
ex:Kenya ex:borders ex:Uganda ;
    rdfs:label "Kenia"@de, "Kenya"@en ; rdfs:comment "A country\\n in \\"East\\" Africa." ;
    ex:area 580367.0 ; ex:founded "1963-12-12"^^xsd:date ;
    ex:motto "Harambee" ;
    foaf:depiction <images/kenya.png> .
ex:Uganda ex:capital [ rdfs:label "Kampala" ] ; rdfs:label "Ouganda"@fr ; ex:anthem "Oh Uganda"@lg ;
    ex:photo <http://example.org/u.JPG> .
ex:borders rdfs:label "shares a border with" .
ex:Lake rdfs:label "Victoria" .
"""
NTRIPLES = """<http://example.org/Kenya> <http://example.org/borders> <http://example.org/Uganda> .
<http://example.org/Kenya> <http://www.w3.org/2000/01/rdf-schema#label> "Kenya" .
"""
RDF_XML = """<?xml version="1.0"?>
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:ex="http://example.org/"
         xmlns:rdfs="http://www.w3.org/2000/01/rdf-schema#">
<rdf:Description rdf:about="http://example.org/Kenya"><ex:borders rdf:resource="http://example.org/Uganda"/>
<rdfs:label>Kenya</rdfs:label></rdf:Description></rdf:RDF>
"""


def test_turtle_gives_triples_names_texts_numbers_and_pictures(tmp_path: Path) -> None:
    source = put(tmp_path / "in", {"g.ttl": TURTLE, "images/kenya.png": b"\x89PNG"})
    done = convert(source, tmp_path / "out")
    e = "http://example.org/"
    found = rows(tmp_path / "out")
    assert found[0] == (f"{e}Kenya", f"{e}borders", f"{e}Uganda")
    blank = found[1][2]
    assert blank.startswith("_:")
    assert len(found) == 2
    entities = pl.read_csv(tmp_path / "out" / "entities.tsv", separator="\t", quote_char=None, infer_schema=False)
    assert {row["entity"]: row for row in entities.fill_null("").to_dicts()} == {
        blank: {"entity": blank, "name": "Kampala", "description": "", "image": ""},
        f"{e}Kenya": {
            "entity": f"{e}Kenya",
            "name": "Kenya",
            "description": 'A country in "East" Africa.',
            "image": "images/kenya.png",
        },
        f"{e}Lake": {"entity": f"{e}Lake", "name": "Victoria", "description": "", "image": ""},
        f"{e}Uganda": {"entity": f"{e}Uganda", "name": "Ouganda", "description": "", "image": f"{e}u.JPG"},
    }
    numbers = (tmp_path / "out" / "numbers.tsv").read_text().splitlines()
    assert numbers[:2] == ["entity\tattribute\tvalue", f"{e}Kenya\t{e}area\t580367.0"]
    assert abs(float(numbers[2].split("\t")[2]) - 1963.9468) < 1e-3
    assert (tmp_path / "out" / "texts.tsv").read_text() == f"entity\ttext\n{e}Kenya\tHarambee\n"
    assert (tmp_path / "out" / "relations.tsv").read_text() == f"relation\tname\n{e}borders\tshares a border with\n"
    assert done.pictures == (1, 1)
    assert done.notes == ["1 texts in languages other than 'en' were left out"]
    assert convert(source, tmp_path / "de", language="de").entities == 4
    assert f"{e}Kenya\tKenia\t" in (tmp_path / "de" / "entities.tsv").read_text()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("g.nt", NTRIPLES.encode()),
        ("g.nt.gz", gzip.compress(NTRIPLES.encode())),
        ("g.rdf", RDF_XML.encode()),
        ("g.owl.gz", gzip.compress(RDF_XML.encode())),
        ("g.nq", NTRIPLES.replace(" .\n", " <http://example.org/graph> .\n").encode()),
    ],
)
def test_rdf_formats(tmp_path: Path, name: str, content: bytes) -> None:
    put(tmp_path, {name: content})
    done = convert(tmp_path / name, tmp_path / "out")
    assert done.layout == "rdf"
    assert rows(tmp_path / "out") == [tuple(f"http://example.org/{x}" for x in ("Kenya", "borders", "Uganda"))]
    assert (tmp_path / "out" / "entities.tsv").read_text() == "entity\tname\nhttp://example.org/Kenya\tKenya\n"


def test_a_folder_of_rdf_has_splits_where_files_say_so(tmp_path: Path) -> None:
    other = NTRIPLES.replace("Uganda", "Sudan")
    source = put(tmp_path / "in", {"train.nt": NTRIPLES, "test.nt": other, "more.nt": other})
    done = convert(source, tmp_path / "out")
    assert done.triples == {"train": 1, "test": 1}
    assert done.notes == ["1 statements outside the files of the splits were left out"]
    parts = put(tmp_path / "parts", {"a.nt": NTRIPLES, "b.nt": other})
    assert convert(parts, tmp_path / "out2").triples == {"train": 2}


def test_pykeen_by_name(tmp_path: Path) -> None:
    done = convert("nations", tmp_path / "out", layout="pykeen")
    assert done.triples == {"train": 1592, "valid": 199, "test": 201}
    graph = load_dataset(tmp_path / "out").graph
    assert graph.entities.id("brazil") == 0
    assert len(graph.relations) == 55
    with pytest.raises(UsageError, match="unknown PyKEEN dataset 'nation'; did you mean 'nations'"):
        convert("nation", tmp_path / "no", layout="pykeen")


def test_what_lies_beside_the_triples_comes_along(tmp_path: Path) -> None:
    source = put(
        tmp_path / "in",
        {
            "triples.csv": table(",") + "a,likes,x/y z\n",
            "descriptions.csv": 'entity,description\na,"first, of all"\nd,"two\nlines"\nd,more\n',
            "pictures/a.png": b"1",
            "pictures/b c/1.jpg": b"2",
            "pictures/b c/2.jpg": b"3",
            "pictures/x/y%20z.png": b"5",
            "pictures/nobody.png": b"4",
            "README.md": "from a friend",
        },
    )
    done = convert(source, tmp_path / "out")
    assert done.pictures == (4, 5)
    assert (tmp_path / "out" / "entities.tsv").read_text() == (
        "entity\tdescription\timage\na\tfirst, of all\tpictures/a.png\nd\ttwo lines more\t\n"
        "b c\t\tpictures/b c\nx/y z\t\tpictures/x/y%20z.png\n"
    )
    assert (tmp_path / "out" / "pictures" / "b c" / "2.jpg").read_bytes() == b"3"
    assert (tmp_path / "out" / "README.md").read_text() == "from a friend"


def test_names_with_line_breaks_become_one_line(tmp_path: Path) -> None:
    put(tmp_path, {"g.csv": 'a,"likes\nmuch",b\n'})
    done = convert(tmp_path / "g.csv", tmp_path / "out")
    assert rows(tmp_path / "out") == [("a", "likes much", "b")]
    assert done.notes == ["g.csv: tabs, line breaks and NULs within the names of 1 triples became blanks"]


def test_more_relations_than_entities_is_said(tmp_path: Path) -> None:
    put(tmp_path, {"g.tsv": "a\tx\tb\na\ty\tb\nb\tz\ta\n"})
    assert convert(tmp_path / "g.tsv", tmp_path / "out").notes == [
        "there are more relations than entities; if columns are swapped, see --columns"
    ]


def test_unknown_layouts_and_sources(tmp_path: Path) -> None:
    put(tmp_path, {"g.tsv": table("\t"), "empty/x.bin": b""})
    with pytest.raises(UsageError, match="unknown layout 'opnke'; did you mean 'openke'"):
        convert(tmp_path / "g.tsv", tmp_path / "out", layout="opnke")
    with pytest.raises(UsageError, match="unknown layout to write"):
        convert(tmp_path / "g.tsv", tmp_path / "out", target="xls")
    with pytest.raises(UsageError, match="no dataset or folder 'countrys'; did you mean 'countries'"):
        convert("countrys", tmp_path / "out")
    with pytest.raises(DataError, match="holds no triples that are recognised"):
        sniff(tmp_path / "empty")
    with pytest.raises(DataError, match="is no folder"):
        convert(tmp_path / "g.tsv", tmp_path / "out", layout="openke")
    with pytest.raises(UsageError, match="are for tables"):
        convert(put(tmp_path / "o", OPENKE), tmp_path / "out", delimiter=",")
    assert not (tmp_path / "out").exists()
