"""MMRNS: negatives drawn by knowledge-guided cross-modal attention and a masked Gumbel-softmax."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.errors import UsageError
from mmrns.nn.attention import EntityGate, KnowledgeGuidedAttention, Reading, Tokens
from mmrns.nn.grouped import grouped_cosine
from mmrns.nn.gumbel import gumbel_top_k, straight_through
from mmrns.nn.losses import adversarial_weights
from mmrns.nn.model import Model, ModelSpec
from mmrns.rng import generator, numpy_generator
from mmrns.samplers.base import Sampler
from mmrns.types import Batch, Negatives

_LOG_MASKED = math.log(1e-38)
"""What the authors' code adds to the logit of a true or already drawn candidate."""


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
class Trace:
    """What a draw leaves behind for the loss and for inspection.

    Attributes:
        pool: Int[P] candidate ids.
        similarities: by modality, `structure` among them.
        true: Bool[B P], True where the candidate is true in train.
        logits: Float[B P] of the first draw, true candidates masked.
        positions: Int[B K] of the drawn negatives in the pool.
    """

    pool: Int[Tensor, " P"]
    similarities: Mapping[str, Similarity]
    true: Bool[Tensor, "B P"]
    logits: Float[Tensor, "B P"]
    positions: Int[Tensor, "B K"]


