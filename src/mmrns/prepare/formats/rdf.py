"""RDF: N-Triples, Turtle, RDF/XML, N-Quads and TriG, also gzipped. Needs the extra `rdf`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from mmrns.data.terms import Terms
from mmrns.errors import DataError
from mmrns.prepare.formats.base import Layout
from mmrns.prepare.formats.contents import (
    SPLIT_NAMES,
    TABLE_COLUMNS,
    TRIPLE,
    Contents,
    fit_names,
    text_splits,
    write_lines,
)
from mmrns.prepare.formats.literals import DESCRIPTIONS, IMAGES, NAMES, TEXT, XSD, is_picture, take_literals
from mmrns.prepare.formats.statements import (
    FORMATS,
    Statements,
    decoded,
    keep_apart,
    rdf_files,
    read_statements,
    suffix_format,
)


class Rdf(Layout, name="rdf"):
    """Files of RDF in any of its usual notations."""

    title = "N-Triples, Turtle, RDF/XML, N-Quads, TriG"
    aliases = ("nt", "turtle", "ttl", "rdfxml")

    def files(self, folder: Path) -> set[Path]:
        return set(rdf_files(folder))

    def recognises(self, path: Path) -> bool:
        if not path.is_dir():
            return suffix_format(path) is not None
        return any(suffix_format(file) for file in rdf_files(path)) and not text_splits(path)

    def read(
        self,
        source: Path,
        *,
        language: str = "en",
        skip_malformed: bool = False,
        advance: Callable[[int], None] | None = None,
    ) -> Contents:
        """Statements between resources become triples; literals become names, descriptions, texts and numbers.

        A folder's `train.nt`, `valid.nt`, `test.nt` (or another suffix) are its splits, and its other files then give
        literals only; without them, every file is train. Files are known by their suffix, text files (`train.txt`) by
        their content. Names are IRIs as they stand; blank nodes are `_:label`, those without a label `_:b0` and so on
        in the order of the file, and with several files `_:FILE.label`, see `keep_apart`.
        Of a literal's property: rdfs:label and its like become the name, rdfs:comment and its like the description,
        foaf:depiction and its like, or any value that ends like a picture, the image (but in files named after the
        splits, where every statement between resources is a triple); what other literals become, their datatype says,
        see `take_literals`. Where a name or description comes in several languages, `language` is taken, else the one
        without a language, else the first.

        Args:
            source: a file or folder.
            language: of names and texts.
            skip_malformed: leave malformed statements of N-Triples and N-Quads out, and count them.
            advance: told how many statements are done, now and then.

        Raises:
            DataError: a malformed or truncated file, by line; no statement between two resources.
            UsageError: the extra `rdf` is not installed.
        """
        paths = rdf_files(source)
        if not paths:
            raise DataError(source, "holds no RDF file", f"name them {', '.join(FORMATS)}, with .gz or without")
        named = {path: SPLIT_NAMES.get(path.name.split(".")[0]) for path in paths if source.is_dir()}
        whole = "train" not in named.values()
        splits = {path: (named.get(path) or "train") if whole else named[path] for path in paths}
        files = [read_statements(path, advance or _untold, skip_malformed=skip_malformed) for path in paths]
        contents = Contents(source, {}, notes=keep_apart(files, [path for path, split in named.items() if split]))
        triples: dict[str, list[pl.DataFrame]] = {}
        literals: list[pl.DataFrame] = []
        beside = 0
        for file in files:
            _say_left_out(file, contents)
            frame, split = decoded(file.frame), splits[file.path]
            about = pl.col("literal") | (is_picture() & (named.get(file.path) is None))
            literals.append(frame.filter(about))
            between = frame.filter(~about).select(TRIPLE)
            if split is None:
                beside += len(between)
            else:
                triples.setdefault(split, []).append(fit_names(between, file.path, 1, contents.notes))
        if not any(len(frame) for frame in triples.get("train", [])):
            raise DataError(
                source, "no statement between two resources", "check the file; literals alone make no graph"
            )
        if beside:
            contents.notes.append(f"{beside:,} statements outside the files of the splits were left out")
        contents.splits = {split: pl.concat(triples[split]) for split in ("train", "valid", "test") if split in triples}
        take_literals(contents, pl.concat(literals), language)
        return contents


def _untold(n: int) -> None:
    """Do nothing: nobody wants to know."""


def _say_left_out(file: Statements, contents: Contents) -> None:
    if file.n_malformed:
        first = ", ".join(f"{file.path}:{line} ({reason})" for line, reason in file.malformed)
        contents.notes.append(f"{file.n_malformed:,} malformed statements were left out, first: {first}")
        contents.malformed += file.n_malformed
    if file.quoted:
        contents.notes.append(f"{file.path.name}: {file.quoted:,} statements about statements were left out")


class NTriples(Rdf, name="ntriples"):
    """N-Triples, as we write them; they are read like any other RDF."""

    title = "train.nt, valid.nt, test.nt, entities.nt"
    aliases = ("nt",)

    def write(self, contents: Contents, folder: Path) -> None:
        """`train.nt`, `valid.nt`, `test.nt`, and `entities.nt` with names, descriptions, pictures, texts and numbers.

        Names that are IRIs or blank nodes are written as such, others percent-encoded after `urn:mmrns:`, which
        reading undoes. With blank nodes a comment in the first line of each file says what graph it is a part of, so
        that equal labels in several files are read as one blank node.
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
        terms = Terms(pl.concat([names, *(column.alias("entity") for column in more)]).unique().sort())
        mark = pl.DataFrame({"line": terms.mark()}, schema={"line": pl.String})
        for split, frame in contents.splits.items():
            lines = frame.select(terms.statement().alias("line"))
            write_lines(pl.concat([mark, lines]), folder / f"{split}.nt", header=False)
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

        for name, needed in TABLE_COLUMNS.items():
            table: pl.DataFrame | None = getattr(contents, name)
            if table is not None and not set(needed) <= set(table.columns):
                lacking = next(column for column in needed if column not in table.columns)
                message, remedy = f"has no column `{lacking}`", f"name its columns {', '.join(needed)}"
                raise DataError(contents.source / f"{name}.tsv", message, remedy, 1)
        for column, predicate in (("name", NAMES[0]), ("description", DESCRIPTIONS[0]), ("image", IMAGES[0])):
            say(contents.entities, "entity", pl.lit(f"<{predicate}>"), column)
        say(contents.texts, "entity", pl.lit(f"<{TEXT}>"), "text")
        say(contents.numbers, "entity", terms.property("attribute"), "value", f"^^<{XSD}double>")
        say(contents.relations, "relation", pl.lit(f"<{NAMES[0]}>"), "name")
        lines = [frame for frame in statements if len(frame)]
        if lines:
            write_lines(pl.concat([mark, *lines]), folder / "entities.nt", header=False)


def _escaped(column: str) -> pl.Expr:
    value = pl.col(column).fill_null("").cast(pl.String)
    for character, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r")):
        value = value.str.replace_all(character, escape, literal=True)
    return value
