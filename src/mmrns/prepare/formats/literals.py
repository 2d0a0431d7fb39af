"""What becomes of the literals and pictures of RDF: names, descriptions, images, numbers, texts, or nothing."""

from __future__ import annotations

import polars as pl

from mmrns.prepare.folders import PICTURE_SUFFIXES
from mmrns.prepare.formats.contents import ENTITY, Contents, merged, one_line

XSD = "http://www.w3.org/2001/XMLSchema#"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_RDFS = "http://www.w3.org/2000/01/rdf-schema#"
_OWL = "http://www.w3.org/2002/07/owl#"
_SKOS = "http://www.w3.org/2004/02/skos/core#"
_FOAF = "http://xmlns.com/foaf/0.1/"
_DC = ("http://purl.org/dc/terms/", "http://purl.org/dc/elements/1.1/")
_SCHEMA = ("http://schema.org/", "https://schema.org/")
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
TEXT = f"{_SCHEMA[0]}text"

_TEXTS = (*(XSD + t for t in ("string", "normalizedString", "token")), f"{_RDF}langString", f"{_RDF}dirLangString")
_NUMBERS = (
    *(XSD + t for t in ("decimal", "double", "float", "integer", "long", "int", "short", "byte")),
    *(f"{XSD}unsigned{t}" for t in ("Long", "Int", "Short", "Byte")),
    *(f"{XSD}{sign}Integer" for sign in ("positive", "negative", "nonPositive", "nonNegative")),
    f"{_OWL}real",
)
_DATES = tuple(XSD + t for t in ("date", "dateTime", "dateTimeStamp", "gYear", "gYearMonth"))
_BOOLEAN = f"{XSD}boolean"
_VOCABULARIES = {XSD: "xsd:", _RDF: "rdf:", _RDFS: "rdfs:", _OWL: "owl:"}
"""Their other datatypes are known to be neither numbers nor texts."""

_NUMBER = r"^[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?$"
_TIME = r"(?:(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?|24:00(?::00(?:\.0+)?)?)"
_DATE = rf"^(-?\d{{4,}})(?:-(\d\d)(?:-(\d\d)(?:[T ]{_TIME})?)?)?(?:Z|[+-](?:0\d|1[0-4]):[0-5]\d)?$"
_PICTURE = rf"(?i)\.(?:{'|'.join(suffix.removeprefix('.') for suffix in PICTURE_SUFFIXES)})$"
_SHOWN = 4


def is_picture() -> pl.Expr:
    """Whether a statement's value is a picture: by its property, or since it ends like one."""
    return pl.col("relation").is_in(IMAGES) | pl.col("tail").str.contains(_PICTURE)


def take_literals(contents: Contents, said: pl.DataFrame, language: str) -> None:
    """Sort literals and pictures into the tables of the contents.

    | datatype                                          | becomes                                                |
    |---------------------------------------------------|--------------------------------------------------------|
    | xsd:string, normalizedString, token; langString   | name, description, image or text, as its property says |
    | xsd:decimal, double, integer and the like         | a number, if finite                                    |
    | xsd:date, dateTime, dateTimeStamp, gYear(Month)   | the year and its passed part, if the calendar has it    |
    | xsd:boolean                                       | the number 1 or 0                                      |
    | any other of xsd, rdf, rdfs and owl               | nothing; an anyURI may be an image                     |
    | of other vocabularies                             | a number where it is written as one, without its unit  |

    What becomes nothing is counted by datatype in `Contents.left_out`. A subject that is used as a relation gives the
    relation its name, and the entity too where it is one.

    Args:
        contents: with the splits filled in.
        said: columns head, relation, tail, literal, type, language.
        language: of names and texts.
    """
    if said.is_empty():
        return
    said = _sorted_out(said, language)
    _note_left_out(contents, said)
    said = _take_relations(contents, said)
    best = said.filter(pl.col("what").is_in(["name", "description", "image"]) & (pl.col("line") != "")).sort(
        "rank", maintain_order=True
    )
    for column in ENTITY[1:]:
        part = best.filter(pl.col("what") == column).unique("head", keep="first", maintain_order=True)
        if len(part):
            table = part.sort("head").select(pl.col("head").alias("entity"), pl.col("line").alias(column))
            contents.entities = merged(contents.entities, table)
        further = best.filter(pl.col("what") == column).unique(["head", "line"]).height - len(part)
        if column == "image" and further:
            contents.notes.append(f"{further:,} further pictures of entities that have one were left out")
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


def _sorted_out(said: pl.DataFrame, language: str) -> pl.DataFrame:
    """With columns rank (of the language), what it becomes, value (of a number) and line (of a text)."""
    lang = pl.col("language").str.to_lowercase()
    chosen = (lang == language.lower()) | lang.str.starts_with(f"{language.lower()}-")
    rank = pl.when(chosen).then(0).when(lang.is_null() | (lang == "")).then(1).otherwise(2)
    text = pl.col("literal") & pl.col("type").is_in(_TEXTS)
    image = is_picture() & (text | ~pl.col("literal") | pl.col("type").str.ends_with("anyURI"))
    return said.with_columns(
        rank=rank,
        value=pl.when("literal").then(_number()),
        line=one_line(pl.col("tail")),
    ).with_columns(
        what=pl.when(pl.col("relation").is_in(NAMES) & text)
        .then(pl.lit("name"))
        .when(pl.col("relation").is_in(DESCRIPTIONS) & text)
        .then(pl.lit("description"))
        .when(image)
        .then(pl.lit("image"))
        .when(text)
        .then(pl.lit("text"))
        .when(pl.col("value").is_not_null())
        .then(pl.lit("number"))
        .otherwise(pl.lit("nothing"))
    )


