"""How alike entities are as a relation sees them, by modality, in the arithmetic of the authors' code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmrns.data.features import Modality
from mmrns.nn.lookup import Lookup
from mmrns.nn.model import Model, ModelSpec
from mmrns.samplers.explanation import NO_MODALITY, AttentionMap, Evidence
from mmrns.samplers.mmrns.attention import EntityGate, KnowledgeGuidedAttention, Tokens
from mmrns.samplers.mmrns.grouped import grouped_cosines, in_parts
from mmrns.types import Batch, Views


class PublishedSimilarity(nn.Module):
    """Cosines of entities as a relation sees them:

        sim_m(r, x, e) = <y_m(r, x), y_m(r, e)> / stopgrad(||y_m(r, x)|| ||y_m(r, e)||)

    y_m(r, e) represents e in modality m under the relation (`KnowledgeGuidedAttention`); for the term `structure` it is
    the entity's own vector through the `EntityGate`. As in the authors' code gradients reach the model's vectors,
    missing tokens are zero vectors that take part, and the first modality's attention term of the true entity has no
    LayerNorm.

    Args:
        modalities: one or two, by name; with none the structure alone is compared.
        spec: widths of the model's vectors.
        width: a, width of the attention.
        gate_width: hidden units of the entity gate.
        memory_mb: bound on what the similarities of a step hold beside their own values, in MiB; beyond it they are
            computed in chunks, and again in the backward pass.
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        spec: ModelSpec,
        *,
        width: int,
        gate_width: int,
        memory_mb: int,
    ):
        super().__init__()
        self.modalities, self.memory_mb = dict(modalities), memory_mb
        self.attention: KnowledgeGuidedAttention | None = None
        if modalities:
            tokens = tuple(m.tokens for m in modalities.values())
            widths = tuple(m.width for m in modalities.values())
            self.attention = KnowledgeGuidedAttention(tokens, widths, spec.relation_width, width)
        self.gate = EntityGate(spec.entity_width, spec.relation_width, gate_width)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.xavier_normal_(parameter)

    @property
    def terms(self) -> list[str]:
        """Names of what is compared."""
        return [*self.modalities, "structure"]

    def relations(self, batch: Batch, model: Model) -> Float[Tensor, "R relation_width"]:
        """Vectors of the batch's distinct relations."""
        return model.relations(batch.relations)

    def forward(
        self,
        lookup: Lookup,
        pool: Int[Tensor, " P"],
        candidates: Float[Tensor, "P width"],
        model: Model,
        *,
        direct: bool = False,
    ) -> Float[Tensor, "T B P"]:
        """Similarity of each row's true entity to every entity of a pool, by term.

        Where everything at once would take more than `memory_mb`, the pool is taken in chunks, and where a single
        entity does, the relations too; each is computed again in the backward pass.

        Args:
            lookup: the rows.
            pool: the entities.
            candidates: their structural vectors.
            model: of the relations' vectors.
            direct: do not fold the attention; the oracle of the folded form.
        """
        batch, own = lookup.batch, structure(lookup.target)
        relations = self.relations(batch, model)
        if self._reals(len(batch), len(pool), len(relations)) > self._limit:
            return self._in_chunks(batch, own, pool, candidates, relations, direct)
        gates = self._gates(relations)
        tokens = [t.split((len(batch), len(pool))) for t in self.tokens(torch.cat([batch.target, pool]))]
        of_rows = [gate.index_select(0, batch.relation_index) for gate in gates]
        rows = *self.paired(of_rows, [t[0] for t in tokens]), own
        given = relations, gates, batch.relation_index, batch.relation_counts
        return self._cosines(rows, [t[1] for t in tokens], candidates, *given, direct)

    def _cosines(
        self,
        rows: Sequence[Float[Tensor, "B _"]],
        tokens: list[Tokens],
        candidates: Float[Tensor, "P width"],
        relations: Float[Tensor, "R relation_width"],
        gates: list[Float[Tensor, "R _ _"]],
        index: Int[Tensor, " B"],
        counts: tuple[int, ...],
        direct: bool,
    ) -> Float[Tensor, "T B P"]:
        """Of the true entities, y of each attention term and the structural vector, with candidates."""
        *ys, own = rows
        by = in_parts(index, counts, self._relations_at_once(candidates, max(counts)))
        of_candidates: list[Tensor] = []
        if self.attention is not None:
            terms = self.attention.terms(tokens, n_relations=0 if direct else len(relations))
            of_candidates = self.attention.outer(gates, terms)
        return grouped_cosines(ys, of_candidates, self.gate.gated(own, relations, candidates), by)

    def _in_chunks(
        self,
        batch: Batch,
        own: Float[Tensor, "B width"],
        pool: Int[Tensor, " P"],
        candidates: Float[Tensor, "P width"],
        relations: Float[Tensor, "R relation_width"],
        direct: bool,
    ) -> Float[Tensor, "T B P"]:
        """The same in chunks of the pool, and of the relations where need be."""

        def read(relations: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.paired(self._gates(relations), self.tokens(ids)))

        def compared(
            ids: Tensor, candidates: Tensor, relations: Tensor, index: Tensor, counts: tuple[int, ...], *rows: Tensor
        ) -> Tensor:
            given = relations, self._gates(relations), index, counts
            return self._cosines(rows, self.tokens(ids), candidates, *given, direct)

        index, order = batch.relation_index.sort(stable=True)
        of_rows = relations.index_select(0, batch.relation_index), batch.target
        rows = *in_chunks(read, self._limit // sum(self._reals_of_pool(1)), *of_rows), own
        in_order = [x.index_select(0, order) for x in rows]
        per_entity, per_pair = self._reals_of_pool(len(relations))
        size = max(1, self._limit // (per_entity + per_pair * len(relations)))
        step = len(relations) if size > 1 else max(1, (self._limit - per_entity) // per_pair)
        columns: list[Tensor] = []
        for part in zip(pool.split(size), candidates.split(size), strict=True):
            found: list[Tensor] = []
            start = 0
            for first in range(0, len(relations), step):
                counts = batch.relation_counts[first : first + step]
                these = slice(start, start := start + sum(counts))
                given = relations[first : first + step], index[these] - first, counts, *(x[these] for x in in_order)
                found.append(checkpoint(compared, *part, *given, use_reentrant=False, preserve_rng_state=False))
            columns.append(torch.cat(found, dim=1))
        return torch.cat(columns, dim=2).index_select(1, torch.argsort(order))

    @torch.no_grad()
    def evidence(self, batch: Batch, ids: Int[Tensor, " n"], model: Model) -> Evidence:
        """Similarities of the true entities with some entities, and how their tokens are read."""
        found = self(model.lookup(batch), ids, structure(model.entities(ids)), model)
        maps = self.maps(self.relations(batch, model)[batch.relation_index], batch.target)
        return Evidence(dict(zip(self.terms, found, strict=True)), {}, maps, "" if maps else NO_MODALITY)

    def maps(
        self, relations: Float[Tensor, "n relation_width"], entities: Int[Tensor, " n"]
    ) -> tuple[AttentionMap, ...]:
        """How each entity's tokens are read under its own relation, one map a modality; none without an attention."""
        if self.attention is None:
            return ()
        return self.attention.maps(relations, self.tokens(entities), list(self.modalities))

    def notes(self, batch: Batch, n_candidates: int) -> list[str]:
        """What the similarities of a batch like this one hold, in words."""
        n = len(batch.relations)
        held = self._reals(len(batch), n_candidates, n) / 2**18
        found = f"The similarities of a step hold about {held:,.0f} MiB ({n} relations, {n_candidates:,} candidates)"
        if held > self.memory_mb:
            found += f", more than sampler.memory_mb={self.memory_mb}, so that they are computed in chunks, twice"
        return [found + "."]

    @property
    def _limit(self) -> int:
        """`memory_mb` in reals."""
        return int(self.memory_mb * 2**18)

    def _reals(self, represented: int, pool: int, n_relations: int) -> int:
        per_entity, per_pair = self._reals_of_pool(n_relations)
        return represented * sum(self._reals_of_pool(1)) + pool * (per_entity + per_pair * n_relations)

    def _reals_of_pool(self, n_relations: int) -> tuple[int, int]:
        """Reals that are held for each entity of a pool, and for each under a relation."""
        gate = 4 * (self.gate.hidden.out_features + self.gate.entity_width)
        # Of a pair the gate itself is kept for the backward pass.
        per_pair = 1 + self.gate.entity_width
        if self.attention is None:
            return gate, per_pair
        of_attention = self.attention.reals_per_entity(n_relations), self.attention.reals_per_pair(n_relations)
        return gate + of_attention[0], per_pair + of_attention[1]

    def _relations_at_once(self, candidates: Float[Tensor, "n width"], rows: int) -> int:
        """How many relations' cosines are taken together: one on a processor, whose cache holds its candidates.

        Args:
            candidates: that they have in common.
            rows: the most that a relation has.
        """
        if candidates.device.type == "cpu":
            return 1
        reals = 2 * self.gate.hidden.out_features + 5 * self.gate.entity_width + 3 * rows * len(self.terms)
        return max(1, self._limit // (reals * len(candidates)))

    def tokens(self, ids: Int[Tensor, " n"]) -> list[Tokens]:
        """The entities' projected tokens, by modality; those that are missing are made of zeros."""
        if self.attention is None:
            return []
        raw = enumerate(modality.gather(ids)[0] for modality in self.modalities.values())
        return [self.attention.encode(m, values, None) for m, values in raw]

    def paired(self, gates: list[Float[Tensor, "n _ _"]], tokens: list[Tokens]) -> list[Float[Tensor, "n a"]]:
        """Y of each entity under its own relation, by modality."""
        return [] if self.attention is None else self.attention.paired(gates, tokens, omit_first_norm=True)

    def _gates(self, relations: Float[Tensor, "R relation_width"]) -> list[Float[Tensor, "R _ _"]]:
        return [] if self.attention is None else self.attention.gates(relations)


def structure(entities: Views) -> Float[Tensor, "n width"]:
    """The entities' own vectors."""
    return entities.vectors[:, 0]


def in_chunks(function: Callable[..., tuple[Tensor, ...]], size: int, *rows: Tensor) -> tuple[Tensor, ...]:
    """A function of rows, of so many at a time (one at least), each chunk computed again in the backward pass."""
    if size >= len(rows[0]):
        return function(*rows)
    chunks = zip(*(part.split(max(1, size)) for part in rows), strict=True)
    found = [checkpoint(function, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))
