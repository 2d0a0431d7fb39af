"""`KnowledgeGraph`: the names of entities and relations, and the triples of the three splits as ids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmrns.data.index import DomainRangeIndex, TripleIndex
from mmrns.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class KnowledgeGraph:
    """Entities, relations and the three splits.

    Attributes:
        entities, relations: vocabularies.
        train, valid, test: Int[n 3] (h, r, t).
    """

    entities: Vocabulary
    relations: Vocabulary
    train: Int[Tensor, "train 3"]
    valid: Int[Tensor, "valid 3"]
    test: Int[Tensor, "test 3"]

    def __repr__(self) -> str:
        splits = ", ".join(f"{name} {len(getattr(self, name)):,}" for name in ("train", "valid", "test"))
        return f"KnowledgeGraph({len(self.entities):,} entities, {len(self.relations):,} relations, {splits})"

    @classmethod
    def from_names(
        cls, train: pl.DataFrame, valid: pl.DataFrame, test: pl.DataFrame, entities: pl.Series | None = None
    ) -> KnowledgeGraph:
        """The graph of frames with the columns head, relation, tail, strings or categories.

        `entities` adds names that no triple mentions.
        """
        every = pl.concat([train, valid, test])
        extra = [] if entities is None else [entities.cast(every["head"].dtype).alias("head")]
        names, entity = Vocabulary.numbered(pl.concat([every["head"], every["tail"].alias("head"), *extra]))
        relations, relation = Vocabulary.numbered(every["relation"])

        def encode(frame: pl.DataFrame) -> Int[Tensor, "n 3"]:
            found = torch.empty(len(frame), 3, dtype=torch.int64)
            for place, (column, ids) in enumerate((("head", entity), ("relation", relation), ("tail", entity))):
                found[:, place] = ids(frame[column])  # One after the other: a copy of one column at a time.
            return found

        return cls(names, relations, encode(train), encode(valid), encode(test))

    def _index(self, triples: Int[Tensor, "n 3"]) -> TripleIndex:
        return TripleIndex(triples, len(self.entities), len(self.relations))

    def within(self, entities: Vocabulary, relations: Vocabulary) -> KnowledgeGraph:
        """The same triples in the ids of other vocabularies; a triple with a name that they lack is left out."""
        entity, relation = entities.find(self.entities.names), relations.find(self.relations.names)

        def translated(triples: Int[Tensor, "n 3"]) -> Int[Tensor, "m 3"]:
            h, r, t = triples.unbind(1)
            found = torch.stack([entity[h], relation[r], entity[t]], dim=1)
            return found[(found >= 0).all(1)]

        return KnowledgeGraph(entities, relations, *map(translated, (self.train, self.valid, self.test)))

    @cached_property
    def train_index(self) -> TripleIndex:
        """The triples of train: the only index that samplers, masks and contrastive terms may read."""
        return self._index(self.train)

    @cached_property
    def domain_range(self) -> DomainRangeIndex:
        """The domain and the range of each relation: the entities that occur in train as its heads and tails."""
        return DomainRangeIndex(self.train, len(self.entities))

    @cached_property
    def valid_index(self) -> TripleIndex:
        """The triples of valid: hardness logs count with it how many negatives are true there."""
        return self._index(self.valid)

    @cached_property
    def known_index(self) -> TripleIndex:
        """The triples of all splits: only ranking and prediction may read it."""
        return self._index(torch.cat([self.train, self.valid, self.test]))

    @cached_property
    def seen_entities(self) -> Bool[Tensor, " E"]:
        """True for entities that occur in train."""
        seen = torch.zeros(len(self.entities), dtype=torch.bool)
        seen[self.train[:, [0, 2]].flatten()] = True
        return seen

    @cached_property
    def seen_relations(self) -> Bool[Tensor, " R"]:
        """True for relations that occur in train."""
        seen = torch.zeros(len(self.relations), dtype=torch.bool)
        seen[self.train[:, 1]] = True
        return seen

    def seen_triples(self, triples: Int[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """True for triples whose head, relation and tail all occur in train, each in some triple."""
        h, r, t = triples.unbind(1)
        return self.seen_entities[h] & self.seen_relations[r] & self.seen_entities[t]

    @cached_property
    def reflexive_relations(self) -> Bool[Tensor, " R"]:
        """True for relations that some triple of any split has between an entity and itself."""
        h, r, t = torch.cat([self.train, self.valid, self.test]).unbind(1)
        reflexive = torch.zeros(len(self.relations), dtype=torch.bool)
        reflexive[r[h == t]] = True
        return reflexive

    @cached_property
    def relation_sizes(self) -> tuple[Int[Tensor, " R"], Int[Tensor, " R"], Int[Tensor, " R"]]:
        """How many distinct triples, heads and tails each relation has in train."""
        h, r, t = torch.unique(self.train, dim=0).unbind(1)
        n = len(self.relations)

        def distinct(entity: Int[Tensor, " n"]) -> Int[Tensor, " R"]:
            return torch.bincount(torch.unique(entity * n + r) % n, minlength=n)

        return torch.bincount(r, minlength=n), distinct(h), distinct(t)

    @cached_property
    def head_probability(self) -> Float[Tensor, " R"]:
        """For each relation the probability tph / (tph + hpt) of replacing the head; 0.5 for one that train lacks.

        tph is the mean number of distinct tails of a head in train, hpt that of heads of a tail (Wang et al.,
        "Knowledge Graph Embedding by Translating on Hyperplanes", 2014).
        """
        _, heads, tails = self.relation_sizes
        # tph = triples / heads and hpt = triples / tails, so tph / (tph + hpt) = tails / (heads + tails).
        return torch.where(heads > 0, tails / (heads + tails).clamp(min=1), 0.5).to(torch.float32)

    def leaked_valid(self) -> Bool[Tensor, " n"]:
        """True for rows of valid that are also rows of train or test."""
        return self._index(torch.cat([self.train, self.test])).contains(*self.valid.unbind(1))

    def without_leaked_valid(self) -> KnowledgeGraph:
        """The same graph with the leaked rows of valid left out."""
        return replace(self, valid=self.valid[~self.leaked_valid()])
