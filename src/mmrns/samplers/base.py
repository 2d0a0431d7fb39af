"""The protocol that every sampler follows.

To add a sampler, write one file `mmrns/samplers/NAME.py` with one subclass of `Sampler` that has a `name`, and one
test. The smallest sampler defines `propose`. The keyword arguments of its constructor are its options (`--set
sampler.OPTION=value`), checked against their annotations.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.data.index import DomainRangeIndex, TripleIndex
from mmrns.errors import UsageError
from mmrns.nn.embedders import STRUCTURE
from mmrns.nn.lookup import Lookup
from mmrns.nn.model import Model, ModelSpec
from mmrns.registry import Named, Registry
from mmrns.rng import generator, random_bits
from mmrns.samplers.explanation import Explanation
from mmrns.samplers.reinforce import Reinforce
from mmrns.types import Batch, Negatives, OwnNegatives, PoolNegatives, SidePolicy

_Sampler = TypeVar("_Sampler", bound="Sampler")


@dataclass(frozen=True)
class Recipe:
    """What a sampler is trained with unless something else is asked for: the rest of the method that has its name.

    Attributes:
        alpha: inverse temperature of the loss's self-adversarial weights; 0 is the plain mean over the negatives.
        sides: the side policy.
        loss: name of the loss.
        queries: batches hold every distinct query once instead of every triple.
    """

    alpha: float = 1.0
    sides: SidePolicy = "alternate"
    loss: str = "self-adversarial"
    queries: bool = False


class Sampler(Named, Explanation, nn.Module, ABC):
    """Draws negatives x- ~ q_phi( . | anchor, r, step) for the rows of a batch.

    A sampler never stores the model and may read `graph.train`, `graph.train_index` and `graph.domain_range` only. Its
    parameters and buffers are trained and stored with the model's. Its random numbers are functions of (seed, step).

    Args:
        graph: the knowledge graph.
        features: the modalities.
        spec: widths of the model's vectors.
        seed: of every draw.
        negatives: K, negatives of each row.

    Attributes:
        index: what is true in train, on the sampler's device.
        n_entities, n_relations: sizes of the vocabularies.
    """

    registry: ClassVar[Registry[Sampler]] = Registry("sampler", "mmrns.samplers")

    recipe: ClassVar[Recipe] = Recipe()
    """What the method of the sampler's name consists of beside it."""

    every: ClassVar[bool] = False
    """True where the negatives are all entities (`AllNegatives`)."""

    asks_each_view: ClassVar[bool] = False
    """True where the sampler asks each view of the model by itself: the mixture must have a query for each."""

    needs_modalities: ClassVar[bool] = False
    """True where negatives may keep the true entity's structure (`OwnNegatives.kept`): the model has to have that view
    and others."""

    undivided: ClassVar[str] = "it does not say that a part of the scores is enough for it (Sampler.undivided)"
    """Why it cannot draw where several processes have some of the entities each; "" where it can. A subclass has to say
    so itself: that `draw` takes scores and vectors of the model by `score_against` and `entities` alone, and that
    `loss` does not read `s_neg`, of which a process has its own part."""

    alike: ClassVar[bool] = False
    """True where every step does the same with tensors of the same shapes: `draw` and `loss` ask the host for nothing
    but what `prepare` gives, and keep nothing but what buffers hold. A subclass has to say so itself."""

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 64,
    ):
        super().__init__()
        self.seed, self.negatives = seed, negatives
        self.n_entities, self.n_relations = len(graph.entities), len(graph.relations)
        self.index: TripleIndex = graph.train_index

    def __repr__(self) -> str:
        parameters = sum(p.numel() for p in self.parameters())
        return f"{type(self).__name__}(K={self.negatives}, {parameters:,} parameters)"

    def _apply(self: _Sampler, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Sampler:
        """Where the sampler goes its indexes go too. Those of the graph stay where they are."""
        super()._apply(fn, recurse)
        self.forget()
        device = fn(torch.empty(0)).device
        for name, value in list(vars(self).items()):
            if isinstance(value, TripleIndex | DomainRangeIndex):
                setattr(self, name, value.to(device))
        return self

    @classmethod
    def refuse_unfit(cls, model: Model) -> None:
        """See whether the sampler can draw for a model.

        Raises:
            UsageError: it needs modalities, and the model reads none beside its structure; or it asks each view by
                itself, and the model's mixture makes one query of all.
        """
        if cls.asks_each_view and model.mixture is not None and not model.mixture.asks_each_view:
            name, mixture = cls.registry.name_of(cls), type(model.mixture).registry.name_of(type(model.mixture))
            raise UsageError(
                f"the sampler {name} asks each view by itself, and the mixture {mixture} makes one question of all; "
                "use model.mixture=gated or residual, or take another sampler"
            )
        if cls.needs_modalities and (STRUCTURE not in model.views or len(model.views) == 1):
            raise UsageError(
                f"the sampler {cls.registry.name_of(cls)} replaces an entity's modalities beside its structure, and "
                f"the views of the model are {', '.join(model.views)}; give it modalities of the dataset, as "
                "model.modalities=[image,text], or take another sampler"
            )

    def forget(self) -> None:
        """Drop what is kept from step to step only to save time, since it may lie elsewhere now. By default nothing."""

    def kind(self, step: int) -> Hashable | None:
        """What a step has in common with those that do the same, so that one of them is recorded and replayed for all.

        None where a step has to be taken as it is. By default all are of one kind if they are `alike`.
        """
        return "any" if vars(type(self)).get("alike", False) else None

    def prepare(self, batch: Batch, model: Model, step: int) -> Any:
        """What a step that is recorded finds in `batch.given`: what `draw` would otherwise ask the host for, or make in
        a shape that is not that of every step. Tensors, in tuples and frozen dataclasses. By default None.
        """
        return None

    def propose(self, batch: Batch, step: int) -> Int[Tensor, "B K"] | Int[Tensor, " P"]:
        """Entities to be negatives: K for each row, or one list for all rows. What is true in train may be among them.

        All that a sampler has to define if its draws depend neither on the model nor on anything that has to be
        handed on; `draw` then leaves out what is true.
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither `propose` nor `draw`")

    def draw_blind(self, batch: Batch, step: int) -> OwnNegatives | PoolNegatives:
        """The same where a sampler leaves out what is true by itself, or weighs: negatives that the model has no part
        in, which can be drawn before the model is ready for the step.
        """
        ids = self.propose(batch, step)
        mask = ~self.index.batch_contains(batch, ids)
        return OwnNegatives(ids, mask=mask) if ids.ndim == 2 else PoolNegatives(ids, mask=mask)

    def draw(self, lookup: Lookup, model: Model, step: int) -> Negatives:
        """Negatives for each row of the batch.

        Args:
            lookup: the batch and the model's vectors of it.
            model: to score candidates with, by `model.score_against` and `model.compare`.
            step: from 0.
        """
        return self.draw_blind(lookup.batch, step)

    def foretold(self, batch: Batch, step: int) -> Int[Tensor, " n"] | None:
        """The entities that the draw of a step looks at, its negatives among them, where they are known before it.

        None where only the draw tells. By default the negatives of those who draw blindly.

        Args:
            batch: of that step.
            step: from 0.
        """
        return self.draw_blind(batch, step).ids.flatten() if type(self).draw is Sampler.draw else None

    def loss(
        self,
        lookup: Lookup,
        negatives: Negatives,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        model: Model,
        step: int,
    ) -> Float[Tensor, ""] | float:
        """The sampler's own term of the loss, a mean over rows. By default 0.

        Where every entity is a negative it may be asked for some of the rows at a time, and twice.
        """
        return 0.0

    @property
    def has_loss(self) -> bool:
        """Whether `loss` is its own: otherwise nobody has to mix the scores for it."""
        return getattr(self.loss, "__func__", None) is not Sampler.loss

    def foresee(self, batches: Callable[[int], Batch]) -> None:
        """Called once by whoever trains the sampler, with the training's batches by step, on the host.

        A sampler may draw for several steps at once then. The batch of a step has its number (`Batch.step`); others are
        asked for too. By default nothing.
        """

    def pretrain(self, batches: Callable[[int], Batch]) -> None:
        """Called once before the first step with the training's batches by step. By default nothing."""

    def end_epoch(self, epoch: int) -> None:
        """Called after the last step of each epoch (from 0). By default nothing."""

    def stream(self, step: int, *purpose: int | str, device: torch.device | str) -> torch.Generator:
        """The random stream of a step, one for each purpose."""
        return generator(self.seed, *purpose[:1], step, *purpose[1:], device=device)

    def uniform(self, step: int, *purpose: int | str, rows: int, device: torch.device | str) -> Float[Tensor, "B K"]:
        """K numbers for each row, uniform on [0, 1), float32."""
        stream = self.stream(step, *purpose, device=device)
        return torch.rand(rows, self.negatives, generator=stream, device=device)

    def random_bits(self, step: int, *purpose: int | str, rows: int, device: torch.device | str) -> Int[Tensor, "B K"]:
        """K numbers for each row of `mmrns.rng.random_bits`: what exact draws with replacement are made from."""
        stream = self.stream(step, *purpose, device=device)
        return random_bits(rows, self.negatives, stream=stream, device=device)

    def absent(self, batch: Batch, rows: Int[Tensor, " n"]) -> Bool[Tensor, "n E"]:
        """Which entities are not true in train for some rows of a batch."""
        every = torch.arange(self.n_entities, device=batch.h.device).expand(len(rows), -1)
        head = batch.head[rows, None]
        h, t = torch.where(head, every, batch.h[rows, None]), torch.where(head, batch.t[rows, None], every)
        return ~self.index.contains(h, batch.r[rows, None].expand_as(h), t)


Inner = Callable[..., Sampler]
"""Builds the sampler inside another one, which calls it with `negatives`: how many a row it is to draw.

A keyword of a constructor that is annotated so (or so or None) is a section of the configuration: the inner sampler's
`name` and its options.
"""


class Rewarded(Sampler):
    """A sampler trained by REINFORCE: the reward of a draw is its score under the step's model.

    `draw` leaves `(ln q of the draws, q of all candidates)` as the trace, the former with a gradient. It leaves nothing
    where the draw is not its own but uniform.

    Args:
        graph, features, spec, seed, negatives: see `Sampler`.
    """

    undivided = "its reward is the score of each negative, of which a process has only its own"

    def __init__(
        self, graph: KnowledgeGraph, features: Features, spec: ModelSpec, *, seed: int = 0, negatives: PositiveInt = 64
    ):
        super().__init__(graph, features, spec, seed=seed, negatives=negatives)
        self.reinforce = Reinforce()

    def loss(
        self,
        lookup: Lookup,
        negatives: Negatives,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        model: Model,
        step: int,
    ) -> Float[Tensor, ""] | float:
        """The policy gradient of the draws. It reaches nothing of the model."""
        if negatives.trace is None:
            return 0.0
        return self.reinforce(negatives.trace[0], s_neg, negatives.mask)


def even(weights: Float[Tensor, "n E"] | Bool[Tensor, "n E"]) -> Float[Tensor, "n E"]:
    """Weights scaled to sums of 1; rows without any stay 0."""
    weights = weights.float()
    return weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


def scattered(entities: Int[Tensor, "n C"], q: Float[Tensor, "n C"], n_entities: int) -> Float[Tensor, "n E"]:
    """Probabilities of candidates as those of entities; one that is a candidate twice counts twice."""
    return torch.zeros(len(q), n_entities, dtype=q.dtype, device=q.device).scatter_add_(1, entities, q)