class Mmrns(Sampler):
    """The learned sampler of Xu et al., "Relation-enhanced Negative Sampling for Multimodal Knowledge Graph Completion"
    (ACM MM 2022), in its direct form: every distinct (relation, candidate) pair of the batch is evaluated once.

    A pool of P candidates is drawn uniformly without replacement. With y_m(r, e) the reading of entity e in modality
    m under relation r (`KnowledgeGuidedAttention`; `EntityGate` for the structural vector) and x the true entity of a
    row,

        sim_m(e) = <y_m(r, x), y_m(r, e)> / stopgrad(||y_m(r, x)|| ||y_m(r, e)||)
        q(e) = sum_m softmax_e(sim_m(e) / tau),   tau = temperature / (1 + ln(step + 1))

    and K negatives are drawn without replacement with the logits ln q, candidates that are true in train masked, by
    one Gumbel noise and its top K (the Plackett-Luce law). Draws are differentiable by the straight-through softmax
    over the candidates that are left at each draw. The loss adds, for each modality, a contrastive term over the
    whole batch,

        -ln [ sum_true e^sim / sum_other e^sim ] / (modalities * loss_rate)

    Missing modalities: the term of a modality that the true entity lacks leaves the row's mixture; a candidate that
    lacks it takes the row's mean similarity over those that have it; contrastive pairs that lack it are dropped.

    Deviations from the authors' code, all undone by `reference`: the LayerNorm that their positive image term omits is
    applied; masks are boolean instead of 1e-38; one noise serves all draws of a row instead of a fresh one each; drawn
    negatives keep weight 1 in the contrastive term instead of their self-adversarial weight; missing features are
    missing instead of zero vectors.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives: K, draws per row.
        pool: P; at most every entity.
        modalities: one or two names; by default all that the dataset has, which must be no more than two. Without any
            the sampler compares structure alone.
        width: a, width of the attention.
        gate_width: hidden units of the entity gate.
        temperature: tau at step 0.
        loss_rate: divisor of the contrastive terms; 0 leaves them out.
        memory_mb: bound on what the similarities of a step hold, in MiB; beyond it they are computed in chunks, and
            again in the backward pass.
        alpha: inverse temperature of the objective's self-adversarial weights, which `reference` needs.
        reference: reproduce the authors' code.
    """

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: int = 32,
        pool: int = 500,
        modalities: list[str] | None = None,
        width: int = 50,
        gate_width: int = 100,
        temperature: float = 10.0,
        loss_rate: float = 100.0,
        memory_mb: int = 1024,
        alpha: float = 1.0,
        reference: bool = False,
    ):
        super().__init__(graph, features, spec, seed=seed)
        self.modalities = sorted(features) if modalities is None else list(modalities)
        if len(self.modalities) > 2:
            known = ", ".join(features)
            raise UsageError(f"mmrns reads at most two modalities; choose with sampler.modalities among: {known}")
        self.inputs = {name: features[name] for name in self.modalities}
        self.n_entities = len(graph.entities)
        self.index = graph.train_index
        self.pool_size = min(pool, self.n_entities)
        self.negatives = min(negatives, self.pool_size)
        self.temperature, self.loss_rate, self.alpha, self.reference = temperature, loss_rate, alpha, reference
        self.memory_mb = memory_mb
        self.attention: KnowledgeGuidedAttention | None = None
        if self.inputs:
            tokens = tuple(m.tokens for m in self.inputs.values())
            widths = tuple(m.width for m in self.inputs.values())
            self.attention = KnowledgeGuidedAttention(tokens, widths, spec.relation_width, width)
        self.gate = EntityGate(spec.entity_width, spec.relation_width, gate_width)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                torch.nn.init.xavier_normal_(parameter)

    def draw(self, batch: Batch, model: Model, step: int) -> Negatives:
        pool = self.candidates(step).to(batch.h.device)
        true = self.true_in_train(batch, pool)
        similarities = self.similarities(batch, pool, model)
        mixture = log_mixture(similarities, self.temperature / (1 + math.log(step + 1)))
        vectors = model.entities(pool)
        if self.reference:
            logits = mixture + true * _LOG_MASKED
            positions, emb = self._draw_one_by_one(logits, vectors, step)
            counts = None
        else:
            logits = mixture.masked_fill(true, -torch.inf)
            perturbed = logits + self.noise(logits.shape, step, 0, logits.device)
            positions, emb = gumbel_top_k(perturbed, vectors, self.negatives)
            counts = torch.isfinite(logits.detach().gather(1, positions))
        logp = torch.log_softmax(logits.detach(), dim=1).gather(1, positions)
        trace = Trace(pool, similarities, true, logits, positions)
        return Negatives(ids=pool[positions], emb=emb, mask=counts, logp=logp, trace=trace)

    def loss(
        self,
        batch: Batch,
        negatives: Negatives,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        model: Model,
        step: int,
    ) -> Float[Tensor, ""] | float:
        """The contrastive terms."""
        if not self.loss_rate:
            return 0.0
        trace: Trace = negatives.trace
        weight = None
        if self.reference:
            p = adversarial_weights(s_neg, self.alpha)
            weight = torch.ones_like(trace.logits).scatter_(1, trace.positions, p)
        terms = [contrastive(s, trace.true, weight) for s in trace.similarities.values()]
        return torch.stack(terms).sum() / (len(terms) * self.loss_rate)

    def effective_sample_size(self, negatives: Negatives) -> Float[Tensor, " B"]:
        """Of the first draw, relative to P."""
        q = torch.softmax(negatives.trace.logits.detach(), dim=1)
        return 1 / (q.shape[1] * q.square().sum(1))

    def candidates(self, step: int) -> Int[Tensor, " P"]:
        """The pool of a step: P distinct ids, uniform."""
        stream = numpy_generator(self.seed, "pool", step)
        return torch.from_numpy(stream.choice(self.n_entities, self.pool_size, replace=False, shuffle=False))

    def noise(self, shape: torch.Size, step: int, draw: int, device: torch.device) -> Float[Tensor, "B P"]:
        """Standard Gumbel noise, -ln(-ln u) with u uniform on (0, 1)."""
        stream = generator(self.seed, "gumbel", step, draw, device=device)
        u = torch.rand(shape, generator=stream, device=device)
        # u = 0 would give -inf; the largest u below 1 is what bounds the noise from above.
        return u.clamp_(min=torch.finfo(u.dtype).tiny).log_().neg_().log_().neg_()

    def true_in_train(self, batch: Batch, pool: Int[Tensor, " P"]) -> Bool[Tensor, "B P"]:
        """Which candidates are true in train for each row, scattered from the train index."""
        if self.index.device != pool.device:
            self.index = self.index.to(pool.device)
        place = torch.full((self.n_entities,), len(pool), device=pool.device)
        place[pool] = torch.arange(len(pool), device=pool.device)
        # One column more than the pool takes the true entities that are not in it.
        true = torch.zeros(len(batch), len(pool) + 1, dtype=torch.bool, device=pool.device)
        row, entity = self.index.batch_targets(batch)
        true[row, place[entity]] = True
        return true[:, :-1]

    def similarities(
        self, batch: Batch, pool: Int[Tensor, " P"], model: Model, *, direct: bool = False
    ) -> dict[str, Similarity]:
        """Similarity of each row's true entity to every candidate, by modality.

        The rows are taken relation by relation. Where all relations at once would take more than `memory_mb`, they are
        taken in chunks, each computed again in the backward pass.

        Args:
            batch: the rows.
            pool: the candidates.
            model: of the relation and entity vectors.
            direct: do not fold the attention; the oracle of the folded form.
        """
        order = torch.argsort(batch.relation_index, stable=True)
        relations, target = model.relations(batch.relations), batch.target[order]
        of_row = relations[batch.relation_index[order]]
        vectors = model.entities(pool)
        targets = [self.gate(of_row, model.entities(target))]
        present = [(torch.ones_like(target, dtype=torch.bool), torch.ones_like(pool, dtype=torch.bool))]
        readings: list[Reading] = []
        if self.attention is not None:
            of_pool, of_target = self._tokens(pool), self._tokens(target)
            readings = self.attention.readings(of_pool, n_relations=0 if direct else len(relations))
            paired = self.attention.paired(of_row, of_target, omit_first_norm=self.reference)
            targets = [*paired, *targets]
            has = [(t.mask.any(1), p.mask.any(1)) for t, p in zip(of_target, of_pool, strict=True)]
            present = [*has, *present]

        def under(chunk: Tensor, counts: tuple[int, ...], *targets: Tensor) -> Tensor:
            *of_tokens, of_vector = targets
            found = [self.gate.cosine(of_vector, chunk, vectors, counts)]
            if self.attention is not None:
                ys = self.attention.outer(chunk, readings)
                found = [*(grouped_cosine(t, y, counts) for t, y in zip(of_tokens, ys, strict=True)), *found]
            return torch.stack(found)

        reals = 1 if self.attention is None else self.attention.reals_per_pair(len(relations))
        size = max(1, self.memory_mb * 2**20 // (4 * len(pool) * reals))
        if size >= len(relations):
            found = under(relations, batch.relation_counts, *targets)
        else:
            parts: list[Tensor] = []
            start = 0
            for first in range(0, len(relations), size):
                counts = batch.relation_counts[first : first + size]
                rows = slice(start, start := start + sum(counts))
                given = (relations[first : first + size], counts, *(t[rows] for t in targets))
                parts.append(checkpoint(under, *given, use_reentrant=False, preserve_rng_state=False))
            found = torch.cat(parts, dim=1)
        back = torch.argsort(order)
        names = [*self.modalities, "structure"]
        return {
            name: Similarity(values[back], has[back], candidate)
            for name, values, (has, candidate) in zip(names, found, present, strict=True)
        }

    def _tokens(self, ids: Int[Tensor, " n"]) -> list[Tokens]:
        assert self.attention is not None
        tokens: list[Tokens] = []
        for m, modality in enumerate(self.inputs.values()):
            values, mask = modality.gather(ids)
            # The authors' code knows no missing token: its zero vectors take part.
            tokens.append(self.attention.encode(m, values, torch.ones_like(mask) if self.reference else mask))
        return tokens

    def _draw_one_by_one(
        self, logits: Float[Tensor, "B P"], vectors: Float[Tensor, "P width"], step: int
    ) -> tuple[Int[Tensor, "B K"], Float[Tensor, "B K width"]]:
        soft: list[Tensor] = []
        positions: list[Tensor] = []
        for k in range(self.negatives):
            soft.append(torch.softmax(logits + self.noise(logits.shape, step, k, logits.device), dim=1))
            positions.append(soft[-1].argmax(dim=1))
            logits = logits + torch.zeros_like(logits).scatter_(1, positions[-1][:, None], _LOG_MASKED)
        drawn = torch.stack(positions, dim=1)
        return drawn, straight_through(torch.stack(soft, dim=1), drawn, vectors)


def log_mixture(similarities: Mapping[str, Similarity], tau: float) -> Float[Tensor, "B P"]:
    """`ln sum_m softmax_e(sim_m / tau)` over the modalities that each row's true entity has."""
    terms: list[Tensor] = []
    for s in similarities.values():
        mean = (s.values * s.candidate).sum(1, keepdim=True) / s.candidate.sum().clamp(min=1)
        values = torch.where(s.candidate, s.values, mean)
        terms.append(torch.log_softmax(values / tau, dim=1).masked_fill(~s.target[:, None], -torch.inf))
    return torch.stack(terms).logsumexp(0)


def contrastive(
    similarity: Similarity, true: Bool[Tensor, "B P"], weight: Float[Tensor, "B P"] | None = None
) -> Float[Tensor, ""]:
    """`-ln [ sum_true w e^sim / sum_other w e^sim ]` over all pairs that have the modality; 0 where a sum is empty."""
    present = similarity.target[:, None] & similarity.candidate
    # Cosines are at most 1, so that nothing overflows.
    mass = similarity.values.exp() * present if weight is None else similarity.values.exp() * (weight * present)
    positive, every = (mass * true).sum(), mass.sum()
    both = (positive > 0) & (every > positive)
    negative = torch.where(both, every - positive, 1.0)
    return torch.where(both, negative.log() - torch.where(both, positive, 1.0).log(), 0.0)
