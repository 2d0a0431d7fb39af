"""Search of entities by what they are called and described as, in a few milliseconds among a hundred thousand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from mmrns.data.names import names_of_ids
from mmrns.errors import close_names
from mmrns.runs.names import Names

COMPARED = 100
"""Names that share the most groups of letters with a misspelt one, which are compared with it letter by letter."""
WAYS = ("exact", "begins", "word begins", "contains", "description", "alike")
"""How a text can be found, the closest first."""


@dataclass(frozen=True)
class Hit:
    """An entity that was found: its id, and how."""

    entity: int
    way: str


def folded(texts: pl.Expr) -> pl.Expr:
    """Texts as they are compared: without case, accents and repeated blanks, underscores as blanks.

    >>> pl.select(folded(pl.lit("São_Tomé  and PRÍNCIPE"))).item()
    'sao tome and principe'
    """
    bare = texts.str.normalize("NFKD").str.replace_all(r"\p{M}", "").str.to_lowercase()
    return bare.str.replace_all("_", " ", literal=True).str.replace_all(r"\s+", " ").str.strip_chars()


class EntitySearch:
    """The names, ids and descriptions of entities, ready to be searched.

    A name that begins with the text comes before one in which a later word does, then what only contains it, then
    descriptions; entities of more triples come first. Where that finds too few, names that look alike follow: of those
    that share the most groups of two and three letters (by the cosine of tf-idf weights) the ones with the most letters
    in common.

    Args:
        names: what entities may be called.
        descriptions: by name of the id.
        degrees: how many triples each entity has.
    """

    def __init__(self, names: Names, descriptions: Mapping[str, str], degrees: Int[Tensor, " E"]):
        ids = names.known.names
        told = [descriptions.get(name, "") for name in names.known]
        columns = {"id": ids, "name": names.labels.fill_null(names_of_ids(ids)), "description": told}
        degree = pl.Series("degree", degrees.numpy())
        described = pl.lit(" ") + folded(pl.col("description"))
        self._table = pl.DataFrame(columns).select(
            folded(pl.col("id")), folded(pl.col("name")), described.alias("description"), degree, place=pl.row_index()
        )

    def __len__(self) -> int:
        return len(self._table)

    def find(self, text: str, limit: int = 10) -> list[Hit]:
        """The entities that a text finds, the closest first; none for an empty one."""
        wanted: str = pl.select(folded(pl.lit(text))).item()
        if not wanted:
            return []
        name, entity, description = pl.col("name"), pl.col("id"), pl.col("description")
        word = f" {wanted}"
        ways = (
            (name == wanted) | (entity == wanted),
            name.str.starts_with(wanted) | entity.str.starts_with(wanted),
            name.str.contains(word, literal=True),
            name.str.contains(wanted, literal=True) | entity.str.contains(wanted, literal=True),
            description.str.contains(word, literal=True),
        )
        found = pl.coalesce(pl.when(way).then(pl.lit(i)) for i, way in enumerate(ways)).alias("way")
        best = (
            self._table.select("place", "degree", found)
            .filter(pl.col("way").is_not_null())
            .sort("way", "degree", "place", descending=[False, True, False])
            .head(limit)
        )
        hits = [Hit(place, WAYS[way]) for place, way in best.select("place", "way").iter_rows()]
        if len(hits) < limit:
            there = {hit.entity for hit in hits}
            hits += [Hit(i, "alike") for i in self.alike(wanted, limit) if i not in there]
        return hits[:limit]

    def alike(self, text: str, limit: int = 3) -> list[int]:
        """The entities whose names look most like a text, the closest first; see `close_names`."""
        wanted: str = pl.select(folded(pl.lit(text))).item()
        groups, by_group = self._groups
        shared = (groups.transform([wanted]) @ by_group).tocoo()
        # `close_names` compares letter by letter, which would take a second for every name of a large graph.
        order = torch.argsort(torch.tensor(shared.data), descending=True, stable=True)[:COMPARED]
        names = self._table["name"]
        called: dict[str, list[int]] = {}
        for i in (int(shared.col[place]) for place in order.tolist()):
            called.setdefault(names[i], []).append(i)
        return [i for name in close_names(wanted, called, limit) for i in called[name]][:limit]

    @cached_property
    def _groups(self) -> tuple[Any, Any]:
        """What turns a name into weights of its groups of letters, and those of all names: [groups E], sparse."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3), lowercase=False, sublinear_tf=True)
        weights = vectorizer.fit_transform(self._table["name"].to_list())
        return vectorizer, weights.T.tocsr()

    def warm(self) -> None:
        """Make beforehand what the first misspelt name would wait for."""
        self.alike("warm")
