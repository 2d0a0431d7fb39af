"""What every embedder is: ids of entities in, their views out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.errors import UsageError
from mmrns.nn.lookup import Lookup, Query, Scores
from mmrns.nn.losses import Loss
from mmrns.nn.scorers import Scorer
from mmrns.registry import Named, Registry
from mmrns.types import Negatives, Views

STRUCTURE = "structure"
"""The view that is the entity's own trained vector."""

_PART: ContextVar[Int[Tensor, " n"] | None] = ContextVar("part", default=None)


@contextmanager
def part_of_entities(ids: Int[Tensor, " n"]) -> Generator[None]:
    """Inside, what is made for all entities is made for these only, with the numbers that it has for them among all."""
    before = _PART.set(ids)
    try:
        yield
    finally:
        _PART.reset(before)


def entities_at_hand() -> Int[Tensor, " n"] | None:
    """The entities that what is made here is for; None = all. See `part_of_entities`."""
    return _PART.get()


class Embedder(Named, nn.Module, ABC):
    """Gives every entity a vector in each of V views.

    To add one: subclass it with a `name`, fill `views` and define `forward`. Its constructor is called with the graph,
    the features, and the keywords `width` (reals of a vector), `init_range` (vectors start about as long as those
    uniform on `[-init_range, init_range]`) and `sparse` (gradients of tables are to hold the rows of the step only:
    hand it on to each `EntityVectors`, `Table` or `nn.Embedding`).
    Further keywords are its options, settable as `model.OPTION`.

    Args:
        n_entities: E, how many entities there are.

    Attributes:
        views: the names of the views, in the order of their vectors.
        n_entities: how many of them it has: E, or n of a part.
        ids: Int[n], the entities of a part, which it is asked about by their places here; None of one that has all.
    """

    registry: ClassVar[Registry[Embedder]] = Registry("embedder", "mmrns.nn.embedders")

    views: tuple[str, ...] = (STRUCTURE,)

    scorer: ClassVar[type[Scorer]] = Scorer
    """The formulas that its vectors are for: any, or one where what stands where in a vector has a meaning."""

    has_traits: ClassVar[bool] = False
    """True where more than its vectors decides how an entity is scored (`Views.traits`)."""

    undivided: ClassVar[str] = "it does not say how it is parted (Embedder.part)"
    """Why several processes cannot have some of the entities each; "" where they can. A subclass says so itself."""

    ids: Tensor | None

    def __init__(self, n_entities: int):
        super().__init__()
        ids = entities_at_hand()
        self.n_entities = n_entities if ids is None else len(ids)
        self.register_buffer("ids", ids, persistent=False)

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the parameters whose rows are entities, of an embedder that can be parted."""
        return ()

    @classmethod
    def refuse_unfit(cls, scorer: Scorer) -> None:
        """Refuse a formula that its vectors are not for.

        Raises:
            UsageError: it is one.
        """
        if not isinstance(scorer, cls.scorer):
            own, wanted = (Scorer.registry.name_of(kind) for kind in (type(scorer), cls.scorer))
            name = Embedder.registry.name_of(cls)
            raise UsageError(
                f"model.embedder={name} gives vectors for {wanted}, not for {own}; use model.scorer={wanted}"
            )

    @abstractmethod
    def forward(self, ids: Int[Tensor, "*n"]) -> Views:
        """The entities' vectors, `[*n V width]`, and which views each of them has."""

    def all(self) -> Views:
        """The same of every entity, in the order of ids."""
        ids = torch.arange(self.n_entities, device=next(self.parameters()).device)
        if torch.is_grad_enabled():
            return self(ids)
        # In parts, so that the tokens of all entities are never in memory at once.
        return Views.concatenate([self(part) for part in ids.split(4096)])

    @classmethod
    def of_part(
        cls,
        ids: Int[Tensor, " n"],
        graph: KnowledgeGraph,
        features: Features,
        *,
        width: int,
        init_range: float,
        sparse: bool = False,
        **options: Any,
    ) -> Embedder:
        """What the constructor makes, of some of the entities only; see `part`.

        Args:
            ids: the entities.
            graph: of all entities.
            features: of these entities (`Features.part`).
            width, init_range, sparse, options: as the constructor has them.
        """
        made: Any = cls
        with part_of_entities(ids):
            return made(graph, features, width=width, init_range=init_range, sparse=sparse, **options)

    def part(self, ids: Int[Tensor, " n"]) -> Embedder:
        """One of some of the entities only, which are numbered anew, with the vectors that they have here."""
        raise NotImplementedError(f"{type(self).__name__} cannot be parted: {self.undivided}")

    @property
    def table(self) -> Float[Tensor, "E width"] | None:
        """The tensor whose rows are the vectors of the only view, where there is one that kernels may read."""
        return None

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the modalities that the vectors are made of; by default those of the views beside `structure`."""
        return tuple(view for view in self.views if view != STRUCTURE)

    def by_features(self, ids: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Whether each entity is known by a modality. By default: by a view beside `structure`."""
        views = [view for view, name in enumerate(self.views) if name != STRUCTURE]
        return self(ids).present[:, views].any(1)

    @property
    def relation_width(self) -> int:
        """Trained numbers of each relation that it takes, beside the relation's vectors; they start as these do.

        They stand last in what `anchor` and `under` are given.
        """
        return 0

    def anchor(self, views: Views, relation: Float[Tensor, "B relation_width"]) -> Views:
        """The views of anchors as the relation asked about sees them. By default the relation changes nothing."""
        return views

    def under(self, relation: Float[Tensor, "B relation_width"]) -> Float[Tensor, "B M"] | None:
        """What of the relation decides how it sees candidates, made once for each query; None, as by default: nothing.

        It comes back to `compare` as `query.under`. Only embedders with a single view are asked.
        """
        return None

    def compare(self, scorer: Scorer, query: Query, candidates: Views) -> Float[Tensor, "B K"]:
        """The scores of candidates in the only view, of each row's own [B K 1 width] or of one pool [P 1 width].

        Of several views the mixture compares. By default what the formula says of their vectors as they are. What makes
        candidates look different under each relation is done here, where `under` gives something; of formulas that are
        products, best by products that no relation has a part in.

        Args:
            scorer: the formula.
            query: of the rows.
            candidates: their own, or one pool.
        """
        return scorer.compare(query.vectors[0], candidates.by_view[0])

    @property
    def reals_per_pair(self) -> int:
        """Reals that `compare` holds for each pair of a row and a candidate, beside the score and the scorer's."""
        return 0

    def loss(
        self,
        lookup: Lookup,
        negatives: Negatives,
        objective: Loss,
        true: Scores,
        false: Scores,
    ) -> Float[Tensor, ""] | float:
        """A term of the step's loss that the embedder brings along, such as that of a reconstruction. By default 0.

        Args:
            lookup: the batch and its vectors.
            negatives: what was drawn.
            objective: the loss of the mixed scores.
            true, false: the scores of the true entities (K = 1) and of the negatives.
        """
        return 0.0

    def compared_whole(self, whole: bool) -> None:
        """Told by each trainer whether every step takes the views of `all`. By default nothing."""

    def begin(self, step: int) -> None:
        """What precedes a step of the training and lasts until `constrain`, such as a choice of what is left out in it.

        By default nothing.
        """

    def constrain(self) -> None:
        """What follows an optimizer step, such as a projection. By default nothing."""
