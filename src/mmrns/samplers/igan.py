"""IGAN: a network draws among all entities and is rewarded for negatives that score high."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import nn

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.embedders import Table
from mmrns.nn.model import Model, ModelSpec
from mmrns.rng import generator
from mmrns.samplers.base import Rewarded
from mmrns.types import Batch, Negatives


class Igan(Rewarded):
    """x- from a softmax over all entities, by a network that reads the anchor and the relation.

        q(. | anchor, r) = softmax( W3 relu( W2 relu( W1 [a ; r] + b1 ) + b2 ) + b3 )

    trained by REINFORCE: a draw's reward is its score under the step's model. Draws are with replacement.

    Wang, Li and Pan, "Incorporating GAN for Negative Sampling in Knowledge Representation Learning", AAAI 2018. There
    is no public code, and the paper leaves open what is chosen here: the network has its own vectors of entities, and
    of relations one for each side; K draws of one softmax; a moving average as baseline; what is true in train is not
    drawn. The regime is the paper's GAN-scratch. A step costs 3 products B x E x `dim` and holds some tensors of B x E.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives: K, draws per row.
        dim: of the network's vectors and hidden layers.
        filtered: leave out what is true in train; otherwise any entity may be drawn.
    """

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
    ):
        super().__init__(graph, features, spec, seed=seed)
        self.negatives, self.filtered, self.index = negatives, filtered, graph.train_index
        self.n_relations = len(graph.relations)
        self.entity = Table(len(graph.entities), dim, dim**-0.5)
        self.relation = Table(2 * self.n_relations, dim, dim**-0.5)
        self.hidden = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.out = nn.Linear(dim, len(graph.entities))

    def draw(self, batch: Batch, model: Model, step: int) -> Negatives:
        device = batch.h.device
        relation = batch.r + self.n_relations * batch.head
        logits = self.out(self.hidden(torch.cat([self.entity(batch.anchor), self.relation(relation)], dim=1)))
        some = torch.ones(len(batch), dtype=torch.bool, device=device)
        if self.filtered:
            self.index = self.index.to(device)
            true = torch.zeros_like(logits, dtype=torch.bool)
            true[self.index.batch_targets(batch, batch.n_true)] = True
            some = ~true.all(1)
            # Finite, so that a row for which everything is true has a gradient: 0.
            logits = logits.masked_fill(true & some[:, None], torch.finfo(logits.dtype).min)
        logq = torch.log_softmax(logits, dim=1)
        q = logq.detach().exp()
        stream = generator(self.seed, "igan", step, device=device)
        ids = torch.multinomial(q, self.negatives, replacement=True, generator=stream)
        return Negatives(ids=ids, mask=some[:, None].expand_as(ids), trace=(logq.gather(1, ids), q))
