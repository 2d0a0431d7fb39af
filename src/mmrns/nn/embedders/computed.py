"""Entities whose vectors are computed, each one once where a step or a ranking looks at it several times."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.nn.embedders.base import Embedder
from mmrns.nn.embedders.hosted import on_host
from mmrns.nn.embedders.table import EntityVectors
from mmrns.nn.rows import row_of_any
from mmrns.types import Views


class ComputedEmbedder(Embedder):
    """The views of the distinct entities among those asked for, from `views_of`, handed to each place.

    To add one: subclass it and define `views_of` in place of `forward`. What a step leaves out depends on the entity
    and on `at`, so that all looks at an entity in a step are the same. Where it reads all its tables by `rows_of`, and
    says so by `takes_tables_whole`, comparisons with every entity copy none of them.

    It can be parted by entities, and says so by `undivided = ""`, where the views of an entity depend on no other one,
    its tables of entities are `EntityVectors`, random choices are of the entity's number among all (`numbers`), and a
    loss of its own makes of each entity what it does by `here` and `told`.

    Args:
        graph: whose entities they are.
        features: where the modalities are, of the entities that it has.
        modalities: names of the modalities that are read; all of them by default.

    Attributes:
        modalities: those that are read, by name.
        n_all: E, also of a part.
        seen: Bool[n], the entities that train mentions. Of any other the structural vector is nothing but its initial
            value.
        at: the step of the training that goes on; None outside of a step.
        seed: of what is left out in a step.
    """

    takes_tables_whole: ClassVar[bool] = False
    """True where `views_of` reads its tables of entities by `rows_of`."""

    seen: Tensor
    _everyone: Tensor
    _order: Tensor | None

    def __init__(self, graph: KnowledgeGraph, features: Features, modalities: Sequence[str] | None):
        super().__init__(len(graph.entities))
        self.n_all = len(graph.entities)
        names = list(features) if modalities is None else modalities
        self.modalities = {name: features[name] for name in names}
        seen = graph.seen_entities
        self.register_buffer("seen", seen if self.ids is None else seen[self.ids], persistent=False)
        # The places of a part's entities in the order of their numbers.
        self.register_buffer("_order", None if self.ids is None else torch.argsort(self.ids), persistent=False)
        self.at: int | None = None
        self.seed = torch.initial_seed()
        self._all: tuple[list[int], Views] | None = None
        # By which `rows_of` knows who is asked for.
        self.register_buffer("_everyone", torch.arange(self.n_entities), persistent=False)

    @abstractmethod
    def views_of(self, ids: Int[Tensor, " n"]) -> Views:
        """The views of these entities, computed."""

    def forward(self, ids: Int[Tensor, "*n"]) -> Views:
        if ids.is_cpu:
            distinct, place = torch.unique(ids, return_inverse=True)
        elif ids.numel() < self.n_entities or on_host(self):
            # How many are distinct would have to be asked of the device; of tables on the host few rows are at hand.
            distinct, place = ids.flatten(), torch.arange(ids.numel(), device=ids.device).view(ids.shape)
        else:
            distinct, place = torch.arange(self.n_entities, device=ids.device), ids
        views = self.views_of(distinct)
        made = views.vectors
        vectors = nn.functional.embedding(place, made.flatten(1)).unflatten(-1, made.shape[1:])
        traits = None if views.traits is None else nn.functional.embedding(place, views.traits)
        return Views(vectors, views.present[place], traits)

    def all(self) -> Views:
        """The views of every entity. Without gradients they are kept until a parameter changes or `constrain`.

        With gradients they may be made otherwise, so that the last bits differ.
        """
        ids = self._everyone
        if torch.is_grad_enabled():
            return self.views_of(ids)
        state = [
            -1 if self.at is None else self.at,
            *(number for p in self.parameters() for number in (p.data_ptr(), p._version)),
        ]
        if self._all is None or self._all[0] != state:
            # In parts, so that the tokens of all entities are never in memory at once.
            self._all = state, Views.concatenate([self.views_of(part) for part in ids.split(4096)])
        return self._all[1]

    def rows_of(self, table: EntityVectors, ids: Int[Tensor, " n"]) -> Float[Tensor, "n width"]:
        """Rows of a table of entities; for `all` the table itself, so that neither it nor its gradient is copied."""
        return table.weight if self.asks_all(ids) and not table.sparse else table(ids)

    def asks_all(self, ids: Int[Tensor, " n"]) -> bool:
        """Whether these are the entities that `all` asks for."""
        return ids is self._everyone

    def compared_whole(self, whole: bool) -> None:
        for module in self.modules():
            if self.takes_tables_whole and isinstance(module, EntityVectors):
                module.all_too = whole and not module.sparse

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(f"{name}.weight" for name, module in self.named_modules() if isinstance(module, EntityVectors))

    def part(self, ids: Int[Tensor, " n"]) -> ComputedEmbedder:
        others: dict[int, Any] = {}  # What a copy has in the place of what is of all entities.
        for module in self.modules():
            if isinstance(module, EntityVectors):
                others[id(module.weight)] = nn.Parameter(module.weight.detach()[ids])
            elif isinstance(module, ComputedEmbedder):
                others |= {id(modality): modality.part(ids) for modality in module.modalities.values()}
                others[id(module.seen)] = module.seen[ids]
                others[id(module._everyone)] = torch.arange(len(ids), device=ids.device)
        made = deepcopy(self, others)
        for module in made.modules():
            if isinstance(module, ComputedEmbedder):
                module.n_entities, module.ids, module._order, module._all = len(ids), ids, torch.argsort(ids), None
        return made

    def numbers(self, ids: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """The numbers that entities have among all, of their places here."""
        return ids if self.ids is None else self.ids[ids]

    def here(self, numbers: Int[Tensor, " n"]) -> tuple[Int[Tensor, " m"] | slice, Int[Tensor, " m"]]:
        """Of some entities those that it has: where they stand, and their places here."""
        if self.ids is None:
            return slice(None), numbers
        assert self._order is not None, "of a part"
        if not self.n_entities:
            return numbers[:0], numbers[:0]
        found = torch.searchsorted(self.ids, numbers.contiguous(), sorter=self._order)
        places = self._order[found.clamp(max=self.n_entities - 1)]
        rows = (self.ids[places] == numbers).nonzero().squeeze(1)
        return rows, places[rows]

    def told(self, values: Float[Tensor, "m *w"], rows: Int[Tensor, " m"] | slice, n: int) -> Float[Tensor, "n *w"]:
        """What is made of each of n entities, by whoever has it (`here`), for all who train together."""
        return values if isinstance(rows, slice) else row_of_any(values, rows, n)

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.modalities)

    def by_features(self, ids: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Whether each entity has a modality that is read."""
        found = torch.zeros_like(ids, dtype=torch.bool)
        for modality in self.modalities.values():
            found |= modality.gather(ids)[1].any(1)
        return found

    def begin(self, step: int) -> None:
        """From here to `constrain` what is left out is chosen by the step."""
        self.at = step

    def constrain(self) -> None:
        """Let go of what `all` keeps: some optimizers change parameters without a trace."""
        self._all = self.at = None

    def means(self, ids: Int[Tensor, " n"]) -> list[tuple[Float[Tensor, "n _"], Bool[Tensor, " n"]]]:
        """One vector of each modality, and who has the modality: the mean of the tokens, at mean 0 and length 1.

        Whoever lacks the modality has the vector 0.
        """
        dtype = next(self.parameters()).dtype
        tokens = (modality.gather(ids) for modality in self.modalities.values())
        return [(_normalised(values.to(dtype), mask), mask.any(1)) for values, mask in tokens]

    def known(self, ids: Int[Tensor, " n"], modalities: Sequence[Bool[Tensor, " n"]]) -> Bool[Tensor, "n V"]:
        """Who has structure and who has which modality: structure by train, or where there is nothing else."""
        there = torch.stack([self.seen[ids], *modalities], dim=1)
        there[:, 0].logical_or_(~there.any(1))
        return there


def _normalised(values: Float[Tensor, "n L D"], mask: Bool[Tensor, "n L"]) -> Float[Tensor, "n D"]:
    mean = values.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    return nn.functional.layer_norm(mean, mean.shape[1:]) / mean.shape[1] ** 0.5
