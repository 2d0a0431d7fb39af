"""RDF: N-Triples, Turtle, RDF/XML, N-Quads and TriG, also gzipped. Needs the extra `rdf`."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import polars as pl

from mmrns.errors import DataError, UsageError
from mmrns.prepare.formats.base import Layout
from mmrns.prepare.formats.contents import (
    ENTITY,
    SPLIT_NAMES,
    TRIPLE,
    Contents,
    fit_names,
    merged,
    one_line,
    text_splits,
    write_lines,
)

FORMATS = {".nt": "nt", ".ttl": "ttl", ".rdf": "rdf", ".owl": "rdf", ".xml": "rdf", ".nq": "nq", ".trig": "trig"}
SUFFIXES = (*FORMATS, *(f"{suffix}.gz" for suffix in FORMATS))

_RDFS = "http://www.w3.org/2000/01/rdf-schema#"
_SKOS = "http://www.w3.org/2004/02/skos/core#"
_FOAF = "http://xmlns.com/foaf/0.1/"
_DC = ("http://purl.org/dc/terms/", "http://purl.org/dc/elements/1.1/")
_SCHEMA = ("http://schema.org/", "https://schema.org/")
_XSD = "http://www.w3.org/2001/XMLSchema#"
_TEXT_TYPES = (f"{_XSD}string", "http://www.w3.org/1999/02/22-rdf-syntax-ns#langString")
NAMES = (
    f"{_RDFS}label",
    f"{_SKOS}prefLabel",
    f"{_FOAF}name",
    *(f"{s}name" for s in _SCHEMA),
    *(f"{d}title" for d in _DC),
)
DESCRIPTIONS = (
    f"{_RDFS}comment",
    f"{_SKOS}definition",
    "http://dbpedia.org/ontology/abstract",
    *(f"{s}description" for s in (*_SCHEMA, *_DC)),
)
IMAGES = (
    f"{_FOAF}depiction",
    f"{_FOAF}img",
    "http://dbpedia.org/ontology/thumbnail",
    "http://www.wikidata.org/prop/direct/P18",
    *(f"{s}image" for s in _SCHEMA),
)
_TEXT = f"{_SCHEMA[0]}text"
_PICTURE = re.compile(r"\.(png|jpe?g|gif|webp|svg|tiff?|bmp)$", re.IGNORECASE)
_DATE = re.compile(r"^(-?\d{4,})-(\d\d)-(\d\d)")

_BASE = "file:///"
"""What relative IRIs are resolved against; taken off again."""

_NAME = "urn:mmrns:"
"""Before a name that is no IRI, percent-encoded."""

_CHAR = r"(?:[A-Za-z0-9\-._~:@!$&'()*+,;=]|%[0-9A-Fa-f]{2}|[\x{A0}-\x{D7FF}\x{F900}-\x{FDCF}\x{FDF0}-\x{FFEF}])"
_IRI = (
    rf"^[A-Za-z][A-Za-z0-9+.\-]*:(?://[A-Za-z0-9.\-]+(?::[0-9]{{1,5}})?(?:/{_CHAR}*)*|/?{_CHAR}+(?:/{_CHAR}*)*)"
    rf"(?:\?(?:{_CHAR}|[/?])*)?(?:#(?:{_CHAR}|[/?])*)?$"
)
_BLANK = r"^_:[A-Za-z0-9_][A-Za-z0-9_\-]*$"
_BATCH = 1 << 20


def rdf_format(path: Path) -> str | None:
    """The format that a file's suffix says, without `.gz`."""
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    return FORMATS.get(suffix.lower())


def rdf_files(source: Path) -> list[Path]:
    """The RDF files of a folder, or the one file."""
    if not source.is_dir():
        return [source]
    return sorted(path for path in source.iterdir() if rdf_format(path) and (path.is_file() or path.is_symlink()))


