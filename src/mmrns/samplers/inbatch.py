"""The other rows' true entities as negatives."""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.model import Model, ModelSpec
from mmrns.rng import generator
from mmrns.samplers.base import Sampler
from mmrns.types import Batch, Negatives


class InBatch(Sampler):
    """The targets of K rows of the batch, one list for all, but for a row's own and those true in train for it.

    Their vectors are those that the step reads anyway. The law of the draw is how often an entity is a target: in
    proportion to c(e), its triples in train on the side that the batch replaces. (A batch of both sides has Bernoulli
    sides: a triple then counts with the probability that its coin gives it to the side.) Entities that never fill the
    side are never drawn.

    As they come, frequent entities would be negatives as often as they are positives, so that the scores learn f(x) -
    ln c(x) in the place of f(x) and rank what is rare too high. With `corrected`, `logp` is ln q(x) of the law, and the
    weights of the loss estimate those over all entities that fill the side: the logQ correction of sampled softmax
    (Bengio and Senecal, 2008; for batches Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
    Recommendations", RecSys 2019). Frequencies are counted and not estimated from the stream, since train is finite.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives: K, rows whose targets are taken; all of a batch that has no more.
        corrected: divide the weights of the loss by the law of the draw.
    """

    frequency: Tensor
    size: Tensor

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 64,
        corrected: bool = True,
    ):
        super().__init__(graph, features, spec, seed=seed)
        self.negatives, self.corrected, self.index = negatives, corrected, graph.train_index
        h, r, t = graph.train.unbind(1)
        n, coin = len(graph.entities), graph.head_probability.double()[r]
        laws = [
            torch.bincount(t, minlength=n).double(),
            torch.bincount(h, minlength=n).double(),
            torch.bincount(t, 1 - coin, n) + torch.bincount(h, coin, n),
        ]
        # Of batches that replace tails, heads, and both.
        self.register_buffer("frequency", torch.stack(laws).div_(len(h)).float(), persistent=False)
        self.register_buffer("size", 1 / (n * self.frequency.square().sum(1)), persistent=False)

    def draw(self, batch: Batch, model: Model, step: int) -> Negatives:
        device = batch.h.device
        self.index = self.index.to(device)
        stream = generator(self.seed, "inbatch", step, device=device)
        target = batch.target
        rows = torch.randperm(len(batch), generator=stream, device=device)[: self.negatives]
        # Ascending, which makes the searches for the true ones cheaper.
        ids = target[rows].sort().values
        side = 2 if 0 < batch.n_tail < len(batch) else int(batch.n_tail == 0)
        mask = ~(self.index.batch_contains(batch, ids) | (ids == target[:, None]))
        logp = self.frequency[side][ids].log().expand(mask.shape) if self.corrected else None
        return Negatives(ids=ids, mask=mask, logp=logp, trace=self.size[side])

    def effective_sample_size(self, negatives: Negatives) -> Float[Tensor, " B"]:
        """Of the law of the draw over all entities."""
        assert negatives.mask is not None
        return negatives.trace.expand(len(negatives.mask))
