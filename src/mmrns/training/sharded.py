"""A model whose entities are parted over the processes of a training: candidates stay where they are, anchors move."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmrns.errors import UsageError
from mmrns.launch import local_rank
from mmrns.nn.embedders import Embedder
from mmrns.nn.lookup import Lookup, Scores
from mmrns.nn.losses import Loss
from mmrns.nn.mixtures import Mixture
from mmrns.nn.model import Model
from mmrns.nn.numerics import full
from mmrns.nn.scorers import Scorer
from mmrns.samplers.base import Sampler
from mmrns.training.world import Parting, World
from mmrns.types import AllNegatives, Batch, Negatives, OwnNegatives, PoolNegatives, Views


class ShardedModel(Model):
    """A model of which this process has the vectors of its own entities, and all the rest.

    Every process has the whole batch and makes the queries of all rows, of anchors that their owners hand to all. Each
    compares them with those candidates that it has; what is summed up of a row is then summed over the processes
    (`mmrns.nn.rows`), so that neither candidates nor their scores move. The target's owner scores the true triple.
    What is computed from features is computed by who has the entity, with parameters that all have alike. A step with
    B rows, w reals that an entity moves by and theta parameters that all processes have sends, a process,

        2 (W - 1) / W (4 B w + 4 |theta| + 24 B)        bytes,

    the last for the sums of rows, whatever the number of negatives and of entities. w is the width of a vector; of V
    views V times that, V flags that say which of them the entity has, and its traits where the embedder has any.
    The scores of the views then move with the true one, so that the last is (24 + 16 V) B, and 16 B more for each loss
    of a view. What a loss of the embedder's own makes of entities moves in addition (`ComputedEmbedder.told`).

    Samplers that look at scores of candidates (`score_against`) are given those of all C of them, for
    4 B C (W - 1) / W more, and those that look at vectors (`entities`) the vectors. On a GPU a step waits for the
    device where it has to know how much each process has of what the device has drawn.

    Args:
        scorer, n_relations, reciprocal, sparse, mixture: see `Model`.
        n_entities: of all processes.
        embedder: of the entities that `own_entities` gives.
        world: the processes.

    Raises:
        UsageError: the mixture cannot be parted; or see `Model`.
    """

    own: Tensor

    def __init__(
        self,
        scorer: Scorer,
        n_entities: int,
        n_relations: int,
        *,
        embedder: Embedder,
        world: World,
        reciprocal: bool = False,
        sparse: bool = False,
        mixture: Mixture | None = None,
    ):
        self.world, self.parting = world, Parting(n_entities, world.size)
        options = {"reciprocal": reciprocal, "sparse": sparse}
        super().__init__(scorer, n_entities, n_relations, embedder=embedder, mixture=mixture, **options)
        if self.mixture is not None:
            kind = type(self.mixture)
            _refuse("mixture", Mixture.registry.name_of(kind), undivided(kind))
        self.register_buffer("own", self.parting.ids(world.rank), persistent=False)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, {self.world.rank + 1} of {self.world.size} parts)"

    @property
    def parted(self) -> dict[str, nn.Parameter]:
        own = set(self.entity.rows)
        return {f"entity.{name}": value for name, value in self.entity.named_parameters() if name in own}

    def _own(self, ids: Int[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
        return self.parting.owner(ids) == self.world.rank

    def entities(self, ids: Int[Tensor, "*n"]) -> Views:
        """Vectors of entities, from those who have them."""
        flat = ids.flatten()
        found = self._told(self.entity(self.parting.place(flat[self._own(flat)])), self.parting.owner(flat))
        traits = None if found.traits is None else found.traits.unflatten(0, ids.shape)
        return Views(found.vectors.unflatten(0, ids.shape), found.present.unflatten(0, ids.shape), traits)

    def _told(self, own: Views, owner: Int[Tensor, " n"]) -> Views:
        """Entities from their owners, of which this process has its own: vectors, presence and traits in one piece."""
        several = len(self.views) > 1  # The only view everyone has.
        parts = [own.vectors.flatten(1), *([own.present.to(own.vectors.dtype)] if several else [])]
        parts += [] if own.traits is None else [own.traits]
        whole = self.world.gather(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0], owner)
        vectors, *rest = whole.split([part.shape[1] for part in parts], dim=1)
        present = rest[0] > 0 if several else own.present.new_ones(len(owner), 1)
        return Views(vectors.unflatten(1, own.vectors.shape[1:]), present, None if own.traits is None else rest[-1])

    def by_features(self, ids: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        own = self.entity.by_features(self.parting.place(ids[self._own(ids)]))
        return self.world.gather(own.float(), self.parting.owner(ids)).bool()

    def lookup(self, batch: Batch) -> Lookup:
        """The vectors of a batch: of all anchors, and of those targets that this process has; zeros for the others."""
        mine, rows = self._own(batch.anchor), self._own(batch.target).nonzero().squeeze(1)
        both = self.entity(self.parting.place(torch.cat([batch.anchor[mine], batch.target[rows]])))
        n = len(both.present) - len(rows)
        anchor = self._told(both[:n], self.parting.owner(batch.anchor))
        target = both[n:].placed(rows, len(batch))
        return self.looked_up(batch, anchor, target, self.relations(self.relation_ids(batch)))

    def factors(self, lookup: Lookup) -> tuple[Tensor, Tensor, Tensor]:
        return super().factors(replace(lookup, target=self.entities(lookup.batch.target)))

    def shown(self, negatives: Negatives) -> Negatives:
        """Those negatives that this process has, by their rows in its part.

        Of K of each row's own a process has K / W on average; rows that have fewer than another are filled up with what
        does not count.
        """
        if isinstance(negatives, OwnNegatives):
            columns, there = self._columns(negatives.ids)
            places = self.parting.place(negatives.ids.gather(1, columns))
            if places.numel():
                # Filled up with what is looked up anyway, so that no other row is touched.
                places = torch.where(there, places, places[there][:1])
            picked = _picked(negatives, lambda values: values.gather(1, columns))
            mask = there if picked["mask"] is None else there & picked["mask"]
            through = None if negatives.through is None else negatives.through.gather(1, columns)
            return replace(negatives, ids=places, through=through, **picked | {"mask": mask})
        if isinstance(negatives, PoolNegatives):
            columns = self._own(negatives.ids).nonzero().squeeze(1)
            picked = _picked(negatives, lambda values: values.index_select(1, columns))
            return replace(negatives, ids=self.parting.place(negatives.ids[columns]), **picked)
        assert isinstance(negatives, AllNegatives)
        picked = _picked(negatives, lambda values: values.index_select(1, self.own))
        return replace(negatives, n_entities=len(self.own), **picked)

    def _columns(self, ids: Int[Tensor, "B K"]) -> tuple[Int[Tensor, "B n"], Bool[Tensor, "B n"]]:
        """Where in its row each entity of this process is, as many for every row, and which of them are such."""
        own = self._own(ids)
        count = own.sum(1, keepdim=True)
        width = int(count.max()) if len(ids) else 0
        columns = torch.argsort(~own, dim=1, stable=True)[:, :width]
        return columns, torch.arange(width, device=ids.device) < count

    def scores(self, lookup: Lookup, negatives: Negatives | None = None) -> Scores:
        """The scores of negatives that are `shown`, or of all true entities, from those who have them."""
        if negatives is not None:
            return super().scores(lookup, negatives)
        rows = self._own(lookup.batch.target).nonzero().squeeze(1)
        own = self._scores(lookup.query[rows], lookup.target[rows][:, None])
        several = len(self.views) > 1
        # Of a single view its score is the mixed one.
        parts = [own.mixed, *(full(s) for s in own.by_view), lookup.target.present[rows]] if several else [own.mixed]
        values = torch.cat([part.to(own.mixed.dtype) for part in parts], dim=1)
        values = self.world.sum(values.new_zeros(len(lookup.batch), values.shape[1]).index_copy(0, rows, values))
        if not several:
            return Scores((values,), lookup.query.present, None)
        mixed, *by_view, there = values.split([part.shape[1] for part in parts], dim=1)
        return Scores(tuple(by_view), lookup.query.present, there[:, None] > 0, mixed)

    def score_against(self, lookup: Lookup, negatives: Negatives) -> Float[Tensor, "B K"]:
        """The scores of all negatives, from those who have them."""
        own = super().score_against(lookup, self.shown(negatives))
        if isinstance(negatives, OwnNegatives):
            of_rows = own[self._columns(negatives.ids)[1]]
            return self.world.gather(of_rows, self.parting.owner(negatives.ids.flatten())).view(negatives.ids.shape)
        if isinstance(negatives, PoolNegatives):
            return self.world.gather(own.T.contiguous(), self.parting.owner(negatives.ids)).T.contiguous()
        return self._of_all(own)

    def _of_all(self, scores: Float[Tensor, "B n"]) -> Float[Tensor, "B E"]:
        """The scores of every entity in the order of ids, of what each process has in the order of its part."""
        every = torch.arange(self.n_entities, device=scores.device)
        own = scores.T.index_select(0, self.parting.place(every[self._own(every)]))
        return self.world.gather(own, self.parting.owner(every)).T.contiguous()

    def score_all(self, batch: Batch, memory_mb: float | int = math.inf) -> Float[Tensor, "B E"]:
        return self._of_all(self.score_part(batch, memory_mb))

    # What ranking asks: see `mmrns.evaluation.ranking.ScoresPart`.

    def score_part(self, batch: Batch, memory_mb: float | int) -> Float[Tensor, "B n"]:
        """Scores with each row's target replaced by every entity of this process."""
        return super().score_all(batch, memory_mb)

    def part_ids(self) -> Int[Tensor, " n"]:
        """The entities of this process, by column of `score_part`."""
        return self.own

    def part_columns(self, ids: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """The column of each entity; -1 where another process has it."""
        return torch.where(self._own(ids), self.parting.place(ids), -1)


def _picked(negatives: Negatives, pick: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Some columns of the mask and of the importance weights."""
    given = {"mask": negatives.mask, "log_weight": negatives.log_weight}
    return {name: None if values is None else pick(values) for name, values in given.items()}


def own_entities(embedder: type[Embedder], n_entities: int, world: World) -> Int[Tensor, " n"]:
    """The entities that this process has, in the order of their rows.

    Raises:
        UsageError: the embedder cannot be parted.
    """
    _refuse("embedder", Embedder.registry.name_of(embedder), undivided(embedder))
    return Parting(n_entities, world.size).ids(world.rank)


def refuse_unsharded(sampler: Sampler, objective: Loss, device: torch.device) -> None:
    """Refuse what several processes that each have some of the entities cannot train.

    Of embedders and mixtures see `own_entities` and `ShardedModel`.

    Raises:
        UsageError: the sampler, one inside it, or the loss, by name and with the reason; or the device.
    """
    refuse_unshared(device)
    for part in sampler.modules():
        if isinstance(part, Sampler):
            _refuse("sampler", type(part).registry.name_of(type(part)), undivided(type(part)))
    summed = vars(type(objective)).get("summed_by_row", False)
    why = "" if summed else "it does not say that it sums over a row by mmrns.nn.rows alone (Loss.summed_by_row)"
    _refuse("loss", Loss.registry.name_of(type(objective)), why)


def refuse_unshared(device: torch.device) -> None:
    """Refuse a device that several processes cannot use, each of them one of its own.

    Raises:
        UsageError: it is one, or there are too few.
    """
    if device.type == "mps":
        raise UsageError("device=mps cannot be shared by several processes; use --device cpu")
    if device.type == "cuda" and local_rank() >= torch.cuda.device_count():
        raise UsageError(
            f"there are more processes on this machine than GPUs ({torch.cuda.device_count()}); start as many, or use "
            "--device cpu"
        )


def _refuse(kind: str, name: str, why: str) -> None:
    if why:
        raise UsageError(f"the {kind} {name} cannot be trained by several processes: {why}")


def undivided(cls: type[Embedder | Mixture | Sampler]) -> str:
    """Why a class cannot be trained by several processes, "" where it can: which it has to say of itself."""
    said: str | None = vars(cls).get("undivided")
    if said is not None:
        return said
    base = Embedder if issubclass(cls, Embedder) else Mixture if issubclass(cls, Mixture) else Sampler
    return cls.undivided or base.undivided
