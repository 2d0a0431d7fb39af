"""What can be seen of names: which ones look the same, which are a header's words, which cannot stand in a line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

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


SHARED = 3
"""What comes before the last slash is no part of a name where so many ids share it."""


def names_of_ids(ids: pl.Series) -> pl.Series:
    """A name for each entity that has none but its id: what it is called at the end of it.

    That is what follows the last `/` or `#` of a web address, or of a path that at least `SHARED` ids share, so that
    `Face/Off` stays whole; percent-decoded in a web address, with underscores as blanks.

    >>> names_of_ids(pl.Series(["http://dbpedia.org/resource/Abu_Dhabi", "Face/Off", "Q142"])).to_list()
    ['Abu Dhabi', 'Face/Off', 'Q142']

    Args:
        ids: all entities of a graph.
    """
    table = pl.DataFrame({"id": ids, "bare": ids.str.strip_chars_end("/#")}, schema_overrides={"id": pl.String})
    path, address = pl.col("bare").str.extract(r"^(.*)[/#]"), pl.col("id").str.contains(r"^[A-Za-z][\w+.-]*://")
    last = pl.col("bare").str.extract(r"([^/#]*)$")
    cut = address | (path.is_not_null() & (pl.len().over(path) >= SHARED))
    table = table.with_columns(address=address, name=pl.when(cut & (last != "")).then(last).otherwise("id"))
    escaped = table["address"] & table["name"].str.contains("%", literal=True)
    if escaped.any():
        decoded = pl.Series([unquote(name) for name in table["name"].filter(escaped)], dtype=pl.String)
        table = table.with_columns(name=table["name"].scatter(escaped.arg_true(), decoded))
    name = pl.col("name").str.strip_prefix("_:").str.replace_all("_", " ", literal=True)
    table = table.with_columns(name=visible(name))
    return table.select(pl.when(pl.col("name") != "").then("name").otherwise("id").alias("name")).to_series()


HEADER_WORDS = {
    "head": "head h subject subj sub s source src from start head_id head_entity head_name entity1 e1 "
    "entity id item node entity_id subject_id source_id 头实体 主体 主语 主词 实体 起点",
    "relation": "relation rel r predicate pred p property edge type relation_id relation_type relation_name "
    "attribute attr field key prop relationship edge_type property_id predicate_id 关系 属性 谓语 谓词 关系类型 属性名",
    "tail": "tail t object obj o target dst to end tail_id tail_entity tail_name entity2 e2 "
    "value val object_id target_id 尾实体 客体 宾语 宾词 值 属性值 终点",
}
"""Words that name the columns of triples, in a header."""

_WORDS = {column: frozenset(words.split()) for column, words in HEADER_WORDS.items()}

FEW_TRIPLES = 20
"""In fewer triples than this, a first row whose names occur nowhere else is nothing remarkable."""


def _word(cell: str) -> str:
    return re.sub(r"[ -]", "_", cell.strip().strip('"').lstrip("#? ").casefold())


def header_columns(cells: Sequence[str]) -> list[int] | None:
    """The places of head, relation and tail, where the cells of a first line are words that name them; else None.

    Of more than three cells a relation and a tail side by side are enough, with the head before them: others say of
    which `source` a triple is. Quotes, upper case, the `?` of SPARQL's variables and the `#` before a comment do not
    matter.
    """
    words = [_word(cell) for cell in cells]
    places = [next((i for i, word in enumerate(words) if word in known), None) for known in _WORDS.values()]
    head, relation, tail = places
    if relation is not None and tail is not None and 0 < relation == tail - 1 and (head is None or head > tail):
        head = relation - 1 if len(words) > 3 else head
    found = [place for place in (head, relation, tail) if place is not None]
    return found if len(set(found)) == 3 else None


@dataclass(frozen=True)
class Header:
    """A first row of triples that may be a header.

    Attributes:
        places: which of its columns are head, relation and tail.
        certain: its words name columns of triples, so that it is one.
        likely: it is one, or since its names occur nowhere else it is probably one. Otherwise it may be, but is rather
            a triple.
    """

    places: Sequence[int]
    certain: bool
    likely: bool


def find_header(triples: pl.DataFrame) -> Header | None:
    """Whether the first row of some triples is a header, such as `head, relation, tail` or `film, property, value`.

    It is none where its relation occurs again: then it is a triple, whatever its words are. Two words of a header in it
    (`HEADER_WORDS`) are enough, the third may be anything. With one such word, or none among `FEW_TRIPLES` or more, it
    is a header if none of its names occurs in another row, and no other row is like that.

    Args:
        triples: three columns of names, in any order.
    """
    first = triples.row(0) if len(triples) else ()
    if not first or not all(first):
        return None
    whole = header_columns(first)
    single = len(triples) == 1
    if whole is not None and not (single and max(map(len, first)) == 1):
        relation = triples.to_series(whole[1])
        return None if (relation[1:] == relation[0]).any() else Header(whole, True, True)
    # A letter is as likely a name in a small example.
    words = [word if len(word := _word(cell)) > 1 or not word.isascii() else "" for cell in first]
    named = [next((i for i, word in enumerate(words) if word in known), None) for known in _WORDS.values()]
    others = iter(i for i in range(3) if i not in named)
    places = [next(others) if place is None else place for place in named]
    known = sum(place is not None for place in named)
    head, relation, tail = (triples.to_series(place) for place in places)
    if (relation[1:] == relation[0]).any():
        return None
    if known >= 2:
        return Header(places, True, True)
    if single:
        return None
    entities = pl.concat([head, tail.alias(head.name)])
    if head[0] == tail[0] or any((entities == one[0]).sum() > 1 for one in (head, tail)):
        return None
    if len(triples) < (3 if known else FEW_TRIPLES):
        return Header(places, False, False) if known else None
    rare = relation.is_unique()
    alone = (
        pl.DataFrame({"h": head, "t": tail})
        .filter(rare)[1:]
        .filter(pl.all_horizontal(pl.col("h", "t").is_in(entities.filter(entities.is_unique()).implode())))
    )
    likely = alone.is_empty()
    return Header(places, False, likely) if likely or known else None


def quoted_columns(triples: pl.DataFrame) -> list[str]:
    """The columns of triples of which every field is in double quotes, which are part of the names here."""
    first = triples.row(0) if len(triples) else ()
    doubtful = [column for column, name in zip(COLUMNS, first, strict=False) if _is_quoted(name)]
    return [c for c in doubtful if triples[c].unique().cast(pl.String).str.contains(r'^"[\s\S]*"$').all()]


def _is_quoted(name: str) -> bool:
    return len(name) > 1 and name[0] == name[-1] == '"'
