"""MMRNS: hard negatives, drawn by a masked Gumbel-softmax and debiased by knowledge-guided cross-modal attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.errors import UsageError
from mmrns.nn.lookup import Lookup
from mmrns.nn.model import Model, ModelSpec
from mmrns.samplers.base import Inner
from mmrns.samplers.explanation import Evidence
from mmrns.samplers.gumbel import log_inclusion, straight_through_top_k
from mmrns.samplers.mmrns.contrastive import info_nce
from mmrns.samplers.mmrns.proposal import Candidates, CandidateSampler, Trace
from mmrns.samplers.mmrns.similarity import GuidedSimilarity, Representation, Similarity, cosine
from mmrns.types import Batch, Negatives, OwnNegatives

_SCALE = 10.0
"""Inverse temperature of the similarities at first."""


@dataclass(frozen=True)
class Debiasing:
    """How likely the candidates of a step are to be unknown positives.

    Attributes:
        similarities: by term, of the pool.
        pmi: Float[B C], ln p(candidate answers too | the true entity, the relation) / p(candidate), up to a constant.
        pmi_of_positive: Float[B], the same of another positive of the row's query; None where the attention is not
            being trained.
        has_positive: Bool[B], whether the query has another positive.
    """

    similarities: Mapping[str, Similarity]
    pmi: Float[Tensor, "B C"]
    pmi_of_positive: Float[Tensor, " B"] | None = None
    has_positive: Bool[Tensor, " B"] | None = None


class Mmrns(CandidateSampler, name="mmrns"):
    """Relation-enhanced negative sampling: negatives that the model finds hard, but not those whose pictures and texts
    say that they may be true.

    After Xu et al., "Relation-enhanced Negative Sampling for Multimodal Knowledge Graph Completion" (ACM MM 2022), with
    its three parts: knowledge-guided cross-modal attention (KCA), a contrastive loss and a masked Gumbel-softmax. The
    authors' own arithmetic is the sampler `mmrns-published`; without the attention it is `domain-range`.

    **The draw.** With pi(e) the probability that e is a candidate (`CandidateSampler`), x the row's true entity and
    s(e) the model's own score,

        q(e) ~ exp(alpha s(e)) / ( pi(e) exp(pmi(e))^discount )

    K negatives are drawn without replacement, by one Gumbel noise and its top K (the Plackett-Luce distribution).
    Candidates that are true in train are left out. Importance weights take out how often a candidate comes to be drawn,
    but not the debiasing: the loss estimates the self-adversarial softmax over all entities, each divided by
    exp(pmi)^discount.

    **The debiasing.** pmi(e) is the pointwise mutual information of "x answers the query" and "e answers it too",

        pmi(e) = sum_m t_m(r) <y_m(r, x), y_m(r, e)> / stopgrad(||y_m(r, x)|| ||y_m(r, e)||)

    where y_m(r, e) represents e in modality m under the relation (`KnowledgeGuidedAttention`; without any modality the
    structural vector through `EntityGate`) and t_m = softplus(W r + b) > 0.

    **The training.** In two of every `refresh` steps, one a side, the attention learns to tell another positive x' of
    the row's query from all entities (InfoNCE, over the rows that have one),

        -ln [ e^pmi(x') / ( e^pmi(x') + sum_e e^pmi(e) / pi(e) ) ]

    whose optimum is the pointwise mutual information, and it gets the straight-through gradient of the draw. The
    model's vectors get no gradient from the sampler.

    **Missing modalities.** One that the true entity lacks adds nothing to its row. A candidate that lacks one takes the
    row's mean over those that have it.

    Cost of a draw: that of `domain-range`, and the attention over R x P pairs of a relation and a candidate, with
    gradients in two of `refresh` steps.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives, pool, domain_range: see `CandidateSampler`.
        pool_sampler: a sampler whose draws fill half of the pool.
        discount: how strongly likely positives are held back.
        refresh: the attention is trained in two of this many steps.
        modalities: one or two names; by default all that the dataset has, which must be no more than two. With none,
            the structure alone is compared.
        guidance: let the relation guide the attention. False is an ablation: the same gates for every relation.
        contrastive: train the attention by the contrastive loss. False is an ablation.
        gradient: train the attention by the gradient of the draw. False is an ablation: plain sampling.
        corrected: divide importance weights out. False is an ablation: negatives weigh as they come.
        width: a, width of the attention.
        gate_width: hidden units of the entity gate.
        memory_mb: bound on what the similarities of a step hold, in MiB; beyond it they are computed in chunks, and
            again in the backward pass.
        alpha: inverse temperature of the objective's self-adversarial weights.

    Raises:
        UsageError: more than two modalities.
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
        domain_range: NonNegativeInt = 512,
        pool_sampler: Inner | None = None,
        discount: PositiveFloat = 0.5,
        refresh: PositiveInt = 10,
        modalities: list[str] | None = None,
        guidance: bool = True,
        contrastive: bool = True,
        gradient: bool = True,
        corrected: bool = True,
        width: PositiveInt = 50,
        gate_width: PositiveInt = 100,
        memory_mb: NonNegativeInt = 1024,
        alpha: float = 1.0,
    ):
        super().__init__(graph, features, spec, seed=seed, negatives=negatives, pool=pool, domain_range=domain_range)
        self.discount, self.refresh, self.alpha = discount, refresh, alpha
        self.contrastive, self.gradient, self.corrected = contrastive, gradient, corrected
        self.similarity = GuidedSimilarity(
            {name: features[name] for name in chosen_modalities(features, modalities)},
            spec,
            width=width,
            gate_width=gate_width,
            guidance=guidance,
            memory_mb=memory_mb,
        )
        self.scale = nn.Linear(spec.relation_width, len(self.similarity.terms))
        nn.init.zeros_(self.scale.weight)
        nn.init.constant_(self.scale.bias, _SCALE)
        self.fill_pool_with(pool_sampler)

    def draw(self, lookup: Lookup, model: Model, step: int) -> Negatives:
        of_pool = self.for_the_pool(lookup, model, step)
        candidates = self.candidates(lookup.batch, step, of_pool)
        debiasing = self.debiasing(lookup.batch, candidates, model, step)
        with torch.no_grad():
            scores, pool, typed = self.scores(lookup, model, candidates)
            logits = self.alpha * scores - candidates.log_density
        logits = logits - self.discount * debiasing.pmi
        # What divides the weights: how often each is a candidate, and on purpose how likely it is a positive.
        divisor = candidates.log_density + self.discount * debiasing.pmi.detach()
        logits = logits.masked_fill(candidates.excluded, -torch.inf)
        perturbed = logits + self.noise(logits.shape, step, logits.device)
        positions = perturbed.detach().topk(self.negatives, dim=1).indices
        log_weight = None
        if self.corrected:
            drawn = log_inclusion(logits.detach(), perturbed.detach(), positions)
            log_weight = -(drawn + divisor.gather(1, positions))
        ids = candidates.ids(positions)
        views = None
        if self.gradient and perturbed.requires_grad:
            views = model.entities(ids)
            own = typed.vectors.flatten(2).index_select(0, candidates.group) if self.typed else None
            through = straight_through_top_k(
                views.vectors.flatten(2), perturbed, positions, pool.vectors.flatten(1), own
            )
            views = views.with_vectors(through.view_as(views.vectors))
        mask = ~candidates.excluded.gather(1, positions)
        trace = Trace(candidates, logits, positions, of_pool, debiasing)
        return OwnNegatives(ids, views, mask=mask, log_weight=log_weight, trace=trace)

    def loss(
        self,
        lookup: Lookup,
        negatives: Negatives,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        model: Model,
        step: int,
    ) -> Float[Tensor, ""] | float:
        """The contrastive loss, and that of the sampler of the pool."""
        of_pool = super().loss(lookup, negatives, s_pos, s_neg, model, step)
        found: Debiasing = negatives.trace.more
        if not self.contrastive or found.pmi_of_positive is None or found.has_positive is None:
            return of_pool
        c = negatives.trace.candidates
        return info_nce(found.pmi, c.log_density, c.excluded, found.pmi_of_positive, found.has_positive) + of_pool

    def debiasing(self, batch: Batch, candidates: Candidates, model: Model, step: int) -> Debiasing:
        """How likely each candidate is to be an unknown positive, with gradients where a step trains the attention."""
        trains = step % self.refresh < 2 and torch.is_grad_enabled()
        positives, has_positive = self.other_positives(batch, step) if trains else (None, None)
        with torch.set_grad_enabled(trains):
            similarities, pmi, of_positive = self.pmi(batch, candidates, positives, model)
        return Debiasing(similarities, pmi, of_positive, has_positive)

    def other_positives(self, batch: Batch, step: int) -> tuple[Int[Tensor, " B"], Bool[Tensor, " B"]]:
        """Another positive of each row's query, uniform; the row's own entity where there is none, and False."""
        device = batch.r.device
        # The name of the stream is older than the name of what it is for; it decides the numbers.
        stream = self.stream(step, "fellow", device=device)
        return self.index.batch_other_positives(batch, torch.rand(len(batch), generator=stream, device=device))

    def pmi(
        self, batch: Batch, candidates: Candidates, positives: Int[Tensor, " B"] | None, model: Model
    ) -> tuple[dict[str, Similarity], Float[Tensor, "B C"], Float[Tensor, " B"] | None]:
        """Similarities of the pool, and the pointwise mutual information of all candidates and of one entity more a
        row.
        """
        similarity = self.similarity
        relations = similarity.relations(batch, model)
        of_row = relations[batch.relation_index]
        represented = len(batch) * (1 if positives is None else 2) + candidates.typed.numel()
        own = len(batch) * candidates.typed.shape[1]
        at_once = similarity.fits(represented, len(candidates.pool), len(relations), own)
        targets = similarity.represent(of_row, batch.target, model, at_once=at_once)
        similarities = similarity(batch, candidates.pool, model, targets=targets, at_once=at_once)
        typed: list[Representation] = []
        if self.typed:
            n_groups, n_typed = candidates.typed.shape
            under = relations.repeat(n_groups // len(relations), 1).repeat_interleave(n_typed, dim=0)
            typed = similarity.represent(under, candidates.typed.flatten(), model, at_once=at_once)
        further = None if positives is None else similarity.represent(of_row, positives, model, at_once=at_once)
        scale = nn.functional.softplus(self.scale(of_row))
        terms: list[Tensor] = []
        for m, (name, target) in enumerate(zip(similarity.terms, targets, strict=True)):
            pool = similarities[name]
            values, present = [pool.values], [pool.candidate.expand_as(pool.values)]
            if typed:
                groups = typed[m].values.unflatten(0, candidates.typed.shape)
                values.append(similarity.to_own(target.values, groups, candidates.group, at_once=at_once))
                present.append(typed[m].present.view_as(candidates.typed)[candidates.group])
            if further is not None:
                values.append(cosine(target.values, further[m].values)[:, None])
                present.append(further[m].present[:, None])
            cosines, has = torch.cat(values, dim=1), torch.cat(present, dim=1)
            mean = (cosines * has).sum(1, keepdim=True) / has.sum(1, keepdim=True).clamp(min=1)
            terms.append(torch.where(has, cosines, mean) * (scale[:, m] * target.present)[:, None])
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return (similarities, total, None) if further is None else (similarities, total[:, :-1], total[:, -1])

    @torch.no_grad()
    def evidence(self, batch: Batch, ids: Int[Tensor, " n"], model: Model) -> Evidence:
        """Similarities in every term, how much each counts, and the attention maps."""
        relations = self.similarity.relations(batch, model)[batch.relation_index]
        scale = nn.functional.softplus(self.scale(relations)).unbind(1)
        return evidence_of(self.similarity, batch, ids, model, scale)

    def notes(self, batch: Batch) -> list[str]:
        none = [] if self.similarity.modalities else ["No modality: the mmrns sampler compares structure alone."]
        return [*none, *self.similarity.notes(batch, self.pool_size), *super().notes(batch)]


def chosen_modalities(features: Features, names: Sequence[str] | None) -> list[str]:
    """The modalities that the attention is to read.

    Raises:
        UsageError: more than two.
    """
    chosen = sorted(features) if names is None else list(names)
    if len(chosen) > 2:
        known = ", ".join(features)
        raise UsageError(
            f"mmrns reads at most two modalities; choose with sampler.modalities among: {known}; or use the method "
            "domain-range, which reads none"
        )
    return chosen


def evidence_of(
    similarity: GuidedSimilarity,
    batch: Batch,
    ids: Int[Tensor, " n"],
    model: Model,
    scale: Sequence[Float[Tensor, " B"]] = (),
) -> Evidence:
    """Evidence from guided similarities: of the true entities with some entities, and how their tokens are read."""
    nothing = torch.tensor(torch.nan, device=ids.device)
    similarities = similarity(batch, ids, model)
    found = {name: torch.where(s.target[:, None] & s.candidate, s.values, nothing) for name, s in similarities.items()}
    weights = {name: w * s.target for (name, s), w in zip(similarities.items(), scale, strict=False)}
    maps = similarity.maps(similarity.relations(batch, model)[batch.relation_index], batch.target)
    return Evidence(found, weights, maps, "" if maps else "without a modality it compares structure alone")
