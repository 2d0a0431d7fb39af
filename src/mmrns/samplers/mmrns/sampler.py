"""MMRNS: negatives drawn by knowledge-guided cross-modal attention and a masked Gumbel-softmax."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.errors import UsageError
from mmrns.nn.losses import adversarial_weights, contrastive, info_nce
from mmrns.nn.model import Model, ModelSpec
from mmrns.rng import generator
from mmrns.samplers.base import Evidence, Inner, Sampler
from mmrns.samplers.gumbel import gumbel_noise, log_inclusion, straight_through, straight_through_top_k
from mmrns.samplers.mmrns.similarity import GuidedSimilarity, Similarity, View, cosine, log_mixture
from mmrns.samplers.pools import distinct, fed_pool
from mmrns.types import Batch, Negatives

if TYPE_CHECKING:
    from mmrns.training.trainer import Trainer

_LOG_MASKED = math.log(1e-38)
"""What the authors' code adds to the logit of a true or already drawn candidate."""

_SCALE = 10.0
"""Inverse temperature of the likeness at first."""

_FED = 4
"""Negatives that a feed draws for each row."""


@dataclass(frozen=True)
class Candidates:
    """What the rows of a batch may draw: one pool for all, then M fillers of each row's own slot; C = P + M columns.

    Attributes:
        pool: Int[P].
        fillers: Int[G M], of each slot (relation and side) of the batch.
        slot: Int[B], each row's slot.
        excluded: Bool[B C]: true in train, or a filler that is in the pool already, or past the end of a small slot.
        log_density: Float[B C], log of the probability with which a candidate is one.
    """

    pool: Int[Tensor, " P"]
    fillers: Int[Tensor, "G M"]
    slot: Int[Tensor, " B"]
    excluded: Bool[Tensor, "B C"]
    log_density: Float[Tensor, "B C"]

    def ids(self, columns: Int[Tensor, "B K"]) -> Int[Tensor, "B K"]:
        """The entities in some columns of each row."""
        n = len(self.pool)
        pool = self.pool[columns.clamp(max=n - 1)]
        if not self.fillers.shape[1]:
            return pool
        return torch.where(columns < n, pool, self.fillers[self.slot[:, None], (columns - n).clamp(min=0)])


@dataclass(frozen=True)
class Trace:
    """What a draw leaves behind for the loss and for inspection.

    Attributes:
        candidates: what was drawn from.
        logits: Float[B C] of the first draw, excluded candidates masked.
        positions: Int[B K], the columns drawn.
        similarities: by modality, of the pool; empty where the attention is not used.
        likeness: Float[B C], ln p(candidate | true entity, relation) / p(candidate) + constant; None where not used.
        fellow: Float[B], the same of another true answer; None where the attention is not being trained.
        has_fellow: Bool[B], whether the row has another true answer.
        fed: what another sampler drew for the pool; None where none does.
    """

    candidates: Candidates
    logits: Float[Tensor, "B C"]
    positions: Int[Tensor, "B K"]
    similarities: Mapping[str, Similarity]
    likeness: Float[Tensor, "B C"] | None = None
    fellow: Float[Tensor, " B"] | None = None
    has_fellow: Bool[Tensor, " B"] | None = None
    fed: Negatives | None = None


