"""WordNet: the files `data.noun`, `data.verb`, `data.adj`, `data.adv` of its database."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from mmrns.data.tables import read_lines
from mmrns.errors import DataError
from mmrns.prepare.formats.base import Layout
from mmrns.prepare.formats.contents import TRIPLE, Contents

FILES = {"data.noun": "n", "data.verb": "v", "data.adj": "a", "data.adv": "r"}
"""The files by part of speech, as the first letter of an entity says it."""

DIRECTED = {
    "hypernym": ("@", "~"),
    "instance_hypernym": ("@i", "~i"),
    "member_meronym": ("%m", "#m"),
    "part_meronym": ("%p", "#p"),
    "substance_meronym": ("%s", "#s"),
    "topic_domain": (";c", "-c"),
    "region_domain": (";r", "-r"),
    "usage_domain": (";u", "-u"),
    "entailment": ("*", ""),
    "cause": (">", ""),
    "participle": ("<", ""),
    "pertainym": ("\\", ""),
}
"""Relations with a direction: the pointer from head to tail, and its inverse, from tail to head, where it has one."""

SYMMETRIC = {
    "antonym": "!",
    "similar_to": "&",
    "verb_group": "$",
    "derivationally_related": "+",
    "also_see": "^",
    "attribute": "=",
}
"""Relations that are their own inverse. The head is the entity that comes first: by part of speech, then offset."""

ADVERBS = "derived_from_adjective"
"""What `pertainym` is called where the head is an adverb, as WordNet's manual does."""

_FORWARD = {symbol: name for name, (symbol, _) in DIRECTED.items()}
_BACKWARD = {symbol: name for name, (_, symbol) in DIRECTED.items() if symbol}
_EITHER = {symbol: name for name, symbol in SYMMETRIC.items()}
_REMEDY = "fetch the file again"


class WordNet(Layout, name="wordnet"):
    """The database files of WordNet (Miller, "WordNet: A Lexical Database for English", 1995; format: wndb(5WN))."""

    title = "data.noun, data.verb, data.adj, data.adv of WordNet"
    takes = "folder"

    def recognises(self, path: Path) -> bool:
        return path.is_dir() and all((path / name).is_file() for name in FILES)

    def read(self, source: Path) -> Contents:
        """Synsets are the entities, pointers between them the triples.

        An entity is called by its part of speech and offset, as in `n00001740`; satellite adjectives are adjectives
        (`a`). Its name is its words with commas between; its description the gloss, of which definition and examples
        are sentences: examples without their quotes, with a capital letter and a full stop. Pointers of words are
        taken for pointers of their synsets, and one of a synset to itself is left out.

        Each pointer becomes the triple of `DIRECTED` or `SYMMETRIC`, so that of a pair of inverse pointers there is one
        triple. Synsets without a pointer to another one are left out, and noted.

        Args:
            source: the folder, called `dict` in WordNet's own archives.

        Raises:
            DataError: a file is missing; a line is no synset, has a pointer of an unknown kind, or to a synset that
                none of the files has.
        """
        synsets = pl.concat([_read_synsets(source / name, letter) for name, letter in FILES.items()])
        triples = _triples(_pointers(synsets, source))
        connected = pl.concat([triples["head"], triples["tail"].alias("head")]).unique()
        alone = len(synsets) - len(connected)
        notes = [f"synsets without a pointer to another one, left out: {alone:,}"] if alone else []
        entities = synsets.filter(pl.col("entity").is_in(connected.implode())).select(
            "entity", pl.col("words").list.join(", ").alias("name"), _sentences(pl.col("gloss")).alias("description")
        )
        return Contents(source, {"train": triples}, entities=entities, licence=_licence(source), notes=notes)


