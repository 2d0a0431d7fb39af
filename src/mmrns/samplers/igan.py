"""IGAN: a network draws among all entities and is rewarded for negatives that score high."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from jaxtyping import Bool, Float, Int
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.embedders import Table
from mmrns.nn.lookup import Lookup
from mmrns.nn.model import Model, ModelSpec
from mmrns.nn.numerics import full, masked
from mmrns.rng import below
from mmrns.samplers.base import Recipe, Rewarded, even
from mmrns.types import Batch, Negatives, OwnNegatives


class Igan(Rewarded, name="igan"):
    """x- from a softmax over all entities, by a network that reads the anchor and the relation.

        q(. | anchor, r) = softmax( W3 relu( W2 relu( W1 [a ; r] + b1 ) + b2 ) + b3 )

    trained by REINFORCE: a draw's reward is its score under the step's model. Draws are with replacement.

    Wang, Li and Pan, "Incorporating GAN for Negative Sampling in Knowledge Representation Learning", AAAI 2018. There
    is no public code, and the paper leaves open what is chosen here: the network has its own vectors of entities, and
    of relations one for each side; K draws of one softmax; a moving average as baseline; what is true in train is not
    drawn.

    The regime is the paper's GAN-scratch, or with `pretrain` its GAN-pretrain: the first steps of the training draw
    uniformly, and the network, which learns nothing in them, takes over from there.

    Cost of a draw: B x E logits with gradients, in 3 products B x E x `dim`.

    Args:
        graph, features, spec, seed, negatives: see `Sampler`.
        dim: of the network's vectors and hidden layers.
        filtered: leave out what is true in train; otherwise any entity may be drawn.
        pretrain: steps of the training that draw uniformly before the network does.
    """

    recipe = Recipe(alpha=0.0, sides="bernoulli")

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 64,
        dim: PositiveInt = 100,
        filtered: bool = True,
        pretrain: NonNegativeInt = 0,
    ):
        super().__init__(graph, features, spec, seed=seed, negatives=negatives)
        self.filtered, self.pretrain_steps = filtered, pretrain
        self.entity = Table(len(graph.entities), dim, dim**-0.5)
        self.relation = Table(2 * self.n_relations, dim, dim**-0.5)
        self.hidden = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.out = nn.Linear(dim, len(graph.entities))

    def draw(self, lookup: Lookup, model: Model, step: int) -> Negatives:
        batch = lookup.batch
        if step < self.pretrain_steps:
            return self._uniform(batch, step)
        device = batch.h.device
        relation = batch.r + self.n_relations * batch.head
        logits = full(self.out(self.hidden(torch.cat([self.entity(batch.anchor), self.relation(relation)], dim=1))))
        some = torch.ones(len(batch), dtype=torch.bool, device=device)
        if self.filtered:
            true = self._true(batch) if batch.given is None else batch.given
            some = ~true.all(1)
            # Finite, so that a row for which everything is true has a gradient: 0.
            logits = masked(logits, ~(true & some[:, None]))
        logq = torch.log_softmax(logits, dim=1)
        q = logq.detach().exp()
        stream = self.stream(step, "igan", device=device)
        ids = torch.multinomial(q, self.negatives, replacement=True, generator=stream)
        return OwnNegatives(ids, mask=some[:, None].expand_as(ids), trace=(logq.gather(1, ids), q))

    def kind(self, step: int) -> Hashable:
        """Steps before and after the uniform draws end."""
        return step < self.pretrain_steps

    def prepare(self, batch: Batch, model: Model, step: int) -> Bool[Tensor, "B E"] | None:
        """What is true: each batch has another number of true answers."""
        return self._true(batch) if self.filtered and step >= self.pretrain_steps else None

    def _true(self, batch: Batch) -> Bool[Tensor, "B E"]:
        return self.index.batch_mask(batch, batch.n_true)

    def _uniform(self, batch: Batch, step: int) -> Negatives:
        device = batch.h.device
        bits = self.random_bits(step, "igan pretrain", rows=len(batch), device=device)
        if not self.filtered:
            return OwnNegatives(below(bits, self.n_entities))
        ids, free = self.index.batch_absent(batch, bits)
        return OwnNegatives(ids, mask=(free > 0)[:, None].expand_as(ids))

    def proposal(self, batch: Batch, negatives: Negatives, rows: Int[Tensor, " n"]) -> Float[Tensor, "n E"]:
        """The network's softmax, or that of the uniform draws that come before."""
        if negatives.trace is not None:
            return negatives.trace[1][rows]
        absent = self.absent(batch, rows)
        return even(absent if self.filtered else torch.ones_like(absent))
