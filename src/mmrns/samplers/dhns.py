"""DHNS: beside uniform negatives, vectors of no entity that a diffusion model makes, more and less hard."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.errors import UsageError
from mmrns.nn.embedders import Embedder
from mmrns.nn.lookup import Lookup, Query
from mmrns.nn.model import Model, ModelSpec
from mmrns.nn.numerics import full
from mmrns.samplers.base import Recipe
from mmrns.samplers.diffusion import BARS, STEPS, Denoiser, chain, noised, reverse
from mmrns.samplers.explanation import Evidence
from mmrns.samplers.uniform import Uniform
from mmrns.types import Batch, Negatives, Views

LEVELS = {25: (0.5, 0.9), 12: (1.0, 0.7), 6: (1.0, 0.5), 5: (0.5, 0.3)}
"""By how many steps are left: weight and margin of what is generated, from easy to hard.

The authors' fifth level, of none left, has the weight 0.
"""


class Dhns(Uniform, name="dhns"):
    """x- as `uniform` draws it, and in `loss` vectors x~ that a diffusion model makes for (anchor, r), which are no
    entities.

    The model learns to take noise from the vectors of true entities, in each view, by the query that they answer: what
    the scorer makes of the other entity and the relation, h + r for TransE, h r for DistMult and ComplEx. From noise
    it goes T = 50 steps back; the less is left to go, the harder x~ is. Steps with 25, 12, 6 and 5 left make the
    levels l of hardness, with a weight and a margin each:

        loss = |eps - eps'|_1 / w + mu mean_l w_l mean_s L_l(f(h, r, t), s)
        s    = f(h, r, t~), f(h~, r, t), f(h~, r, t~)
        L_l(s+, s) = -1/2 [ ln sigma(m_l gamma + s+) + ln sigma(-m_l gamma - s) ]
        w_l  = 0.5, 1, 1, 0.5       m_l = 0.9, 0.7, 0.5, 0.3

    in the mean over some rows of the batch. eps is noise, eps' what the model takes for it, w the width of a vector.

    Niu and Zhang, "Diffusion-based Hierarchical Negative Sampling for Multimodal Knowledge Graph Completion", DASFAA
    2025; the diffusion is that of Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", 2020. Other than in
    the authors' code

    - heads have chains of their own; there, they are single steps from the tails' (`head_chain: false`),
    - the diffusion's loss trains the diffusion alone; there, the entities too (`detach_diffusion: false`),
    - margins count for every distance; there, not for all scorers. Scores that are products have no margin here,
    - the query of TransE is that of the translation; there, its signs are reversed,
    - vectors and queries are taken in units of their root mean square, so that noise and vectors are of one size
      whatever the size of embeddings, and with several views each is asked by its own relation vector,
    - a fifth level, the hardest, has the weight 0 there and is left out with the 5 steps that lead to it,
    - some rows of a batch have chains, and on the CPU rows with the same query share one.

    Cost of a draw: that of `uniform`; in the loss 2 n V chains for n rows, of 45 steps with 16 w^2 products each for
    vectors and queries of width w.

    Args:
        graph, features, spec, seed, negatives: see `Sampler`.
        rows: n, of a batch, that have chains.
        mu: weight of the generated negatives.
        head_chain: heads are made by chains of their own.
        detach_diffusion: the loss of the diffusion trains no vectors of the model.
        use_margins: margins grow with the distance to the true entity; otherwise all are gamma.
        gamma: margin of the objective.
    """

    recipe = Recipe(alpha=0.5)
    undivided = "its negatives are vectors that no entity has, and so no process"

    asks_each_view = True

    bars: Tensor
    levels: Tensor

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        spec: ModelSpec,
        *,
        seed: int = 0,
        negatives: PositiveInt = 64,
        rows: PositiveInt = 32,
        mu: PositiveFloat = 0.01,
        head_chain: bool = True,
        detach_diffusion: bool = True,
        use_margins: bool = True,
        gamma: float = 9.0,
    ):
        super().__init__(graph, features, spec, seed=seed, negatives=negatives)
        self.rows, self.mu, self.gamma = rows, mu, gamma
        self.head_chain, self.detach_diffusion, self.use_margins = head_chain, detach_diffusion, use_margins
        self.denoiser = Denoiser(spec.entity_width, spec.query_width)
        self.register_buffer("bars", torch.tensor(BARS), persistent=False)
        self.register_buffer("levels", torch.tensor(list(LEVELS.values())).T, persistent=False)

    @classmethod
    def refuse_unfit(cls, model: Model) -> None:
        """See whether what is made, vectors, can be scored.

        Raises:
            UsageError: the embedder scores entities by more than that; see `Sampler` for what else.
        """
        super().refuse_unfit(model)
        if model.entity.has_traits:
            name = Embedder.registry.name_of(type(model.entity))
            raise UsageError(
                f"the sampler dhns makes vectors of no entity, and the embedder {name} has entities scored by more "
                "than their vectors; use model.embedder=fused, or take another sampler"
            )

    def loss(
        self,
        lookup: Lookup,
        negatives: Negatives,
        s_pos: Float[Tensor, " B"],
        s_neg: Float[Tensor, "B K"],
        model: Model,
        step: int,
    ) -> Float[Tensor, ""]:
        """The denoiser's own, and that of the generated negatives, which trains the model."""
        n, device = min(self.rows, len(lookup.batch)), s_pos.device
        rows = torch.arange(n, device=device) * len(lookup.batch) // n
        asked = Asked.of(lookup, rows, model)
        units = asked.in_units(detached=self.detach_diffusion)
        diffusion = self.noise_error(asked, *units, self.stream(step, "dhns noise", device=device))
        made = self.generated(asked, units[1].detach(), self.stream(step, "dhns", device=device))
        s_made = self.scores(asked, made, model)
        return diffusion + self.mu * self.of_levels(s_pos.index_select(0, rows), s_made, asked.weight, model)

    def evidence(self, batch: Batch, ids: Int[Tensor, " n"], model: Model) -> Evidence:
        """Nothing but that its draws are not all."""
        return Evidence(
            why_not="the vectors that it makes beside these draws are no entities, and none of them is here"
        )

    def noise_error(
        self,
        asked: Asked,
        x: Float[Tensor, "2 n V w"],
        condition: Float[Tensor, "2 n V q"],
        stream: torch.Generator,
    ) -> Float[Tensor, ""]:
        """|eps - eps'|_1 / w, the mean over the views that are there; a triple's sides have the same t and eps.

        Args:
            asked: the triples.
            x, condition: their entities and queries `in_units`.
            stream: of t and eps.
        """
        _, n, views, width = x.shape
        t = torch.randint(STEPS, (n,), generator=stream, device=x.device)
        noise = torch.randn(n, views, width, generator=stream, device=x.device).to(x.dtype)
        x = noised(x, self.bars.index_select(0, t)[:, None], noise)
        each = t[:, None].expand(2, -1, views).flatten()
        times = self.denoiser.times().index_select(0, each)
        found = self.denoiser(x.flatten(0, 2), times, condition.flatten(0, 2)).view_as(x)
        there = asked.there.to(x.dtype).expand(2, -1, -1)
        return (full(found - noise).abs().mean(-1) * there).sum() / there.sum().clamp(min=1)

    @torch.no_grad()
    def generated(
        self, asked: Asked, conditions: Float[Tensor, "2 n V q"], stream: torch.Generator
    ) -> Float[Tensor, "L 2 n V w"]:
        """What is made for each level and side, in the units of the model, by the queries `in_units`."""
        if self.head_chain:
            found = self._own_chains(asked, conditions, stream)
        else:
            found = self._of_the_tails(conditions, stream)
        return found * asked.scale

    def _own_chains(
        self, asked: Asked, conditions: Float[Tensor, "2 n V q"], stream: torch.Generator
    ) -> Float[Tensor, "L 2 n V w"]:
        """A chain for each query; on other devices for each row, since the host would wait for how many there are."""
        sides, n, views, _ = conditions.shape
        each = conditions.flatten(0, 1)
        which = None
        if each.is_cpu:
            distinct, which = torch.unique(asked.numbers, return_inverse=True)
            first = torch.full_like(distinct, len(each)).scatter_reduce(0, which, torch.arange(len(each)), "amin")
            each = each.index_select(0, first)
        states = [x.unflatten(0, (-1, views)) for _, _, x in chain(self.denoiser, each.flatten(0, 1), LEVELS, stream)]
        found = torch.stack(states)
        return (found if which is None else found.index_select(1, which)).unflatten(1, (sides, n))

    def _of_the_tails(
        self, conditions: Float[Tensor, "2 n V q"], stream: torch.Generator
    ) -> Float[Tensor, "L 2 n V w"]:
        """The tails' chains; the heads are single steps from the states before, by their own queries."""
        tails, heads = (side.flatten(0, 1) for side in conditions)
        times, shape = self.denoiser.times(), conditions.shape[1:3]
        found: list[Tensor] = []
        for t, before, x in chain(self.denoiser, tails, LEVELS, stream):
            noise = torch.randn(x.shape, generator=stream, device=x.device).to(x.dtype)
            eps = self.denoiser(before, times[t].expand_as(x), heads)
            found.append(torch.stack([x, reverse(before, t, eps, noise)]).unflatten(1, shape))
        return torch.stack(found)

    def scores(self, asked: Asked, made: Float[Tensor, "L 2 n V w"], model: Model) -> Float[Tensor, "n L 3"]:
        """The model's scores with the tail, the head and both replaced by what is made."""
        tails, heads = made.movedim(0, 2).unbind(0)  # [n L V w]
        levels = tails.shape[1]
        t, h = _made(asked.t, tails), _made(asked.h, heads)
        both = model.query(h.flatten(), asked.relations[0].repeat_interleave(levels, 0), False)
        each = t.flatten()
        replaced = model.compare(both, each[:, None]).view(-1, levels)
        return torch.stack([model.compare(asked.queries[0], t), model.compare(asked.queries[1], h), replaced], dim=-1)

    def of_levels(
        self, s_pos: Float[Tensor, " n"], s_made: Float[Tensor, "n L 3"], weight: Float[Tensor, " n"], model: Model
    ) -> Float[Tensor, ""]:
        """The mean of the levels' losses, by their weights and under their margins."""
        gamma = self.gamma if model.scorer.distance else 0.0
        shares, margins = self.levels.unbind()
        m = gamma * (margins if self.use_margins else torch.ones_like(margins))
        of_true, of_made = logsigmoid(m + s_pos[:, None]), logsigmoid(-m[:, None] - s_made).mean(2)
        total = ((of_true + of_made) * shares).sum(1) / (-2 * len(LEVELS))
        return (weight * total).sum() / weight.sum()


