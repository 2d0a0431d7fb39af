"""The other rows' true entities as negatives."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.model import ModelSpec
from mmrns.samplers.base import Sampler, even
from mmrns.types import Batch, Negatives, PoolNegatives


class InBatch(Sampler, name="inbatch"):
    """The targets of K rows of the batch, one list for all, but for a row's own and those true in train for it.

    Their vectors are those that the step reads anyway. The proposal q is how often an entity is a target: in
    proportion to c(e), its triples in train on the side that the batch replaces. (A batch of both sides has Bernoulli
    sides: a triple then counts with the probability that its coin gives it to the side.) Entities that never fill the
    side are never drawn.

    As they come, frequent entities would be negatives as often as they are positives, so that the scores learn f(x) -
    ln c(x) in the place of f(x) and rank what is rare too high. With `corrected`, `log_weight` is -ln q(x), and the
    weights of the loss estimate those over all entities that fill the side: the logQ correction of sampled softmax
    (Bengio and Senecal, 2008; for batches Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
    Recommendations", RecSys 2019). Frequencies are counted and not estimated from the stream, since train is finite.

    Cost of a draw: B K searches of the train index.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives: K, rows whose targets are taken; all of a batch that has no more.
        corrected: divide the weights of the loss by the proposal.
    """

    alike = True
    undivided = ""

    frequency: Tensor

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
        super().__init__(graph, features, spec, seed=seed, negatives=negatives)
        self.corrected = corrected
        h, r, t = graph.train.unbind(1)
        n, coin = len(graph.entities), graph.head_probability.double()[r]
        proposals = [
            torch.bincount(t, minlength=n).double(),
            torch.bincount(h, minlength=n).double(),
            torch.bincount(t, 1 - coin, n) + torch.bincount(h, coin, n),
        ]
        # Of batches that replace tails, heads, and both.
        self.register_buffer("frequency", torch.stack(proposals).div_(len(h)).float(), persistent=False)

    def draw_blind(self, batch: Batch, step: int) -> PoolNegatives:
        device = batch.h.device
        stream = self.stream(step, "inbatch", device=device)
        target = batch.target
        rows = torch.randperm(len(batch), generator=stream, device=device)[: self.negatives]
        # Ascending, which makes the searches for the true ones cheaper.
        ids = target[rows].sort().values
        both = batch.mixed is not None or 0 < batch.n_tail < len(batch)
        side = 2 if both else int(batch.n_tail == 0)
        mask = ~(self.index.batch_contains(batch, ids) | (ids == target[:, None]))
        weight = -self.frequency[side][ids].log().expand(mask.shape) if self.corrected else None
        return PoolNegatives(ids, mask=mask, log_weight=weight)

    def proposal(self, batch: Batch, negatives: Negatives, rows: Int[Tensor, " n"]) -> Float[Tensor, "n E"]:
        """How often each entity is a target of the batch, but for the row's own and those true in train."""
        target = batch.target
        times = torch.bincount(target, minlength=self.n_entities).float() * self.absent(batch, rows)
        return even(times.scatter(1, target[rows, None], 0.0))
