"""The sampler of the MMRNS paper, in the arithmetic of its authors' code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import embedding

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.errors import UsageError
from mmrns.nn.lookup import Lookup
from mmrns.nn.losses import adversarial_weights
from mmrns.nn.model import Model, ModelSpec
from mmrns.samplers.base import Sampler, scattered
from mmrns.samplers.explanation import Evidence
from mmrns.samplers.gumbel import gumbel_, straight_through
from mmrns.samplers.mmrns.contrastive import contrastive
from mmrns.samplers.mmrns.similarity import PublishedSimilarity, structure
from mmrns.samplers.pools import distinct, true_in_pool
from mmrns.types import Batch, Negatives, OwnNegatives, Views

_LOG_MASKED = math.log(1e-38)
"""What the authors' code adds to the logit of a true or already drawn candidate."""


@dataclass(frozen=True)
class Trace:
    """What a draw leaves behind.

    Attributes:
        pool: Int[P].
        true: Bool[B P], the candidates that are true in train.
        logits: Float[B P] of the first draw.
        positions: Int[B K], the columns drawn.
        similarities: Float[T B P], by term.
    """

    pool: Int[Tensor, " P"]
    true: Bool[Tensor, "B P"]
    logits: Float[Tensor, "B P"]
    positions: Int[Tensor, "B K"]
    similarities: Float[Tensor, "T B P"]


class MmrnsPublished(Sampler, name="mmrns-published"):
    """The sampler of Xu et al., "Relation-enhanced Negative Sampling for Multimodal Knowledge Graph Completion" (ACM MM
    2022), in the arithmetic of the authors' code, peculiarities included (docs/mmrns.md lists them).

    A step has a pool of P entities, uniform without replacement. Negatives are drawn from it that look like the row's
    true entity x, as the relation sees them:

        q(e) = sum_m softmax_e( sim_m(e) / tau ),   tau = temperature / (1 + ln(step + 1))

    sim_m is the cosine of x and e in modality m (`KnowledgeGuidedAttention`), and of their structural vectors
    (`EntityGate`). Each of the K draws has a Gumbel noise of its own, and a straight-through gradient. What is true in
    train, or drawn already, is masked by ln 1e-38. Negatives have no importance weights. The loss has a contrastive
    term for each m over the whole batch,

        -ln [ sum_true e^sim / sum_other e^sim ] / (number of terms * loss_rate)

    with the drawn candidates weighed by their self-adversarial weight. Gradients reach the model's vectors.

    Cost of a draw: the attention over R x P pairs with gradients in every step, and K tensors of B x P.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives: K, at most P.
        pool: P, at most every entity.
        modalities: one or two names; by default all that the dataset has, which must be no more than two.
        temperature: tau at step 0.
        loss_rate: divisor of the contrastive terms; 0 leaves them out.
        width: a, width of the attention.
        gate_width: hidden units of the entity gate.
        memory_mb: bound on what the similarities of a step hold, in MiB.
        alpha: inverse temperature of the objective's self-adversarial weights.

    Raises:
        UsageError: more than two modalities.
    """

    undivided = "its gradient is that of the vectors of the negatives, which do not move"

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 20,
        pool: PositiveInt = 1500,
        modalities: list[str] | None = None,
        temperature: PositiveFloat = 10.0,
        loss_rate: NonNegativeFloat = 100.0,
        width: PositiveInt = 50,
        gate_width: PositiveInt = 100,
        memory_mb: NonNegativeInt = 1024,
        alpha: float = 1.0,
    ):
        size = min(pool, len(graph.entities))
        super().__init__(graph, features, spec, seed=seed, negatives=min(negatives, size))
        self.pool_size, self.alpha = size, alpha
        self.temperature, self.loss_rate = temperature, loss_rate
        self.similarity = PublishedSimilarity(
            {name: features[name] for name in chosen_modalities(features, modalities)},
            spec,
            width=width,
            gate_width=gate_width,
            memory_mb=memory_mb,
        )

    def pool(self, step: int) -> Int[Tensor, " P"]:
        """The pool of a step: P distinct ids, ascending."""
        return distinct(self.seed, "pool", step, n=self.n_entities, size=self.pool_size)

    def noise(self, shape: torch.Size, step: int, device: torch.device) -> Float[Tensor, "K B P"]:
        """The Gumbel noise of a step's K draws, each from a stream of its own."""
        noise = torch.empty(self.negatives, *shape, device=device)
        for draw, of_draw in enumerate(noise):
            of_draw.uniform_(generator=self.stream(step, "gumbel", draw, device=device))
        return gumbel_(noise)

    def draw(self, lookup: Lookup, model: Model, step: int) -> Negatives:
        batch = lookup.batch
        pool = self.pool(step).to(batch.h.device, non_blocking=True)
        true = true_in_pool(self.index, batch, pool)
        candidates = model.entities(pool)
        similarities = self.similarity(lookup, pool, structure(candidates), model)
        mixture = log_mixture(similarities, self.temperature / (1 + math.log(step + 1)))
        first = mixture + true * _LOG_MASKED
        perturbed = self.noise(first.shape, step, first.device).to(first.dtype).add_(first.detach())
        drawn = without_replacement(perturbed)
        own = candidates.vectors.flatten(1)
        vectors = straight_through(first, perturbed, own, embedding(drawn, own))
        traits = None if candidates.traits is None else candidates.traits[drawn]
        views = Views(vectors.unflatten(-1, candidates.vectors.shape[1:]), candidates.present[drawn], traits)
        return OwnNegatives(pool[drawn], views, trace=Trace(pool, true, first, drawn, similarities))

    def loss(
        self,
        lookup: Lookup,
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
        # Draws that do not count, as those that a file's negatives have replaced, weigh as if they were not drawn.
        p = adversarial_weights(s_neg, self.alpha, negatives.mask)
        if negatives.mask is not None:
            p = torch.where(negatives.mask, p, 1.0)
        weight = torch.ones_like(trace.logits).scatter_(1, trace.positions, p)
        values = trace.similarities
        return contrastive(values, trace.true, weight).sum() / (len(values) * self.loss_rate)

    def proposal(self, batch: Batch, negatives: Negatives, rows: Int[Tensor, " n"]) -> Float[Tensor, "n E"]:
        """The mixture of softmaxes over the pool of the step."""
        trace: Trace = negatives.trace
        q = torch.softmax(trace.logits[rows].detach(), dim=1)
        return scattered(trace.pool.expand(len(rows), -1), q, self.n_entities)

    @torch.no_grad()
    def evidence(self, batch: Batch, ids: Int[Tensor, " n"], model: Model) -> Evidence:
        """Similarities in every term and the attention maps."""
        return self.similarity.evidence(batch, ids, model)

    def notes(self, batch: Batch) -> list[str]:
        return self.similarity.notes(batch, self.pool_size)

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.similarity.modalities)


