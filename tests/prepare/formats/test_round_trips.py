"""Out and back: what a layout can hold comes back as it was."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyoxigraph import Literal, NamedNode, RdfFormat, parse

from mmrns.data.datasets import load_dataset
from mmrns.data.folders import EMBEDDED
from mmrns.errors import DataError
from mmrns.prepare.formats import convert, to_pykeen
from mmrns.prepare.formats.contents import Contents
from mmrns.prepare.formats.rdf import DESCRIPTIONS, NAMES, NTriples, Rdf

TARGETS = ["tsv", "parquet", "openke", "pykeen", "ntriples"]


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files with the same bytes."""
    held = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (one, other)]
    return held[0] == held[1]


@pytest.mark.parametrize("target", TARGETS)
def test_a_dataset_folder_comes_back_byte_for_byte(toy_folder: Path, tmp_path: Path, target: str) -> None:
    convert(toy_folder, tmp_path / "there", target=target)
    done = convert(tmp_path / "there", tmp_path / "back")
    assert same(toy_folder, tmp_path / "back")
    assert done.entities == 40
    assert done.notes == []
    if target != "tsv":
        assert not same(toy_folder, tmp_path / "there")


@pytest.mark.parametrize("target", ["openke", "parquet"])
def test_the_embedded_dataset_comes_back_with_pictures_and_licences(tmp_path: Path, target: str) -> None:
    done = convert("countries", tmp_path / "there", target=target)
    assert done.pictures == (245, 245)
    convert(tmp_path / "there", tmp_path / "back")
    assert same(EMBEDDED["countries"], tmp_path / "back")


@pytest.mark.parametrize("target", ["openke", "ntriples"])
def test_a_real_dataset_comes_back(shared: Path, tmp_path: Path, target: str) -> None:
    convert(shared / "data" / "DB15K", tmp_path / "there", target=target)
    convert(tmp_path / "there", tmp_path / "back")
    assert same(shared / "data" / "DB15K", tmp_path / "back")


def test_parquet_is_a_dataset_folder_too(toy_folder: Path, tmp_path: Path) -> None:
    convert(toy_folder, tmp_path / "parquet", target="parquet")
    one, other = load_dataset(toy_folder), load_dataset(tmp_path / "parquet")
    assert one.graph.train.tolist() == other.graph.train.tolist()
    assert one.graph.entities.names.equals(other.graph.entities.names)


def test_openke_is_what_openke_reads(toy_folder: Path, tmp_path: Path) -> None:
    convert(toy_folder, tmp_path / "openke", target="openke")
    graph = load_dataset(toy_folder).graph
    lines = (tmp_path / "openke" / "train2id.txt").read_text().splitlines()
    assert lines[0] == str(len(graph.train))
    assert [tuple(map(int, line.split())) for line in lines[1:]] == [(h, t, r) for h, r, t in graph.train.tolist()]
    names = (tmp_path / "openke" / "entity2id.txt").read_text().splitlines()
    assert names == ["40", *(f"{name}\t{i}" for i, name in enumerate(graph.entities))]


def test_triples_factories_hold_the_graph(toy_folder: Path) -> None:
    graph = load_dataset(toy_folder).graph
    factories = to_pykeen(graph)
    assert {name: f.mapped_triples.tolist() for name, f in factories.items()} == {
        "training": graph.train.tolist(),
        "validation": graph.valid.tolist(),
        "testing": graph.test.tolist(),
    }
    assert factories["training"].entity_to_id == {name: i for i, name in enumerate(graph.entities)}
    assert factories["testing"].num_entities == 40


def test_pykeen_reads_what_is_written_for_it(toy_folder: Path, tmp_path: Path) -> None:
    from pykeen.triples import TriplesFactory

    convert(toy_folder, tmp_path / "pykeen", target="pykeen")
    factory = TriplesFactory.from_path(tmp_path / "pykeen" / "train.txt")
    expected = (toy_folder / "train.tsv").read_text().splitlines()
    found = factory.label_triples(factory.mapped_triples)
    assert sorted("\t".join(row) for row in found) == sorted(expected)


