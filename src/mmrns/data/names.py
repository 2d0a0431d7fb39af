"""What can be seen of names: which ones look the same, which are a header's words, which cannot stand in a line."""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

COLUMNS = ["head", "relation", "tail"]
"""The columns of triples."""

BREAKS = r"[\t\n\r]"
"""What a name cannot hold, since a line of text could not."""

INVISIBLE = r"[\p{Default_Ignorable_Code_Point}\p{Cc}\x{FFF9}-\x{FFFB}]"
"""A character that nobody sees: zero-width spaces and joiners, byte order and direction marks, soft hyphens, variation
selectors, control characters."""


def visible(names: pl.Expr) -> pl.Expr:
    """What one sees of names: without invisible characters, each run of white space as one blank, none at the ends."""
    # White space first: tabs and line ends are control characters too.
    return (
        names.str.replace_all(r"\s+", " ").str.replace_all(INVISIBLE, "").str.replace_all(" +", " ").str.strip_chars()
    )


def lookalikes(names: pl.Series) -> pl.DataFrame:
    """Distinct names that look the same, since they differ only in white space or in characters that nobody sees.

    Args:
        names: distinct names.

    Returns:
        Columns name, other: each such name, and one before it that looks the same, in the order of the names.
    """
    odd = names.str.contains(r"[^\S ]|^ | $|  ") | names.str.contains(INVISIBLE)
    if not odd.any():
        return pl.DataFrame(schema={"name": pl.String, "other": pl.String})
    table = pl.DataFrame({"name": names, "odd": odd}).with_columns(seen=pl.col("name"))
    table = table.with_columns(seen=pl.when("odd").then(visible(pl.col("name"))).otherwise("name"))
    # Only what an odd name is seen as can be seen twice.
    table = table.join(table.filter("odd").select("seen").unique(), on="seen", how="semi", maintain_order="left")
    table = table.with_columns(other=pl.col("name").first().over("seen"))
    return table.filter(pl.col("name") != pl.col("other")).select("name", "other")


HEADER_WORDS = {
    "head": "head h subject subj sub s source src from start head_id head_entity head_name entity1 e1",
    "relation": "relation rel r predicate pred p property edge type relation_id relation_type relation_name",
    "tail": "tail t object obj o target dst to end tail_id tail_entity tail_name entity2 e2",
}
"""Words that name the columns of triples, in a header."""

_WORDS = {column: frozenset(words.split()) for column, words in HEADER_WORDS.items()}


def header_columns(cells: Sequence[str]) -> list[int] | None:
    """The places of head, relation and tail, where the cells of a first line are words that name them; else None.

    Quotes, upper case, the `?` of SPARQL's variables and the `#` before a comment do not matter.
    """
    words = [re.sub(r"[ -]", "_", cell.strip().strip('"').lstrip("#? ").casefold()) for cell in cells]
    places = [next((i for i, word in enumerate(words) if word in known), None) for known in _WORDS.values()]
    found = [place for place in places if place is not None]
    return found if len(set(found)) == 3 else None


def has_header(triples: pl.DataFrame) -> bool:
    """Whether the first of some triples is a header by its words, and its relation is that of no other.

    Where the relation occurs again, head, relation and tail are names. One row of single letters is no header either.
    """
    first = triples.row(0) if len(triples) else ()
    places = header_columns(first)
    if places is None or (len(triples) == 1 and max(map(len, first)) == 1):
        return False
    relation = triples.to_series(places[1])
    return not bool((relation[1:] == relation[0]).any())


def quoted_columns(triples: pl.DataFrame) -> list[str]:
    """The columns of triples of which every field is in double quotes, which are part of the names here."""
    first = triples.row(0) if len(triples) else ()
    doubtful = [column for column, name in zip(COLUMNS, first, strict=False) if _is_quoted(name)]
    return [c for c in doubtful if triples[c].str.contains(r'^"[\s\S]*"$').all()]


def _is_quoted(name: str) -> bool:
    return len(name) > 1 and name[0] == name[-1] == '"'
