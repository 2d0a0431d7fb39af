"""Every entity as a negative: 1-vs-all and K-vs-all training."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.lookup import Lookup
from mmrns.nn.model import Model, ModelSpec
from mmrns.samplers.base import Recipe, Sampler, even
from mmrns.types import AllNegatives, Batch, Negatives


class Every(Sampler, name="1-vs-all"):
    """Nothing is drawn: each row is compared with all entities that are not true in train for (anchor, r).

    Cost of a draw: none; the step has B x E scores with gradients, in one product for the bilinear scorers.

    Args:
        graph, features, spec, seed: see `Sampler`.
    """

    recipe = Recipe(alpha=0.0, loss="cross-entropy")
    every = True
    alike = True
    undivided = ""

    def __init__(self, graph: KnowledgeGraph, features: Features, spec: ModelSpec, *, seed: int = 0):
        super().__init__(graph, features, spec, seed=seed, negatives=len(graph.entities))

    def draw(self, lookup: Lookup, model: Model, step: int) -> Negatives:
        batch = lookup.batch
        mask = self._false(batch) if batch.given is None else batch.given
        return AllNegatives(self.n_entities, mask.device, mask=mask)

    def prepare(self, batch: Batch, model: Model, step: int) -> Bool[Tensor, "B E"]:
        """What is not true: each batch has another number of true answers."""
        return self._false(batch)

    def _false(self, batch: Batch) -> Bool[Tensor, "B E"]:
        return ~self.index.batch_mask(batch, batch.n_true)

    def proposal(self, batch: Batch, negatives: Negatives, rows: Int[Tensor, " n"]) -> Float[Tensor, "n E"]:
        """Uniform over what is compared with: nothing is drawn."""
        return even(self.absent(batch, rows))
