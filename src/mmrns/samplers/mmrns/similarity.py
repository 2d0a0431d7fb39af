"""How alike entities are as a relation sees them, by modality, in the arithmetic of the authors' code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmrns.data.features import Modality
from mmrns.nn.model import Model, ModelSpec
from mmrns.samplers.explanation import NO_MODALITY, AttentionMap, Evidence
from mmrns.samplers.mmrns.attention import EntityGate, KnowledgeGuidedAttention, Tokens
from mmrns.samplers.mmrns.grouped import grouped_cosine, in_parts
from mmrns.types import Batch


@dataclass(frozen=True)
class Similarity:
    """One modality's similarities between each row's true entity and the pool.

    Attributes:
        values: Float[B P].
        target: Bool[B], the true entity has the modality.
        candidate: Bool[P], the candidate has it.
    """

    values: Float[Tensor, "B P"]
    target: Bool[Tensor, " B"]
    candidate: Bool[Tensor, " P"]


@dataclass(frozen=True)
class Representation:
    """Entities as their relations see them, in one modality.

    Attributes:
        values: Float[n width], y.
        present: Bool[n], the entity has the modality.
    """

    values: Float[Tensor, "n width"]
    present: Bool[Tensor, " n"]


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

    def represent(
        self,
        relations: Float[Tensor, "n relation_width"],
        entities: Int[Tensor, " n"],
        model: Model,
        *,
        at_once: bool = True,
    ) -> list[Representation]:
        """Each entity under its own relation, in every term; in chunks, as `forward`, where not all at once."""

        def of(relations: Tensor, entities: Tensor) -> tuple[Tensor, ...]:
            found: list[Tensor] = []
            if self.attention is not None:
                tokens = self.tokens(entities)
                for y, t in zip(self.paired(relations, tokens), tokens, strict=True):
                    found += [y, t.mask.any(1)]
            found += [self.gate(relations, self.structure(entities, model)), torch.ones_like(entities).bool()]
            return tuple(found)

        size = len(entities) if at_once else self._limit // self._reals_represented
        found = in_chunks(of, size, relations, entities)
        return [Representation(*pair) for pair in zip(found[::2], found[1::2], strict=True)]

    def forward(
        self,
        batch: Batch,
        pool: Int[Tensor, " P"],
        model: Model,
        *,
        direct: bool = False,
    ) -> dict[str, Similarity]:
        """Similarity of each row's true entity to every entity of a pool, by term.

        The rows are taken relation by relation. Where everything at once would take more than `memory_mb`, the pool is
        taken in chunks, and where a single entity does, the relations too; each is computed again in the backward pass.

        Args:
            batch: the rows.
            pool: the entities.
            model: of the relation and entity vectors.
            direct: do not fold the attention; the oracle of the folded form.
        """
        at_once = self._reals(len(batch), len(pool), len(batch.relations)) <= self._limit
        order = torch.argsort(batch.relation_index, stable=True)
        relations = self.relations(batch, model)
        targets = self.represent(relations[batch.relation_index], batch.target, model, at_once=at_once)
        in_order = [target.values[order] for target in targets]
        index = batch.relation_index[order]

        def under(
            ids: Tensor, relations: Tensor, index: Tensor, counts: tuple[int, ...], *by_term: Tensor
        ) -> tuple[Tensor, Tensor]:
            by = in_parts(index, counts, self._relations_at_once(ids, max(counts)))
            found: list[Tensor] = []
            present: list[Tensor] = []
            if self.attention is not None:
                tokens = self.tokens(ids)
                terms = self.attention.terms(tokens, n_relations=0 if direct else len(relations))
                ys = self.attention.outer(relations, terms)
                found += [grouped_cosine(t, y, by) for t, y in zip(by_term, ys, strict=False)]
                present += [t.mask.any(1) for t in tokens]
            found.append(self.gate.cosine(by_term[-1], relations, self.structure(ids, model), by))
            present.append(torch.ones_like(ids, dtype=torch.bool))
            return torch.stack(found), torch.stack(present)

        if at_once:
            found, present = under(pool, relations, index, batch.relation_counts, *in_order)
        else:
            per_entity, per_pair = self._reals_of_pool(len(relations))
            size = max(1, self._limit // (per_entity + per_pair * len(relations)))
            step = len(relations) if size > 1 else max(1, (self._limit - per_entity) // per_pair)
            columns: list[Tensor] = []
            there: list[Tensor] = []
            for ids in pool.split(size):
                parts: list[tuple[Tensor, Tensor]] = []
                start = 0
                for first in range(0, len(relations), step):
                    counts = batch.relation_counts[first : first + step]
                    rows = slice(start, start := start + sum(counts))
                    of_these = (relations[first : first + step], index[rows] - first, counts)
                    given = (ids, *of_these, *(t[rows] for t in in_order))
                    parts.append(checkpoint(under, *given, use_reentrant=False, preserve_rng_state=False))
                columns.append(torch.cat([values for values, _ in parts], dim=1))
                there.append(parts[0][1])
            found, present = torch.cat(columns, dim=2), torch.cat(there, dim=1)
        back = torch.argsort(order)
        return {
            name: Similarity(values[back], target.present, candidate)
            for name, values, target, candidate in zip(self.terms, found, targets, present, strict=True)
        }

    @torch.no_grad()
    def evidence(self, batch: Batch, ids: Int[Tensor, " n"], model: Model) -> Evidence:
        """Similarities of the true entities with some entities, and how their tokens are read."""
        nothing = torch.tensor(torch.nan, device=ids.device)
        found = {
            name: torch.where(s.target[:, None] & s.candidate, s.values, nothing)
            for name, s in self(batch, ids, model).items()
        }
        maps = self.maps(self.relations(batch, model)[batch.relation_index], batch.target)
        return Evidence(found, {}, maps, "" if maps else NO_MODALITY)

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
        return represented * self._reals_represented + pool * (per_entity + per_pair * n_relations)

    def _reals_of_pool(self, n_relations: int) -> tuple[int, int]:
        """Reals that are held for each entity of a pool, and for each under a relation."""
        gate = 4 * (self.gate.hidden.out_features + self.gate.entity_width)
        if self.attention is None:
            return gate, 1
        return gate + self.attention.reals_per_entity(n_relations), self.attention.reals_per_pair(n_relations)

    def _relations_at_once(self, candidates: Int[Tensor, " n"], rows: int) -> int:
        """How many relations' cosines are taken together: one on a processor, whose cache holds its candidates.

        Args:
            candidates: that they have in common.
            rows: the most that a relation has.
        """
        if candidates.device.type == "cpu":
            return 1
        reals = 2 * self.gate.hidden.out_features + 5 * self.gate.entity_width + 3 * rows
        return max(1, self._limit // (reals * len(candidates)))

    @property
    def _reals_represented(self) -> int:
        """Reals that are held for each entity under its own relation."""
        return sum(self._reals_of_pool(1))

    def structure(self, ids: Int[Tensor, " n"], model: Model) -> Float[Tensor, "n width"]:
        """The entities' own vectors."""
        return model.entities(ids).vectors[:, 0]

    def tokens(self, ids: Int[Tensor, " n"]) -> list[Tokens]:
        """The entities' projected tokens, by modality."""
        return [self._encoded(m, *modality.gather(ids)) for m, modality in enumerate(self.modalities.values())]

    def paired(self, relations: Float[Tensor, "n relation_width"], tokens: list[Tokens]) -> list[Float[Tensor, "n a"]]:
        """Y of each entity under its own relation, by modality."""
        assert self.attention is not None
        return self.attention.paired(relations, tokens, omit_first_norm=True)

    def _encoded(self, m: int, values: Float[Tensor, "n L D"], mask: Bool[Tensor, "n L"]) -> Tokens:
        assert self.attention is not None
        return self.attention.encode(m, values, torch.ones_like(mask))


def in_chunks(function: Callable[..., tuple[Tensor, ...]], size: int, *rows: Tensor) -> tuple[Tensor, ...]:
    """A function of rows, of so many at a time (one at least), each chunk computed again in the backward pass."""
    if size >= len(rows[0]):
        return function(*rows)
    chunks = zip(*(part.split(max(1, size)) for part in rows), strict=True)
    found = [checkpoint(function, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))