@dataclass(frozen=True)
class Asked:
    """Some triples of a batch, each asked for its tail and for its head.

    Attributes:
        h, t: the entities, Views of [n V w].
        relations: the relations' vectors for tails and for heads.
        queries: of the two sides.
        numbers: Int[2n], the same for the same query, those for tails first.
        weight: Float[n], of the rows.
        there: Bool[n V], the views that both entities have.
        scale: Float[V 1], root mean square of the entities' vectors in each view.
    """

    h: Views
    t: Views
    relations: tuple[Float[Tensor, "n relation_width"], Float[Tensor, "n relation_width"]]
    queries: tuple[Query, Query]
    numbers: Int[Tensor, " m"]
    weight: Float[Tensor, " n"]
    there: Bool[Tensor, "n V"]
    scale: Float[Tensor, "V 1"]

    @classmethod
    def of(cls, lookup: Lookup, rows: Int[Tensor, " n"], model: Model) -> Asked:
        """Some rows of a batch, by position."""
        batch = lookup.batch
        anchor, target = lookup.anchor.index_select(rows), lookup.target.index_select(rows)
        h_ids, r, t_ids, head = (x.index_select(0, rows) for x in (batch.h, batch.r, batch.t, batch.head))
        h, t = target.where(head[:, None], anchor), anchor.where(head[:, None], target)
        relations = model.relations(r), model.relations(r + model.n_relations * model.reciprocal)
        queries = model.query(h, relations[0], False), model.query(t, relations[1], True)
        numbers = torch.cat([h_ids * model.n_relations + r, (model.n_entities + t_ids) * model.n_relations + r])
        there = h.present & t.present
        scale = _size(torch.stack([h.vectors, t.vectors]).detach(), there)
        return cls(h, t, relations, queries, numbers, batch.weight.index_select(0, rows), there, scale)

    def in_units(self, *, detached: bool) -> tuple[Float[Tensor, "2 n V w"], Float[Tensor, "2 n V q"]]:
        """The entities asked for and the queries, tails first, each in units of its root mean square."""
        x = torch.stack([self.t.vectors, self.h.vectors])
        conditions = torch.stack([torch.stack(query.vectors, dim=1) for query in self.queries])
        if detached:
            x, conditions = x.detach(), conditions.detach()
        return x / self.scale, conditions / _size(conditions.detach(), self.there)


def _made(replaced: Views, vectors: Float[Tensor, "n L V w"]) -> Views:
    """Vectors in place of some entities, in the views that these have."""
    return Views(vectors, replaced.present[:, None].expand(vectors.shape[:-1]))


def _size(x: Float[Tensor, "2 n V width"], there: Bool[Tensor, "n V"]) -> Float[Tensor, "V 1"]:
    """Root mean square of each view over the rows that have it."""
    squares = (full(x).square().mean(-1) * there).sum((0, 1)) / (2 * there.sum(0)).clamp(min=1)
    # Of vectors that are all 0, or of nobody, 1e-6 is as good as any.
    return squares.sqrt().clamp(min=1e-6)[:, None]
