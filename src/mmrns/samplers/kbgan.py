"""KBGAN: a second model draws the negatives and is rewarded for those that score high."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.model import Model, ModelSpec
from mmrns.registry import scorer_class
from mmrns.rng import generator as stream_of
from mmrns.samplers.base import Rewarded
from mmrns.types import Batch, Negatives

if TYPE_CHECKING:
    from mmrns.training.trainer import Trainer


class Kbgan(Rewarded):
    """x- from softmax( g(anchor, r, c) / temperature ) over C uniform candidates c, by a generator g of its own.

    The generator, a model with its own scorer and tables, is trained by REINFORCE: a draw's reward is its score under
    the step's model. Draws are with replacement, K of them where the paper draws one. Before the first step the
    generator is trained with the cross-entropy of the true entity among the candidates.

    Cai and Wang, "KBGAN: Adversarial Learning for Knowledge Graph Embeddings", NAACL 2018, algorithm 1. Other than in
    the authors' code candidates are filtered, the baseline is a moving average and not the last epoch's mean (0 in the
    first), and the model that is trained is not trained beforehand.

    Args:
        graph, features, spec, seed: see `Sampler`.
        negatives: K, draws per row.
        candidates: C.
        generator: its scorer.
        dim: of its vectors.
        temperature: of its softmax.
        pretrain: steps of the generator before the first of the training.
        pretrain_lr: their learning rate (Adam).
    """

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
        super().__init__(graph, features, spec, seed=seed)
        self.negatives, self.temperature = negatives, temperature
        self.pretrain_steps, self.pretrain_lr = pretrain, pretrain_lr
        self.n_candidates, self.index = candidates, graph.train_index
        scorer = scorer_class(generator)(dim, dim**-0.5)
        self.generator = Model(scorer, len(graph.entities), len(graph.relations))

    def candidates(self, batch: Batch, step: int) -> Negatives:
        """What the generator chooses among: uniform over what is not true in train."""
        device = batch.h.device
        self.index = self.index.to(device)
        stream = stream_of(self.seed, "kbgan candidates", step, device=device)
        u = torch.rand(len(batch), self.n_candidates, dtype=torch.float64, generator=stream, device=device)
        ids, free = self.index.batch_absent(batch, u)
        return Negatives(ids=ids, mask=(free > 0)[:, None].expand_as(ids))

    def draw(self, batch: Batch, model: Model, step: int) -> Negatives:
        candidates = self.candidates(batch, step)
        assert candidates.ids is not None
        assert candidates.mask is not None
        logq = torch.log_softmax(self.generator.score_against(batch, candidates) / self.temperature, dim=1)
        q = logq.detach().exp()
        stream = stream_of(self.seed, "kbgan", step, device=q.device)
        position = torch.multinomial(q, self.negatives, replacement=True, generator=stream)
        return Negatives(
            ids=candidates.ids.gather(1, position),
            mask=candidates.mask[:, :1].expand_as(position),
            trace=(logq.gather(1, position), q, candidates.ids),
        )

    def law(self, batch: Batch, negatives: Negatives, rows: slice) -> Float[Tensor, "n E"]:
        """The generator's softmax over the candidates of the step; one that is a candidate twice counts twice."""
        _, q, candidates = negatives.trace
        found = torch.zeros(rows.stop - rows.start, self.index.n_entities, device=q.device)
        return found.scatter_add_(1, candidates[rows], q[rows])

    def pretrain(self, trainer: Trainer) -> None:
        """Train the generator on the batches of the first steps, with candidates of their own."""
        optimizer = torch.optim.Adam(self.generator.parameters(), self.pretrain_lr)
        for step in range(self.pretrain_steps):
            batch = trainer.batches.at(step).to(trainer.device)
            # Steps below 0: other candidates than those of the training.
            candidates = self.candidates(batch, -1 - step)
            with self.generator.reading(batch):
                true = self.generator.score(batch)
                others = self.generator.score_against(batch, candidates).logsumexp(1)
            optimizer.zero_grad()
            (torch.logaddexp(true, others) - true).mean().backward()
            optimizer.step()
        self.generator.zero_grad()