def without_replacement(perturbed: Float[Tensor, "K B P"]) -> Int[Tensor, "B K"]:
    """Of each draw in turn where its perturbed logits are largest; the later ones are masked there, in place."""
    positions: list[Tensor] = []
    masked = perturbed.new_full((1, 1, 1), _LOG_MASKED).expand(len(perturbed), perturbed.shape[1], 1)
    for draw, of_draw in enumerate(perturbed, 1):
        positions.append(of_draw.argmax(dim=1, keepdim=True))
        later = perturbed[draw:]
        later.scatter_add_(2, positions[-1].expand(len(later), -1, 1), masked)
    return torch.cat(positions, dim=1)


def log_mixture(similarities: Float[Tensor, "T B P"], tau: float) -> Float[Tensor, "B P"]:
    """`ln sum_m softmax_e(sim_m / tau)`."""
    return torch.log_softmax(similarities / tau, dim=2).logsumexp(0)


def chosen_modalities(features: Features, names: Sequence[str] | None) -> list[str]:
    """The modalities that the attention is to read.

    Raises:
        UsageError: more than two.
    """
    chosen = sorted(features) if names is None else list(names)
    if len(chosen) > 2:
        known = ", ".join(features)
        raise UsageError(
            f"mmrns-published reads at most two modalities; choose with sampler.modalities among: {known}; or use the "
            "method mmrns, which reads any number"
        )
    return chosen