def _read_synsets(path: Path, letter: str) -> pl.DataFrame:
    """The synsets of a file: entity, words, gloss, pointers (symbol, offset, part of speech, words; flat), file, line.

    A line is `offset lexicographer-file type n word id ... p symbol offset part-of-speech words ... | gloss`, where n,
    in two hexadecimal digits, counts the words and p, in three decimal ones, the pointers. Verbs have frames after
    them. Lines of the licence, at the top, begin with two blanks.
    """
    if not path.is_file():
        raise DataError(path, "is missing", f"WordNet's database is {', '.join(FILES)}")
    lines = read_lines(path).to_frame("line").with_row_index("number", 1)
    lines = lines.filter(~pl.col("line").str.starts_with("  "))
    parts = pl.col("line").str.split_exact(" | ", 1)
    split = lines.select(
        "number", parts.struct[0].str.split(" ").alias("fields"), parts.struct[1].str.strip_chars().alias("gloss")
    )
    n_words = pl.col("fields").list.get(3, null_on_oob=True).str.to_integer(base=16, strict=False)
    found = split.with_columns((4 + 2 * n_words).alias("place"))
    n_pointers = pl.col("fields").list.get(pl.col("place"), null_on_oob=True).str.to_integer(strict=False)
    pointers = pl.col("fields").list.slice(pl.col("place") + 1, 4 * pl.col("n"))
    found = found.with_columns(n_pointers.alias("n")).with_columns(pointers.alias("pointers"))
    words = pl.col("fields").list.slice(4, 2 * n_words).list.gather_every(2)
    unfit = found.select(
        (
            ~pl.col("fields").list.first().str.contains(r"^\d{8}$")
            | (pl.col("pointers").list.len() != 4 * pl.col("n"))
            | pl.col("gloss").is_null()
        ).fill_null(True)
    )
    bad = unfit.to_series().arg_true()
    if len(bad):
        raise DataError(path, "is no line of a synset", _REMEDY, found["number"][int(bad[0])])
    return found.select(
        pl.concat_str(pl.lit(letter), pl.col("fields").list.first()).alias("entity"),
        # An adjective's word may have its place in brackets: `galore(ip)`.
        words.list.eval(pl.element().str.replace(r"\([a-z]+\)$", "").str.replace_all("_", " ")).alias("words"),
        "gloss",
        "pointers",
        pl.lit(path.name).alias("file"),
        "number",
    )


def _pointers(synsets: pl.DataFrame, source: Path) -> pl.DataFrame:
    """All pointers, one a row: head, symbol, tail.

    Raises:
        DataError: an unknown symbol, or a synset that is not there.
    """
    pointed = synsets.filter(pl.col("pointers").list.len() > 0)
    every = (
        pointed.select(
            pl.col("entity").alias("head"),
            pl.col("pointers").list.gather_every(4).alias("symbol"),
            pl.col("pointers").list.gather_every(4, 1).alias("offset"),
            pl.col("pointers").list.gather_every(4, 2).alias("letter"),
            "file",
            "number",
        )
        .explode("symbol", "offset", "letter")
        .with_columns(pl.concat_str(pl.col("letter").replace("s", "a"), "offset").alias("tail"))
    )
    known = [*_FORWARD, *_BACKWARD, *_EITHER]
    bad = every.filter(~pl.col("symbol").is_in(known) | ~pl.col("tail").is_in(synsets["entity"].implode()))
    if len(bad):
        first = bad.row(0, named=True)
        message = f"points to {first['tail']}, which no file has"
        if first["symbol"] not in known:
            message = f"the pointer {first['symbol']!r} is none of WordNet's"
        raise DataError(source / first["file"], message, _REMEDY, first["number"])
    return every.select("head", "symbol", "tail")


def _triples(pointers: pl.DataFrame) -> pl.DataFrame:
    """The distinct triples that pointers say, sorted."""
    symbol, head, tail = (pl.col(column) for column in ("symbol", "head", "tail"))
    turned = symbol.is_in(list(_BACKWARD)) | (symbol.is_in(list(_EITHER)) & (tail < head))
    relation = symbol.replace_strict(_FORWARD | _BACKWARD | _EITHER)
    adverb = (relation == "pertainym") & head.str.starts_with("r")
    return (
        pointers.filter(head != tail)
        .select(
            pl.when(turned).then(tail).otherwise(head).alias("head"),
            pl.when(adverb).then(pl.lit(ADVERBS)).otherwise(relation).alias("relation"),
            pl.when(turned).then(head).otherwise(tail).alias("tail"),
        )
        .unique()
        .sort(TRIPLE)
    )


def _sentences(gloss: pl.Expr) -> pl.Expr:
    """A gloss as sentences: `a number; "he has a number"` as `A number. He has a number.`"""
    parts = gloss.str.replace_all(r';\s*"', '\n"').str.split("\n")
    part = pl.element().str.strip_chars(" ;").str.replace(r'^"([^"]*)"$', "$1")
    first = part.str.starts_with('"').cast(pl.Int64) + 1  # What is not one quotation keeps its quotes.
    capital = pl.concat_str(part.str.slice(0, first).str.to_uppercase(), part.str.slice(first))
    ended = pl.when(part.str.contains(r'[.!?]"?$')).then(capital).otherwise(pl.concat_str(capital, pl.lit(".")))
    return parts.list.eval(ended.filter(part != "")).list.join(" ")


def _licence(source: Path) -> str:
    """The licence at the top of a file, without the numbers of its lines."""
    lines = read_lines(source / next(iter(FILES)))
    licence = lines.filter(lines.str.starts_with("  ")).str.replace(r"^\s+\d+ ?", "").str.strip_chars_end()
    return "\n".join(licence) + "\n"
