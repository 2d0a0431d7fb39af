"""Names as terms of RDF: IRIs and blank nodes as they stand, other names as IRIs that say them percent-encoded."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

import polars as pl

BASE = "file:///"
"""What relative IRIs are resolved against; taken off again."""

NAME = "urn:mmrns:"
"""Before a name that is no IRI, percent-encoded."""

MARK = b"# mmrns graph "
"""Begins the first line of the files that we write as N-Triples of a graph with blank nodes; then what graph it is."""

_CHAR = r"(?:[A-Za-z0-9\-._~:@!$&'()*+,;=]|%[0-9A-Fa-f]{2}|[\x{A0}-\x{D7FF}\x{F900}-\x{FDCF}\x{FDF0}-\x{FFEF}])"
_IRI = (
    rf"^[A-Za-z][A-Za-z0-9+.\-]*:(?://[A-Za-z0-9.\-]+(?::[0-9]{{1,5}})?(?:/{_CHAR}*)*|/?{_CHAR}+(?:/{_CHAR}*)*)"
    rf"(?:\?(?:{_CHAR}|[/?])*)?(?:#(?:{_CHAR}|[/?])*)?$"
)
_BLANK = r"^_:[A-Za-z0-9_](?:[A-Za-z0-9_\-.]*[A-Za-z0-9_\-])?$"


class Terms:
    """Names as N-Triples terms: found once for each name, then looked up.

    Args:
        names: distinct names.
    """

    def __init__(self, names: pl.Series):
        iri = names.str.contains(_IRI) & ~names.str.starts_with(NAME) & ~names.str.starts_with(BASE)
        blank = names.str.contains(_BLANK)
        self._blank = names.filter(blank)
        coded = pl.Series([f"<{NAME}{quote(name, safe='')}>" for name in names.filter(~iri)], dtype=pl.String)
        as_iri = pl.Series("term", [""] * len(names), dtype=pl.String)
        as_iri = as_iri.scatter((~iri).arg_true(), coded)
        self._names, self._codes = names, pl.Enum(names)
        self._property = names.to_frame("n").select(
            pl.when(iri).then(pl.format("<{}>", "n")).otherwise(as_iri).alias("term")
        )["term"]
        self._resource = names.to_frame("n").select(pl.when(blank).then("n").otherwise(self._property).alias("term"))[
            "term"
        ]

    def mark(self) -> list[str]:
        """The first line of each file; none if no name is a blank node's."""
        if self._blank.is_empty():
            return []
        return [MARK.decode() + hashlib.blake2b("\n".join(self._names).encode(), digest_size=8).hexdigest()]

    def resource(self, column: str) -> pl.Expr:
        """The terms of a column of names, as subjects and objects."""
        return self._look_up(column, self._resource)

    def property(self, column: str) -> pl.Expr:
        """The terms of a column of names, as predicates, which blank nodes cannot be."""
        return self._look_up(column, self._property)

    def statement(self) -> pl.Expr:
        """The line of a triple, from the columns head, relation, tail."""
        return pl.format("{} {} {} .", self.resource("head"), self.property("relation"), self.resource("tail"))

    def _look_up(self, column: str, terms: pl.Series) -> pl.Expr:
        return pl.lit(terms).gather(pl.col(column).cast(self._codes).to_physical())