ANY = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\0\ufeff"), min_size=1, max_size=8
).filter(lambda s: s.strip() == s)
IRIS = st.sampled_from(
    [
        "http://example.org/a",
        "http://example.org/é#b?c",
        "http://example.org/a.png",
        'http://dbpedia.org/resource/"x"',
        "http://x/%zz",
        "http://x:y/",
        "http://x/[1]",
        "urn:x:y",
        "urn:mmrns:z",
        "file:///tmp/x.jpg",
        "mailto:a@b",
        "x:%41",
        "a:",
        "//a",
        "_:b0",
        "_:",
    ]
)
NAME = ANY | IRIS


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(NAME, NAME, NAME), min_size=1, max_size=6))
def test_any_name_survives_every_layout(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "g").mkdir()
    text = "".join("\t".join(row) + "\n" for row in rows)
    (folder / "g" / "train.tsv").write_text(text, encoding="utf-8", newline="")
    for target in ("openke", "parquet", "ntriples"):
        convert(folder / "g", folder / target, target=target, header=False)
        convert(folder / target, folder / f"{target}-back")
        assert (folder / f"{target}-back" / "train.tsv").read_bytes() == text.encode(), target


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]) | st.sampled_from(" \\\"'<>.@^"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(NAME, TEXTS, TEXTS), min_size=1, max_size=4, unique_by=lambda row: row[0]))
def test_ntriples_say_what_any_parser_reads(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    """An independent reader finds every text; ours finds the same table again."""
    folder = tmp_path_factory.mktemp("texts")
    entities = [row[0] for row in rows]
    clean = [[" ".join(text.split()) for text in row[1:]] for row in rows]
    table = pl.DataFrame({"entity": entities, "name": [c[0] for c in clean], "description": [c[1] for c in clean]})
    train = pl.DataFrame({"head": entities, "relation": ["r"] * len(rows), "tail": entities[::-1]})
    NTriples().write(Contents(folder, {"train": train}, entities=table), folder)
    said = {NAMES[0]: [c[0] for c in clean if c[0]], DESCRIPTIONS[0]: [c[1] for c in clean if c[1]]}
    if any(said.values()):
        quads = list(parse((folder / "entities.nt").read_bytes(), RdfFormat.N_TRIPLES))
        for predicate, texts in said.items():
            found = [q.object.value for q in quads if q.predicate == NamedNode(predicate)]
            assert found == texts
            assert all(isinstance(q.object, Literal) for q in quads)
    back = Rdf().read(folder)
    assert back.splits["train"].rows() == train.rows()
    expected = {row[0]: tuple(row[1:]) for row in table.rows() if any(row[1:])}
    columns = [] if back.entities is None else back.entities.columns
    found = {} if back.entities is None else {row["entity"]: row for row in back.entities.to_dicts()}
    assert {e: tuple(row.get(c, "") for c in ("name", "description")) for e, row in found.items()} == expected
    assert set(columns) <= {"entity", "name", "description"}


def test_numbers_texts_and_labels_survive_ntriples(toy_folder: Path, tmp_path: Path) -> None:
    (toy_folder / "entities.tsv").unlink()
    (toy_folder / "numbers.tsv").write_text("entity\tattribute\tvalue\ne00\tarea in km²\t12.50\ne01\tage\t-3e5\n")
    (toy_folder / "texts.tsv").write_text('entity\ttext\ne00\tsaid "no" \\ once\ne00\tné\n')
    (toy_folder / "relations.tsv").write_text("relation\tname\nlikes\tis fond of\n")
    convert(toy_folder, tmp_path / "nt", target="ntriples")
    tables = ("numbers.tsv", "texts.tsv", "relations.tsv")
    for name in tables:
        (tmp_path / "nt" / name).unlink()
    convert(tmp_path / "nt", tmp_path / "back")
    for name in tables:
        assert (tmp_path / "back" / name).read_text() == (toy_folder / name).read_text()


def test_an_existing_target_is_left_alone(toy_folder: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    for path in (there, tmp_path / "dangling"):
        if path != there:
            path.symlink_to("nowhere")
        with pytest.raises(DataError, match="exists already; choose another name"):
            convert(toy_folder, path)
    assert list(there.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "text", "lacking"),
    [("numbers", "entity\tattre\tvalue\ne00\tage\t1\n", "attribute"), ("texts", "entity\ttexte\ne00\tone\n", "text")],
)
def test_tables_with_other_columns_are_refused_where_they_would_be_lost(
    toy_folder: Path, tmp_path: Path, name: str, text: str, lacking: str
) -> None:
    (toy_folder / f"{name}.tsv").write_text(text)
    with pytest.raises(DataError, match=rf"{name}\.tsv:1: has no column `{lacking}`; name its columns entity, "):
        convert(toy_folder, tmp_path / "nt", target="ntriples")
    assert not (tmp_path / "nt").exists()