class Rdf(Layout, name="rdf"):
    """Files of RDF in any of its usual notations."""

    title = "N-Triples, Turtle, RDF/XML, N-Quads, TriG"
    aliases = ("nt", "turtle", "ttl", "rdfxml")

    def recognises(self, path: Path) -> bool:
        if not path.is_dir():
            return rdf_format(path) is not None
        return bool(rdf_files(path)) and not text_splits(path)

    def read(self, source: Path, *, language: str = "en", advance: Callable[[int], None] | None = None) -> Contents:
        """Statements between resources become triples; literals become names, descriptions, texts and numbers.

        A folder's `train.nt`, `valid.nt`, `test.nt` (or another suffix) are its splits, and its other files then give
        literals only; without them, every file is train. Names are IRIs as they stand, `_:label` for blank nodes.
        Of a literal's property: rdfs:label and its like become the name, rdfs:comment and its like the description,
        foaf:depiction and its like, or any value that ends like a picture, the image (but in files named after the
        splits, where every statement between resources is a triple); numeric and date types become numbers (a date
        its year and fraction), other strings texts. Where a name or description comes in several languages,
        `language` is taken, else the one without a language, else the first.

        Args:
            source: a file or folder.
            language: of names and texts.
            advance: told how many statements are done, now and then.

        Raises:
            DataError: a malformed or truncated file, by line; no statement between two resources.
            UsageError: the extra `rdf` is not installed.
        """
        files = rdf_files(source)
        if not files:
            raise DataError(source, "holds no RDF file", f"name them {', '.join(FORMATS)}, with .gz or without")
        in_folder = source.is_dir()
        splits = {path: SPLIT_NAMES.get(path.name.split(".")[0]) if in_folder else "train" for path in files}
        if not any(split == "train" for split in splits.values()):
            splits = {path: split or "train" for path, split in splits.items()}
        notes: list[str] = []
        triples: dict[str, list[pl.DataFrame]] = {}
        literals: list[pl.DataFrame] = []
        beside = 0
        for path, split in splits.items():
            named = in_folder and SPLIT_NAMES.get(path.name.split(".")[0]) is not None
            between, said = _read_file(path, advance or (lambda n: None), pictures=not named)
            literals.append(said)
            if split is None:
                beside += len(between)
            else:
                triples.setdefault(split, []).append(fit_names(between, path, 1, notes))
        if not any(len(frame) for frame in triples.get("train", [])):
            raise DataError(
                source, "no statement between two resources", "check the file; literals alone make no graph"
            )
        if beside:
            notes.append(f"{beside:,} statements outside the files of the splits were left out")
        frames = {split: pl.concat(triples[split]) for split in ("train", "valid", "test") if split in triples}
        contents = Contents(source, frames, notes=notes)
        _take_literals(contents, pl.concat(literals), language)
        return contents


class NTriples(Rdf, name="ntriples"):
    """N-Triples, as we write them; they are read like any other RDF."""

    title = "train.nt, valid.nt, test.nt, entities.nt"
    aliases = ("nt",)

    def write(self, contents: Contents, folder: Path) -> None:
        """`train.nt`, `valid.nt`, `test.nt`, and `entities.nt` with names, descriptions, pictures, texts and numbers.

        Names that are IRIs or blank nodes are written as such, others percent-encoded after `urn:mmrns:`, which
        reading undoes.
        """
        names = pl.concat([contents.names(), contents.relation_names()]).unique()
        tables = [contents.numbers, contents.texts, contents.relations]
        more = [
            table[column]
            for table in tables
            if table is not None
            for column in ("entity", "attribute", "relation")
            if column in table.columns
        ]
        terms = _Terms(pl.concat([names, *(column.alias("entity") for column in more)]).unique().sort())
        for split, frame in contents.splits.items():
            lines = frame.select(
                pl.format("{} {} {} .", terms.resource("head"), terms.property("relation"), terms.resource("tail"))
            )
            write_lines(lines, folder / f"{split}.nt", header=False)
        statements: list[pl.DataFrame] = []

        def say(table: pl.DataFrame | None, subject: str, predicate: pl.Expr, column: str, type_: str = "") -> None:
            if table is None or column not in table.columns:
                return
            value = pl.format('"{}"{}', _escaped(column), pl.lit(type_))
            statements.append(
                table.filter(pl.col(column).fill_null("") != "").select(
                    pl.format("{} {} {} .", terms.resource(subject), predicate, value).alias("line")
                )
            )

        for column, predicate in (("name", NAMES[0]), ("description", DESCRIPTIONS[0]), ("image", IMAGES[0])):
            say(contents.entities, "entity", pl.lit(f"<{predicate}>"), column)
        say(contents.texts, "entity", pl.lit(f"<{_TEXT}>"), "text")
        say(contents.numbers, "entity", terms.property("attribute"), "value", f"^^<{_XSD}double>")
        say(contents.relations, "relation", pl.lit(f"<{NAMES[0]}>"), "name")
        lines = [frame for frame in statements if len(frame)]
        if lines:
            write_lines(pl.concat(lines), folder / "entities.nt", header=False)


