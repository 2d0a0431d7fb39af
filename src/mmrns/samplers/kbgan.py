"""KBGAN: a second model draws the negatives and is rewarded for those that score high."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.lookup import Lookup
from mmrns.nn.model import Model, ModelSpec
from mmrns.nn.scorers import Scorer
from mmrns.rng import random_bits
from mmrns.samplers.base import Recipe, Rewarded, scattered
from mmrns.types import Batch, Negatives, OwnNegatives


class Kbgan(Rewarded, name="kbgan"):
    """x- from softmax( g(anchor, r, c) / temperature ) over C uniform candidates c, by a generator g of its own.

    The generator, a model with its own scorer and tables, is trained by REINFORCE: a draw's reward is its score under
    the step's model. Draws are with replacement, K of them where the paper draws one. Before the first step the
    generator is trained with the cross-entropy of the true entity among the candidates.

    Cai and Wang, "KBGAN: Adversarial Learning for Knowledge Graph Embeddings", NAACL 2018, algorithm 1. Other than in
    the authors' code candidates are filtered, the baseline is a moving average and not the last epoch's mean (0 in the
    first), and the model that is trained is not trained beforehand.

    Cost of a draw: B C scores of the generator, with gradients.

    Args:
        graph, features, spec, seed, negatives: see `Sampler`.
        candidates: C, uniform entities of each row that the generator chooses among.
        generator: the scorer of the generator.
        dim: of the generator's vectors.
        temperature: of the generator's softmax.
        pretrain: steps of the generator before the first of the training.
        pretrain_lr: their learning rate (Adam).
    """

    recipe = Recipe(alpha=0.0, sides="bernoulli")
    alike = True

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 64,
        candidates: PositiveInt = 256,
        generator: str = "DistMult",
        dim: PositiveInt = 50,
        temperature: PositiveFloat = 1.0,
        pretrain: NonNegativeInt = 500,
        pretrain_lr: PositiveFloat = 1e-2,
    ):
        super().__init__(graph, features, spec, seed=seed, negatives=negatives)
        self.temperature = temperature
        self.pretrain_steps, self.pretrain_lr = pretrain, pretrain_lr
        self.n_candidates = candidates
        scorer = Scorer.registry.get(generator)(dim, dim**-0.5)
        self.generator = Model(scorer, len(graph.entities), len(graph.relations))

    def candidates(self, batch: Batch, step: int) -> OwnNegatives:
        """What the generator chooses among: uniform over what is not true in train."""
        device = batch.h.device
        stream = self.stream(step, "kbgan candidates", device=device)
        bits = random_bits(len(batch), self.n_candidates, stream=stream, device=device)
        ids, free = self.index.batch_absent(batch, bits)
        return OwnNegatives(ids, mask=(free > 0)[:, None].expand_as(ids))

    def draw(self, lookup: Lookup, model: Model, step: int) -> Negatives:
        batch = lookup.batch
        candidates = self.candidates(batch, step)
        scores = self.generator.score_against(self.generator.lookup(batch), candidates)
        logq = torch.log_softmax(scores / self.temperature, dim=1)
        q = logq.detach().exp()
        position = torch.multinomial(
            q, self.negatives, replacement=True, generator=self.stream(step, "kbgan", device=q.device)
        )
        return OwnNegatives(
            candidates.ids.gather(1, position),
            mask=candidates.counts(len(batch))[:, :1].expand_as(position),
            trace=(logq.gather(1, position), q, candidates.ids),
        )

    def proposal(self, batch: Batch, negatives: Negatives, rows: Int[Tensor, " n"]) -> Float[Tensor, "n E"]:
        """The generator's softmax over the candidates of the step."""
        _, q, candidates = negatives.trace
        return scattered(candidates[rows], q[rows], self.n_entities)

    def pretrain(self, batches: Callable[[int], Batch]) -> None:
        """Train the generator on the batches of the first steps, with candidates of their own."""
        optimizer = torch.optim.Adam(self.generator.parameters(), self.pretrain_lr)
        for step in range(self.pretrain_steps):
            lookup = self.generator.lookup(batches(step))
            # Steps below 0: other candidates than those of the training.
            candidates = self.candidates(lookup.batch, -1 - step)
            true = self.generator.score(lookup)
            others = self.generator.score_against(lookup, candidates).logsumexp(1)
            optimizer.zero_grad()
            (torch.logaddexp(true, others) - true).mean().backward()
            optimizer.step()
        self.generator.zero_grad()