def _number() -> pl.Expr:
    """The number that a literal stands for by its datatype, in its own notation where it has one; null if for none."""
    lexical, kind = pl.col("tail").str.strip_chars(), pl.col("type")
    finite = lexical.str.contains(_NUMBER) & lexical.cast(pl.Float64, strict=False).is_finite().fill_null(False)
    date = lexical.str.extract_groups(_DATE)
    written = [date.struct.field(str(i)) for i in (1, 2, 3)]
    year, month, day = (part.cast(pl.Int64, strict=False) for part in written)
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    february = pl.when(leap).then(29).otherwise(28)
    longest = pl.when(month == 2).then(february).when(month.is_in([4, 6, 9, 11])).then(30).otherwise(31)
    there = year.is_not_null() & month.is_between(1, 12).fill_null(True) & day.is_between(1, longest).fill_null(True)
    passed = year + (month - 1) / 12 + (day.fill_null(1) - 1) / 365.25
    instant = pl.when(written[1].is_null()).then(written[0]).otherwise(passed.round(6).cast(pl.String))
    other = ~pl.any_horizontal(kind.str.starts_with(vocabulary) for vocabulary in _VOCABULARIES)
    return (
        pl.when((kind.is_in(_NUMBERS) | other) & finite)
        .then(lexical)
        .when(kind.is_in(_DATES) & there)
        .then(instant)
        .when((kind == _BOOLEAN) & lexical.is_in(["true", "1"]))
        .then(pl.lit("1"))
        .when((kind == _BOOLEAN) & lexical.is_in(["false", "0"]))
        .then(pl.lit("0"))
    )


def _note_left_out(contents: Contents, said: pl.DataFrame) -> None:
    """Count what becomes nothing, and numbers whose datatypes are not known."""
    nothing = _by_type(said.filter(pl.col("what") == "nothing"))
    if len(nothing):
        contents.left_out = dict(nothing.select("type", "len").iter_rows())
        total = nothing["len"].sum()
        what = (
            "literal is neither a number nor a text and was"
            if total == 1
            else ("literals are neither numbers nor texts and were")
        )
        contents.notes.append(f"{total:,} {what} left out: {_listed(nothing)}")
    known = pl.any_horizontal(pl.col("type").str.starts_with(vocabulary) for vocabulary in _VOCABULARIES)
    units = _by_type(said.filter((pl.col("what") == "number") & ~known))
    if len(units):
        contents.notes.append(f"numbers of other datatypes were taken without their units: {_listed(units)}")


def _by_type(said: pl.DataFrame) -> pl.DataFrame:
    """Columns type, len and tail (the first literal), the most frequent type first."""
    groups = said.group_by("type", maintain_order=True).agg(pl.len(), pl.col("tail").first())
    return groups.sort("len", descending=True, maintain_order=True)


def _listed(types: pl.DataFrame) -> str:
    parts = [f"{count:,} {_short(kind)} such as {example[:40]!r}" for kind, count, example in types.rows()[:_SHOWN]]
    return "; ".join(parts) + (f"; and {len(types) - _SHOWN:,} more datatypes" if len(types) > _SHOWN else "")


def _short(kind: str) -> str:
    vocabulary = next((v for v in _VOCABULARIES if kind.startswith(v)), None)
    return f"<{kind}>" if vocabulary is None else _VOCABULARIES[vocabulary] + kind.removeprefix(vocabulary)


def _take_relations(contents: Contents, said: pl.DataFrame) -> pl.DataFrame:
    """Name the relations; returns what is said of entities.

    A property is often an entity besides, since something declares it (`a owl:ObjectProperty`, a domain, an inverse).
    """
    relations, attributes = contents.relation_names(), said["relation"].unique()
    resources = pl.concat([frame[c] for frame in contents.splits.values() for c in ("head", "tail")]).unique()
    subjects = said["head"]
    is_entity = subjects.cast(pl.Enum(resources), strict=False).is_not_null()
    is_relation = subjects.is_in(relations.implode())
    names = said.filter(is_relation & (said["what"] == "name") & (said["line"] != ""))
    if len(names):
        labels = names.sort("rank", maintain_order=True).unique("head", keep="first").sort("head")
        contents.relations = labels.select(pl.col("head").alias("relation"), pl.col("line").alias("name"))
    properties = (is_relation | subjects.is_in(attributes.implode())) & ~is_entity
    lost = int((properties & ~(is_relation & (said["what"] == "name")) & (said["what"] != "nothing")).sum())
    if lost:
        contents.notes.append(f"{lost:,} literals about properties, which are no entities, were left out")
    return said.filter(~properties)