def _read_file(path: Path, advance: Callable[[int], None], *, pictures: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The statements between resources, and those about literals or pictures with type and language."""
    try:
        import pyoxigraph as ox
    except ImportError as error:
        raise UsageError("RDF needs the extra `rdf`: pip install 'mmrns[rdf]'") from error
    formats = {
        "nt": ox.RdfFormat.N_TRIPLES,
        "ttl": ox.RdfFormat.TURTLE,
        "rdf": ox.RdfFormat.RDF_XML,
        "nq": ox.RdfFormat.N_QUADS,
        "trig": ox.RdfFormat.TRIG,
    }
    chosen = rdf_format(path)
    if chosen is None:
        raise DataError(path, "is no RDF file by its suffix", f"name it one of {', '.join(FORMATS)}")
    base = None if chosen in ("nt", "nq") else _BASE + quote(path.name)
    schema = [*TRIPLE, "literal", "type", "language"]
    frames: list[pl.DataFrame] = []
    rows: list[tuple[str, str, str, bool, str | None, str | None]] = []

    def name(term: Any) -> str:
        return term.value if isinstance(term, ox.NamedNode) else f"_:{term.value}"

    def flush() -> None:
        types = [pl.String] * 3 + [pl.Boolean] + [pl.String] * 2
        frames.append(pl.DataFrame(rows, schema=dict(zip(schema, types, strict=True)), orient="row"))
        advance(len(rows))
        rows.clear()

    with _opened(path) as file, _explained(path):
        for quad in ox.parse(file, formats[chosen], base_iri=base):
            subject, predicate, value = quad.subject, quad.predicate, quad.object
            if isinstance(value, ox.Literal):
                rows.append((name(subject), predicate.value, value.value, True, value.datatype.value, value.language))
            elif isinstance(value, ox.NamedNode | ox.BlankNode) and isinstance(subject, ox.NamedNode | ox.BlankNode):
                rows.append((name(subject), predicate.value, name(value), False, None, None))
            if len(rows) >= _BATCH:
                flush()
    flush()
    frame = pl.concat(frames)
    names = pl.concat([frame["head"], frame["relation"], frame.filter(~pl.col("literal"))["tail"]]).unique()
    ours = names.filter(names.str.starts_with(_NAME) | names.str.starts_with(_BASE)).to_list()
    if ours:
        plain = {iri: unquote(iri.removeprefix(_NAME if iri.startswith(_NAME) else _BASE)) for iri in ours}
        decoded = pl.col("head", "relation").replace(plain)
        tail = pl.when("literal").then("tail").otherwise(pl.col("tail").replace(plain))
        frame = frame.with_columns(decoded, tail.alias("tail"))
    picture = pl.col("relation").is_in(IMAGES) | pl.col("tail").str.contains(f"(?i){_PICTURE.pattern}")
    about = pl.col("literal") | (picture & pictures)
    return frame.filter(~about).select(TRIPLE), frame.filter(about)


@contextmanager
def _opened(path: Path) -> Generator[Any]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DataError(path, f"cannot be read ({reason})", "check the file") from error


@contextmanager
def _explained(path: Path) -> Generator[None]:
    try:
        yield
    except SyntaxError as error:
        reason = re.sub(r"^Parser error (at|between) .*?: ", "", str(error.msg).split("\n")[0])
        raise DataError(path, f"is malformed ({reason})", "mend the statement", error.lineno) from error
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(path, f"is malformed ({str(error).splitlines()[0]})", "check the file") from error


def _take_literals(contents: Contents, said: pl.DataFrame, language: str) -> None:
    """Sort literals and pictures into the tables of the contents."""
    if said.is_empty():
        return
    lang = pl.col("language").str.to_lowercase()
    chosen = (lang == language.lower()) | lang.str.starts_with(f"{language.lower()}-")
    rank = pl.when(chosen).then(0).when(lang.is_null() | (lang == "")).then(1).otherwise(2)
    text = pl.col("literal") & pl.col("type").is_in(_TEXT_TYPES)
    picture = pl.col("relation").is_in(IMAGES) | pl.col("tail").str.contains(f"(?i){_PICTURE.pattern}")
    date = pl.col("tail").str.extract_groups(_DATE.pattern)
    year, month, day = (date.struct.field(str(i)).cast(pl.Float64, strict=False) for i in (1, 2, 3))
    lexical = pl.col("tail").str.strip_chars()
    number = pl.coalesce(year + (month - 1) / 12 + (day - 1) / 365.25, lexical.cast(pl.Float64, strict=False))
    numeric = pl.col("literal") & ~text & number.is_finite().fill_null(False)
    said = said.with_columns(
        rank=rank,
        what=pl.when(pl.col("relation").is_in(NAMES) & text)
        .then(pl.lit("name"))
        .when(pl.col("relation").is_in(DESCRIPTIONS) & text)
        .then(pl.lit("description"))
        .when(picture & (text | ~pl.col("literal") | pl.col("type").str.ends_with("anyURI")))
        .then(pl.lit("image"))
        .when(numeric)
        .then(pl.lit("number"))
        .otherwise(pl.lit("text")),
        # Numbers keep their own notation.
        value=pl.when(date.struct.field("1").is_not_null()).then(number.round(6).cast(pl.String)).otherwise(lexical),
        line=one_line(pl.col("tail")),
    )
    relations = contents.relation_names()
    resources = pl.concat([frame[c] for frame in contents.splits.values() for c in ("head", "tail")]).unique()
    is_relation = (
        pl.col("head").is_in(relations.to_list()) & ~pl.col("head").cast(pl.Enum(resources), strict=False).is_not_null()
    )
    of_relations = said.filter(is_relation & (pl.col("what") == "name"))
    said = said.filter(~is_relation)
    best = said.filter(pl.col("what").is_in(["name", "description", "image"]) & (pl.col("line") != "")).sort(
        "rank", maintain_order=True
    )
    for column in ENTITY[1:]:
        part = best.filter(pl.col("what") == column).unique("head", keep="first", maintain_order=True)
        if len(part):
            table = part.sort("head").select(pl.col("head").alias("entity"), pl.col("line").alias(column))
            contents.entities = merged(contents.entities, table)
    if contents.entities is not None:
        contents.entities = contents.entities.sort("entity")
    numbers = said.filter(pl.col("what") == "number")
    if len(numbers):
        contents.numbers = numbers.select(
            pl.col("head").alias("entity"), pl.col("relation").alias("attribute"), "value"
        ).unique(maintain_order=True)
    texts = said.filter((pl.col("what") == "text") & (pl.col("line") != "") & (pl.col("rank") < 2))
    if len(texts):
        contents.texts = texts.select(pl.col("head").alias("entity"), pl.col("line").alias("text")).unique(
            maintain_order=True
        )
    foreign = said.filter((pl.col("what") == "text") & (pl.col("rank") == 2)).height
    if foreign:
        contents.notes.append(f"{foreign:,} texts in languages other than {language!r} were left out")
    if len(of_relations):
        labels = of_relations.sort("rank", maintain_order=True).unique("head", keep="first").sort("head")
        contents.relations = labels.select(pl.col("head").alias("relation"), pl.col("line").alias("name"))


class _Terms:
    """Names as N-Triples terms: found once for each name, then looked up."""

    def __init__(self, names: pl.Series):
        iri = names.str.contains(_IRI) & ~names.str.starts_with(_NAME) & ~names.str.starts_with(_BASE)
        blank = names.str.contains(_BLANK)
        coded = pl.Series([f"<{_NAME}{quote(name, safe='')}>" for name in names.filter(~iri)], dtype=pl.String)
        as_iri = pl.Series("term", [""] * len(names), dtype=pl.String)
        as_iri = as_iri.scatter((~iri).arg_true(), coded)
        self._codes = pl.Enum(names)
        self._property = names.to_frame("n").select(
            pl.when(iri).then(pl.format("<{}>", "n")).otherwise(as_iri).alias("term")
        )["term"]
        self._resource = names.to_frame("n").select(pl.when(blank).then("n").otherwise(self._property).alias("term"))[
            "term"
        ]

    def resource(self, column: str) -> pl.Expr:
        return self._look_up(column, self._resource)

    def property(self, column: str) -> pl.Expr:
        return self._look_up(column, self._property)

    def _look_up(self, column: str, terms: pl.Series) -> pl.Expr:
        return pl.lit(terms).gather(pl.col(column).cast(self._codes).to_physical())


def _escaped(column: str) -> pl.Expr:
    value = pl.col(column).fill_null("").cast(pl.String)
    for character, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r")):
        value = value.str.replace_all(character, escape, literal=True)
    return value