class Mmrns(Sampler):
    """Relation-enhanced negative sampling: hard negatives from a pool and from the relation's slot, corrected for how
    they were drawn and for how likely they are true.

    After Xu et al., "Relation-enhanced Negative Sampling for Multimodal Knowledge Graph Completion" (ACM MM 2022),
    whose sampler `reference` reproduces. A step has a pool of P entities, uniform without replacement, which all rows
    share, and for every row up to M entities of its slot: those that fill the same side of the same relation somewhere
    in train, by systematic sampling. With pi(e) the probability that e is a candidate, x the row's true entity and s(e)
    the model's own score,

        q(e) ~ exp(alpha s(e)) / ( pi(e) exp(likeness(e))^discount )

    and K negatives are drawn without replacement by one Gumbel noise and its top K (the Plackett-Luce law), candidates
    that are true in train left out. The weights of the loss are divided by what the law of the draw puts in (`logp`):
    they estimate the self-adversarial softmax over all entities, each divided by exp(likeness)^discount.

    The likeness says how probable it is that e answers too, given that x does:

        likeness(e) = sum_m t_m(r) <y_m(r, x), y_m(r, e)> / stopgrad(||y_m(r, x)|| ||y_m(r, e)||)

    with y_m(r, e) the reading of e in modality m under the relation (`KnowledgeGuidedAttention`; without any modality
    the structural vector through `EntityGate`) and t_m = softplus(W r + b) > 0. It is trained to tell another true
    answer x' of the row's query from all other entities (InfoNCE, over the rows that have one),

        -ln [ e^likeness(x') / ( e^likeness(x') + sum_e e^likeness(e) / pi(e) ) ]

    so that it tends to the log of a ratio of probabilities, and by the straight-through gradient of the draw. It is
    trained in two of every `refresh` steps, one a side, and used in all; the model's vectors get no gradient from it.

    With `feed` another sampler draws some negatives for every row, and up to half of the pool are these, distinct,
    subsampled if they are more; the rest is uniform over all others. Given what was fed, the pool is a stratified
    sample whose pi(e) is exactly known (`fed_pool`), so that the correction stays what it is, whatever the law of the
    feed.

    Missing modalities: one that the true entity lacks adds nothing to its row; a candidate that lacks one takes the
    row's mean over those that have it.

    `reference`: q(e) = sum_m softmax_e(sim_m(e) / tau) with tau = temperature / (1 + ln(step + 1)), over the pool
    alone, sim_m the cosines (of the structural vector too), a fresh noise for each draw and no correction; and for each
    modality the contrastive term over the whole batch, -ln [ sum_true e^sim / sum_other e^sim ] / (modalities *
    loss_rate), with gradients to the model's vectors; in the authors' arithmetic, whose peculiarities docs/mmrns.md
    lists.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives: K, draws per row.
        pool: P; at most every entity.
        slots: candidates from the slots of a batch, as many from each: M = slots // G of them, at least one; 0 = none.
        discount: how strongly likely true answers are discounted; 0 does without the attention and reads no modality.
        refresh: the attention is trained in two of this many steps.
        modalities: one or two names; by default all that the dataset has, which must be no more than two. Without any
            the sampler compares structure alone.
        width: a, width of the attention.
        gate_width: hidden units of the entity gate.
        memory_mb: bound on what the similarities of a step hold, in MiB; beyond it they are computed in chunks, and
            again in the backward pass.
        temperature: of `reference`, tau at step 0.
        loss_rate: of `reference`, divisor of the contrastive terms; 0 leaves them out.
        alpha: inverse temperature of the objective's self-adversarial weights.
        reference: reproduce the authors' code.
        feed: a sampler whose draws are in the pool.

    Raises:
        UsageError: more than two modalities, or a feed of the authors' sampler.
    """

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 32,
        pool: PositiveInt = 512,
        slots: NonNegativeInt = 512,
        discount: NonNegativeFloat = 0.0,
        refresh: PositiveInt = 10,
        modalities: list[str] | None = None,
        width: PositiveInt = 50,
        gate_width: PositiveInt = 100,
        memory_mb: NonNegativeInt = 1024,
        temperature: PositiveFloat = 10.0,
        loss_rate: NonNegativeFloat = 100.0,
        alpha: float = 1.0,
        reference: bool = False,
        feed: Inner | None = None,
    ):
        super().__init__(graph, features, spec, seed=seed)
        if reference and feed is not None:
            raise UsageError("the authors' sampler has a uniform pool; leave sampler.reference or sampler.feed out")
        attends = reference or discount > 0
        chosen = sorted(features) if modalities is None else list(modalities)
        if attends and len(chosen) > 2:
            known = ", ".join(features)
            raise UsageError(f"mmrns reads at most two modalities; choose with sampler.modalities among: {known}")
        self.n_entities = len(graph.entities)
        self.index, self.slot_index = graph.train_index, graph.slot_index
        self.pool_size = min(pool, self.n_entities)
        self.negatives = min(negatives, self.pool_size)
        self.slots, self.discount, self.refresh = 0 if reference else slots, discount, refresh
        self.temperature, self.loss_rate, self.alpha, self.reference = temperature, loss_rate, alpha, reference
        self.similarity: GuidedSimilarity | None = None
        self.scale: nn.Linear | None = None
        if attends:
            self.similarity = GuidedSimilarity(
                {name: features[name] for name in chosen},
                spec,
                width=width,
                gate_width=gate_width,
                structure=reference,
                memory_mb=memory_mb,
                reference=reference,
            )
        if self.similarity is not None and not reference:
            self.scale = nn.Linear(spec.relation_width, len(self.similarity.terms))
            nn.init.zeros_(self.scale.weight)
            nn.init.constant_(self.scale.bias, _SCALE)
        self.feed = None if feed is None else feed(negatives=_FED)

    def draw(self, batch: Batch, model: Model, step: int) -> Negatives:
        if self.reference:
            return self._draw_as_published(batch, model, step)
        fed = None if self.feed is None else self.feed.draw(batch, model, step)
        candidates = self.propose(batch, step, fed)
        similarities: Mapping[str, Similarity] = {}
        likeness = fellow = has_fellow = None
        if self.similarity is not None:
            trains = step % self.refresh < 2 and torch.is_grad_enabled()
            fellows, has_fellow = self.fellows(batch, step) if trains else (None, None)
            with torch.set_grad_enabled(trains):
                similarities, likeness, fellow = self.likeness(batch, candidates, fellows, model)
        with torch.no_grad():
            query, pool = model.query(batch), model.entities(candidates.pool)
            scores = model.scorer.compare(query, pool)
            fillers = model.entities(candidates.fillers)
            if self.slots:
                width = fillers.shape[1]
                place = candidates.slot[:, None] * width + torch.arange(width, device=query.device)
                own_scores = model.scorer.compare_rows(query, fillers.flatten(0, 1), place)
                scores = torch.cat([scores, own_scores], dim=1)
            logits = self.alpha * scores - candidates.log_density
        divisor = candidates.log_density
        if likeness is not None:
            logits = logits - self.discount * likeness
            divisor = divisor + self.discount * likeness.detach()
        logits = logits.masked_fill(candidates.excluded, -torch.inf)
        perturbed = logits + self.noise(logits.shape, step, 0, logits.device)
        positions = perturbed.detach().topk(self.negatives, dim=1).indices
        logp = log_inclusion(logits.detach(), perturbed.detach(), positions) + divisor.gather(1, positions)
        ids = candidates.ids(positions)
        emb = None
        if perturbed.requires_grad:
            own = fillers.index_select(0, candidates.slot) if self.slots else None
            emb = straight_through_top_k(model.entities(ids), perturbed, positions, pool, own)
        counts = ~candidates.excluded.gather(1, positions)
        trace = Trace(candidates, logits, positions, similarities, likeness, fellow, has_fellow, fed)
        return Negatives(ids=ids, emb=emb, mask=counts, logp=logp, trace=trace)

    def loss(
        self,
        batch: Batch,
        negatives: Negatives,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        model: Model,
        step: int,
    ) -> Float[Tensor, ""] | float:
        """The contrastive terms, and the loss of the feed."""
        trace: Trace = negatives.trace
        own = self._contrastive(trace, s_neg)
        if self.feed is None or trace.fed is None:
            return own
        with torch.no_grad():
            s_fed = model.score_against(batch, trace.fed)
        return own + self.feed.loss(batch, trace.fed, s_pos, s_fed, model, step)

    def _contrastive(self, trace: Trace, s_neg: Float[Tensor, "B K"]) -> Float[Tensor, ""] | float:
        if self.reference:
            if not self.loss_rate:
                return 0.0
            p = adversarial_weights(s_neg, self.alpha)
            weight = torch.ones_like(trace.logits).scatter_(1, trace.positions, p)
            terms = [contrastive(s.values, trace.candidates.excluded, weight) for s in trace.similarities.values()]
            return torch.stack(terms).sum() / (len(terms) * self.loss_rate)
        if trace.likeness is None or trace.fellow is None or trace.has_fellow is None:
            return 0.0
        c = trace.candidates
        return info_nce(trace.likeness, c.log_density, c.excluded, trace.fellow, trace.has_fellow)

    def effective_sample_size(self, negatives: Negatives) -> Float[Tensor, " B"]:
        """Of the first draw, relative to the candidates that are not excluded."""
        logits = negatives.trace.logits.detach()
        q = torch.softmax(logits, dim=1)
        return 1 / (torch.isfinite(logits).sum(1) * q.square().sum(1))

    def law(self, batch: Batch, negatives: Negatives, rows: slice) -> Float[Tensor, "n E"]:
        """The softmax of the logits over the candidates of the step."""
        logits, candidates = negatives.trace.logits[rows].detach(), negatives.trace.candidates
        columns = torch.arange(logits.shape[1], device=logits.device).expand(len(batch), -1)
        found = torch.zeros(len(logits), self.n_entities, device=logits.device)
        return found.scatter_add_(1, candidates.ids(columns)[rows], torch.softmax(logits, dim=1).nan_to_num())

    @torch.no_grad()
    def evidence(self, batch: Batch, ids: Int[Tensor, " n"], model: Model) -> Evidence:
        """Similarities in every term and the attention maps; nothing without a discount."""
        similarity = self.similarity
        if similarity is None:
            return Evidence(why_not="with sampler.discount=0 it draws by scores alone and reads no modality")
        nothing = torch.tensor(torch.nan, device=ids.device)
        similarities = similarity(batch, ids, model)
        found = {
            name: torch.where(s.target[:, None] & s.candidate, s.values, nothing) for name, s in similarities.items()
        }
        relations = similarity.relations(batch, model)[batch.relation_index]
        weights: dict[str, Tensor] = {}
        if self.scale is not None:
            scale = nn.functional.softplus(self.scale(relations)).unbind(1)
            weights = {name: w * s.target for (name, s), w in zip(similarities.items(), scale, strict=True)}
        maps = similarity.maps(relations, batch.target)
        if not maps:
            return Evidence(found, weights, why_not="without a modality it compares structure alone")
        return Evidence(found, weights, maps, tuple(similarity.modalities))

    def candidates(self, step: int) -> Int[Tensor, " P"]:
        """The pool of a step: P distinct ids, uniform, ascending."""
        return distinct(self.seed, "pool", step, n=self.n_entities, size=self.pool_size)

    def propose(self, batch: Batch, step: int, fed: Negatives | None = None) -> Candidates:
        """The candidates of a batch, where another sampler has drawn something for its pool with those."""
        pool = self.candidates(step).to(batch.h.device, non_blocking=True)
        mixed = None
        if fed is not None:
            assert fed.ids is not None
            stream = generator(self.seed, "fed pool", step, device=pool.device)
            mixed = fed_pool(fed.ids.flatten(), pool, self.n_entities, stream)
            pool = mixed.ids
        excluded = self.true_in_train(batch, pool)
        share = pool.new_full(pool.shape, len(pool) / self.n_entities, dtype=torch.float64)
        if mixed is not None:
            share = mixed.rate(pool).double()
        if not self.slots:
            density = share.log().to(torch.float32).expand(excluded.shape)
            return Candidates(pool, pool.new_empty(0, 0), torch.zeros_like(batch.r), excluded, density)
        self.slot_index = self.slot_index.to(pool.device)
        width = max(1, self.slots // (len(batch.relations) * sum(rows.stop > rows.start for _, rows in batch.sides)))
        fillers, inside, slot = [], [], []
        for head, rows in batch.sides:
            if rows.start == rows.stop:
                continue
            slot.append(batch.relation_index[rows] + len(fillers) * len(batch.relations))
            stream = generator(self.seed, "fillers", step, int(head), device=pool.device)
            start = torch.rand(len(batch.relations), dtype=torch.float64, generator=stream, device=pool.device)
            fillers.append(self.slot_index.sample(batch.relations, head, start, width))
            inside.append(self.slot_index.contains(pool, batch.relations, head))
        of_row = torch.cat(slot)
        filler, there, rate = (torch.cat(parts) for parts in zip(*fillers, strict=True))
        # In the slot, an entity is a candidate unless both the pool and the slot's sample miss it.
        rate = rate[:, None]
        density = torch.where(torch.cat(inside), 1 - (1 - share) * (1 - rate), share)
        of_filler = share[:1].expand_as(filler) if mixed is None else mixed.rate(filler)
        density = torch.cat([density, 1 - (1 - of_filler) * (1 - rate)], dim=1).log()
        usable = there & (self._place(pool, filler) == len(pool))
        known = self.index.batch_contains(batch, filler.index_select(0, of_row))
        excluded = torch.cat([excluded, known | ~usable.index_select(0, of_row)], dim=1)
        return Candidates(pool, filler, of_row, excluded, density.to(torch.float32).index_select(0, of_row))

    def fellows(self, batch: Batch, step: int) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]:
        """Another true answer of each row's query, uniform; the answer itself where there is none, and False."""
        device = batch.r.device
        stream = generator(self.seed, "fellow", step, device=device)
        return self.index.batch_fellows(batch, torch.rand(len(batch), generator=stream, device=device))

    def noise(self, shape: torch.Size, step: int, draw: int, device: torch.device) -> Float[Tensor, "B C"]:
        """The Gumbel noise of a step; under `reference` that of each of its draws."""
        return gumbel_noise(shape, generator(self.seed, "gumbel", step, draw, device=device), device)

    def true_in_train(self, batch: Batch, pool: Int[Tensor, " P"]) -> Bool[Tensor, "B P"]:
        """Which candidates are true in train for each row, scattered from the train index."""
        self.index = self.index.to(pool.device)
        # One column more than the pool takes the true entities that are not in it.
        true = torch.zeros(len(batch), len(pool) + 1, dtype=torch.bool, device=pool.device)
        row, entity = self.index.batch_targets(batch, batch.n_true)
        true[row, self._place(pool, entity)] = True
        return true[:, :-1]

    @staticmethod
    def _place(pool: Int[Tensor, " P"], entities: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """Position of each entity in the pool; P where it is not in it."""
        ordered, order = pool.sort()
        found = torch.searchsorted(ordered, entities).clamp(max=len(pool) - 1)
        return torch.where(ordered[found] == entities, order[found], len(pool))

    def likeness(
        self, batch: Batch, candidates: Candidates, fellows: Int[Tensor, " B"] | None, model: Model
    ) -> tuple[dict[str, Similarity], Float[Tensor, "B C"], Float[Tensor, " B"] | None]:
        """Similarities of the pool, and the likeness of all candidates and of one more entity for each row."""
        similarity, scales = self.similarity, self.scale
        assert similarity is not None
        assert scales is not None
        relations = similarity.relations(batch, model)
        of_row = relations[batch.relation_index]
        targets = similarity.view(of_row, batch.target, model)
        similarities = similarity(batch, candidates.pool, model, targets=targets)
        own: list[View] = []
        if self.slots:
            fillers = candidates.fillers
            n_slots, n_fillers = fillers.shape
            under = relations.repeat(n_slots // len(relations), 1).repeat_interleave(n_fillers, dim=0)
            own = similarity.view(under, fillers.flatten(), model)
        further = None if fellows is None else similarity.view(of_row, fellows, model)
        scale = nn.functional.softplus(scales(of_row))
        total: Tensor | None = None
        for m, (name, target) in enumerate(zip(similarity.terms, targets, strict=True)):
            pool = similarities[name]
            values, present = [pool.values], [pool.candidate.expand_as(pool.values)]
            if own:
                # index_select, since the gradient of indexing adds up in no fixed order.
                of_slot = own[m].values.unflatten(0, candidates.fillers.shape).index_select(0, candidates.slot)
                values.append(cosine(target.values[:, None], of_slot))
                present.append(own[m].present.view_as(candidates.fillers)[candidates.slot])
            if further is not None:
                values.append(cosine(target.values, further[m].values)[:, None])
                present.append(further[m].present[:, None])
            cosines, has = torch.cat(values, dim=1), torch.cat(present, dim=1)
            mean = (cosines * has).sum(1, keepdim=True) / has.sum(1, keepdim=True).clamp(min=1)
            term = torch.where(has, cosines, mean) * (scale[:, m] * target.present)[:, None]
            total = term if total is None else total + term
        assert total is not None
        return (similarities, total, None) if fellows is None else (similarities, total[:, :-1], total[:, -1])

    def notes(self, batch: Batch) -> list[str]:
        fed = [] if self.feed is None else self.feed.notes(batch)
        if self.similarity is None:
            return fed
        none = [] if self.similarity.modalities else ["No modality: the mmrns sampler compares structure alone."]
        return [*none, *self.similarity.notes(batch, self.pool_size), *fed]

    def pretrain(self, trainer: Trainer) -> None:
        """The feed's."""
        if self.feed is not None:
            self.feed.pretrain(trainer)

    def end_epoch(self, epoch: int) -> None:
        """The feed's."""
        if self.feed is not None:
            self.feed.end_epoch(epoch)

    def _draw_as_published(self, batch: Batch, model: Model, step: int) -> Negatives:
        candidates = self.propose(batch, step)
        assert self.similarity is not None
        similarities = self.similarity(batch, candidates.pool, model)
        mixture = log_mixture(similarities, self.temperature / (1 + math.log(step + 1)))
        first = mixture + candidates.excluded * _LOG_MASKED
        logits, soft, positions = first, [], []
        for k in range(self.negatives):
            soft.append(torch.softmax(logits + self.noise(logits.shape, step, k, logits.device), dim=1))
            positions.append(soft[-1].argmax(dim=1))
            logits = logits + torch.zeros_like(logits).scatter_(1, positions[-1][:, None], _LOG_MASKED)
        drawn = torch.stack(positions, dim=1)
        emb = straight_through(torch.stack(soft, dim=1), drawn, model.entities(candidates.pool))
        trace = Trace(candidates, first, drawn, similarities)
        return Negatives(ids=candidates.ids(drawn), emb=emb, trace=trace)
