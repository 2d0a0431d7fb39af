"""How alike entities are as a relation sees them, by modality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmrns.data.features import Modality
from mmrns.nn.model import Model, ModelSpec
from mmrns.samplers.explanation import AttentionMap
from mmrns.samplers.mmrns.attention import EntityGate, EntityTerms, KnowledgeGuidedAttention, Tokens
from mmrns.samplers.mmrns.grouped import grouped_cosine
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


class GuidedSimilarity(nn.Module):
    """Cosines of entities as a relation sees them:

        sim_m(r, x, e) = <y_m(r, x), y_m(r, e)> / stopgrad(||y_m(r, x)|| ||y_m(r, e)||)

    y_m(r, e) represents e in modality m under the relation (`KnowledgeGuidedAttention`); for the term `structure` it is
    the entity's own vector through the `EntityGate`. The terms are the modalities, and `structure` where it is asked
    for or there is no modality. The model's vectors get no gradient from here.

    Args:
        modalities: one or two, by name; with none the structure alone is compared.
        spec: widths of the model's vectors.
        width: a, width of the attention.
        gate_width: hidden units of the entity gate.
        structure: compare the structural vectors too.
        guidance: let the relation guide; otherwise every relation has the vector 0, and with it the same gates.
        memory_mb: bound on what the similarities of a step hold, in MiB; beyond it they are computed in chunks, and
            again in the backward pass.
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        spec: ModelSpec,
        *,
        width: int,
        gate_width: int,
        structure: bool = False,
        guidance: bool = True,
        memory_mb: int = 1024,
    ):
        super().__init__()
        self.modalities, self.guidance, self.memory_mb = dict(modalities), guidance, memory_mb
        self.attention: KnowledgeGuidedAttention | None = None
        self.gate: EntityGate | None = None
        if modalities:
            tokens = tuple(m.tokens for m in modalities.values())
            widths = tuple(m.width for m in modalities.values())
            self.attention = KnowledgeGuidedAttention(tokens, widths, spec.relation_width, width)
        if structure or not modalities:
            self.gate = EntityGate(spec.entity_width, spec.relation_width, gate_width)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.xavier_normal_(parameter)

    @property
    def terms(self) -> list[str]:
        """Names of what is compared."""
        return [*self.modalities, *(["structure"] if self.gate else ())]

    def relations(self, batch: Batch, model: Model) -> Float[Tensor, "R relation_width"]:
        """Vectors of the batch's distinct relations."""
        vectors = model.relations(batch.relations).detach()
        return vectors if self.guidance else torch.zeros_like(vectors)

    def represent(
        self, relations: Float[Tensor, "n relation_width"], entities: Int[Tensor, " n"], model: Model
    ) -> list[Representation]:
        """Each entity under its own relation, in every term."""
        found: list[Representation] = []
        if self.attention is not None:
            tokens = self.tokens(entities)
            values = self.paired(relations, tokens)
            found += [Representation(y, t.mask.any(1)) for y, t in zip(values, tokens, strict=True)]
        if self.gate is not None:
            everyone = torch.ones_like(entities).bool()
            found.append(Representation(self.gate(relations, self.structure(entities, model)), everyone))
        return found

    def forward(
        self,
        batch: Batch,
        pool: Int[Tensor, " P"],
        model: Model,
        *,
        targets: list[Representation] | None = None,
        direct: bool = False,
    ) -> dict[str, Similarity]:
        """Similarity of each row's true entity to every entity of a pool, by term.

        The rows are taken relation by relation. Where all relations at once would take more than `memory_mb`, they are
        taken in chunks, each computed again in the backward pass.

        Args:
            batch: the rows.
            pool: the entities.
            model: of the relation and entity vectors.
            targets: the rows' true entities under their relations, if they are at hand.
            direct: do not fold the attention; the oracle of the folded form.
        """
        order = torch.argsort(batch.relation_index, stable=True)
        relations = self.relations(batch, model)
        if targets is None:
            targets = self.represent(relations[batch.relation_index], batch.target, model)
        in_order = [target.values[order] for target in targets]
        vectors = self.structure(pool, model) if self.gate is not None else None
        present: list[Tensor] = []
        terms: list[EntityTerms] = []
        if self.attention is not None:
            of_pool = self.tokens(pool)
            terms = self.attention.terms(of_pool, n_relations=0 if direct else len(relations))
            present += [tokens.mask.any(1) for tokens in of_pool]
        if vectors is not None:
            present.append(torch.ones_like(pool, dtype=torch.bool))

        def under(chunk: Tensor, counts: tuple[int, ...], *by_term: Tensor) -> Tensor:
            found: list[Tensor] = []
            if self.attention is not None:
                ys = self.attention.outer(chunk, terms)
                found += [grouped_cosine(t, y, counts) for t, y in zip(by_term, ys, strict=False)]
            if self.gate is not None and vectors is not None:
                found.append(self.gate.cosine(by_term[-1], chunk, vectors, counts))
            return torch.stack(found)

        size = max(1, self.memory_mb * 2**20 // self._bytes_per_relation(len(pool), len(relations)))
        if size >= len(relations):
            found = under(relations, batch.relation_counts, *in_order)
        else:
            parts: list[Tensor] = []
            start = 0
            for first in range(0, len(relations), size):
                counts = batch.relation_counts[first : first + size]
                rows = slice(start, start := start + sum(counts))
                given = (relations[first : first + size], counts, *(t[rows] for t in in_order))
                parts.append(checkpoint(under, *given, use_reentrant=False, preserve_rng_state=False))
            found = torch.cat(parts, dim=1)
        back = torch.argsort(order)
        return {
            name: Similarity(values[back], target.present, candidate)
            for name, values, target, candidate in zip(self.terms, found, targets, present, strict=True)
        }

    def maps(
        self, relations: Float[Tensor, "n relation_width"], entities: Int[Tensor, " n"]
    ) -> tuple[AttentionMap, ...]:
        """How each entity's tokens are read under its own relation, one map a modality; none without an attention."""
        if self.attention is None:
            return ()
        return self.attention.maps(relations, self.tokens(entities), list(self.modalities))

    def notes(self, batch: Batch, n_candidates: int) -> list[str]:
        """What the similarities of a batch like this one hold, in words."""
        n, each = len(batch.relations), self._bytes_per_relation(n_candidates, len(batch.relations)) / 2**20
        found = (
            f"The similarities of a step hold about {n * each:,.0f} MiB ({n} relations, {n_candidates:,} candidates)"
        )
        if n * each > self.memory_mb:
            found += f", more than sampler.memory_mb={self.memory_mb}, so that they are computed in chunks, twice"
        return [found + "."]

    def _bytes_per_relation(self, n_candidates: int, n_relations: int) -> int:
        reals = 1 if self.attention is None else self.attention.reals_per_pair(n_relations)
        return 4 * n_candidates * reals

    def structure(self, ids: Int[Tensor, " n"], model: Model) -> Float[Tensor, "n width"]:
        """The entities' own vectors."""
        return model.entities(ids).vectors[:, 0].detach()

    def tokens(self, ids: Int[Tensor, " n"]) -> list[Tokens]:
        """The entities' projected tokens, by modality."""
        return [self._encoded(m, *modality.gather(ids)) for m, modality in enumerate(self.modalities.values())]

    def paired(self, relations: Float[Tensor, "n relation_width"], tokens: list[Tokens]) -> list[Float[Tensor, "n a"]]:
        """Y of each entity under its own relation, by modality."""
        assert self.attention is not None
        return self.attention.paired(relations, tokens)

    def _encoded(self, m: int, values: Float[Tensor, "n L D"], mask: Bool[Tensor, "n L"]) -> Tokens:
        assert self.attention is not None
        return self.attention.encode(m, values, mask)


def cosine(a: Float[Tensor, "*#n a"], b: Float[Tensor, "*#n a"]) -> Float[Tensor, "*n"]:
    """As `grouped_cosine`: without gradient through the norms."""
    norms = torch.linalg.vector_norm(a.detach(), dim=-1) * torch.linalg.vector_norm(b.detach(), dim=-1)
    return (a * b).sum(-1) / (norms + 1e-10)
