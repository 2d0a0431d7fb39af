"""Mixtures: one score from several views, and the losses that views have of their own.

A mixture takes the scores of the views and some numbers of the relation. To add one: subclass `Mixture` with a `name`
and define `weights`. What mixes vectors before they are scored, or scores other pairs of views, overrides `queries` and
`compare`.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

from mmrns.nn.embedders.base import STRUCTURE
from mmrns.nn.joint import joined, joint_weights
from mmrns.nn.kernels import comparisons
from mmrns.nn.lookup import Query, Scores, common_views
from mmrns.nn.losses import Loss, candidates_of
from mmrns.nn.numerics import full, masked
from mmrns.nn.rows import row_sum
from mmrns.nn.scorers import Scorer
from mmrns.registry import Named, Registry
from mmrns.types import Negatives, OwnNegatives, Views

Share = Annotated[float, Field(gt=0, lt=1)]
Ask = Callable[[Float[Tensor, "B width"], Float[Tensor, "B relation_width"]], Float[Tensor, "B query_width"]]
"""A scorer's query of anchors and relations."""


class Mixture(Named, nn.Module, ABC):
    """One score from several views, by numbers of the relation.

    To add one: subclass it with a `name` and define `weights`. Its constructor is called with the names of the views;
    further keywords are its options, settable as `model.OPTION`. Parameters of its own are trained and stored with the
    model's.

    Args:
        views: names of the views, in the order of their scores.
    """

    registry: ClassVar[Registry[Mixture]] = Registry("mixture", "mmrns.nn.mixture")

    one_relation: ClassVar[bool] = False
    """True where a relation has one vector for all views, False where it has one for each."""

    separate: ClassVar[bool] = False
    """True where each view is a model of its own: with parameters of the formula that no other view has, and trained by
    its own scores alone. `loss` is then the whole loss; the mixed scores, which need be no sum of them, have none."""

    undivided: ClassVar[str] = "it does not say that it mixes a candidate's scores by themselves (Mixture.undivided)"
    """Why several processes cannot have some of the candidates each; "" where they can: where a candidate's score
    depends on no other one, and `loss` sums over a row by `mmrns.nn.rows`. A subclass says so itself."""

    def __init__(self, views: Sequence[str]):
        super().__init__()
        self.views = tuple(views)

    @property
    def relation_width(self) -> int:
        """Trained numbers of each relation that it takes, beside the relation's vectors; they start as these do."""
        return 0

    @property
    def asks_each_view(self) -> bool:
        """Whether `queries` are one for each view, for samplers that ask the views by themselves."""
        return True

    def start(self, scorer: Scorer) -> None:
        """Told of the formula of the views' scores, once, before anything is trained. By default nothing."""

    def gate(self, numbers: Float[Tensor, "B relation_width"]) -> Float[Tensor, "B N"]:
        """What is made of the relation's numbers once for each query; by default they are taken as they are."""
        return numbers

    def queries(
        self, asks: Sequence[Ask], anchor: Views, relation: Float[Tensor, "B n"], gate: Float[Tensor, "B N"]
    ) -> tuple[Tensor, ...]:
        """What candidates are compared with: by default a query for each view, with the relation's vector for it.

        Args:
            asks: make the queries, one for each view.
            anchor: the views of the anchors.
            relation: the relation's vectors of all views, or its only one.
            gate: of the relation.
        """
        own = relation.chunk(len(self.views), dim=-1)
        return tuple(ask(a, r) for ask, a, r in zip(asks, anchor.by_view, own, strict=True))

    def compare(self, scorers: Sequence[Scorer], query: Query, candidates: Views) -> Scores:
        """The scores of each row's own candidates [B K V width], or of one pool [P V width] for all rows.

        Args:
            scorers: the formula of each view, the same one unless the views are `separate`.
            query: of the rows.
            candidates: their own, or one pool.
        """
        by_view = self.by_view(scorers, query, candidates)
        return Scores(by_view, query.present, candidates.present, mix=self, gate=query.gate)

    def by_view(self, scorers: Sequence[Scorer], query: Query, candidates: Views) -> tuple[Float[Tensor, "B K"], ...]:
        """The scores of the candidates in each view."""
        views = zip(scorers, query.vectors, candidates.by_view, strict=True)
        return tuple(scorer.compare(of_query, of_candidates) for scorer, of_query, of_candidates in views)

    def shares(self, query: Query, candidates: Views) -> Float[Tensor, "B K V"]:
        """How much the score of each view counts in that of these candidates; by default `weights`."""
        assert query.gate is not None, "of several views"
        return self.weights(query.gate, query.present, candidates.present)

    def weights(
        self, gate: Float[Tensor, "B N"], own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]
    ) -> Float[Tensor, "B K V"]:
        """How much the score of each view counts; 0 where one of the two entities lacks it.

        Args:
            gate: of the relation.
            own: which views the anchor has.
            candidates: which views the candidates have, [B K V] or of one pool [P V].
        """
        raise TypeError(f"{type(self).__name__} defines no `weights` and does not override `compare` and `shares`")

    def forward(
        self,
        scores: Sequence[Float[Tensor, "B K"]],
        gate: Float[Tensor, "B N"],
        own: Bool[Tensor, "B V"],
        candidates: Bool[Tensor, "*K V"],
    ) -> Float[Tensor, "B K"]:
        """The mixed score: by default the sum of the views' scores by their weights.

        A subclass may write it otherwise, or add what depends on no score.
        """
        return (self.weights(gate, own, candidates) * torch.stack(list(scores), dim=-1)).sum(-1)

    def loss(
        self, negatives: Negatives, objective: Loss, weight: Float[Tensor, " B"], true: Scores, false: Scores
    ) -> Float[Tensor, ""] | float:
        """A term of the step's loss beside that of the mixed scores, such as a loss of each view. By default 0.

        Of `separate` views it is the whole loss of the scores.

        Args:
            negatives: what was drawn.
            objective: the loss of the mixed scores.
            weight: of each row.
            true, false: the scores of the true entities (K = 1) and of the negatives.
        """
        return 0.0

    @property
    def n_losses(self) -> int:
        """How many losses of a view's own scores `loss` adds up."""
        return 0

    @property
    def reals_per_pair(self) -> int:
        """Reals that it holds for each pair: the views' scores and weights, and their sums."""
        return 2 * len(self.views) + 3


class Gated(Mixture, name="gated"):
    """f(h, r, t) = sum_v a_v g_v(r) f_v(h, r, t) / sum_v a_v g_v(r), a mean over the views that both entities have.

    a_v is 1 where both entities have view v, else 0, and g(r) the softmax of V numbers of the relation. Without a
    common view the first one counts. Being a mean, the result is on the scale of the scores, whatever is missing.

    Args:
        views: see `Mixture`.
    """

    undivided = ""

    @property
    def relation_width(self) -> int:
        return len(self.views)

    def gate(self, numbers: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        return torch.softmax(numbers, dim=-1)

    def weights(
        self, gate: Float[Tensor, "B V"], own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]
    ) -> Float[Tensor, "B K V"]:
        counting = gate[:, None] * _counting(own, candidates)
        return counting / counting.sum(-1, keepdim=True)

    def forward(
        self,
        scores: Sequence[Float[Tensor, "B K"]],
        gate: Float[Tensor, "B V"],
        own: Bool[Tensor, "B V"],
        candidates: Bool[Tensor, "*K V"],
    ) -> Float[Tensor, "B K"]:
        # The same as by `weights`, divided once; the views come first, so that sums over them are of whole tensors.
        candidates = candidates[None] if candidates.ndim == 2 else candidates
        common = own.mT[..., None] & candidates.movedim(-1, 0)
        weights = gate.mT[..., None] * common
        alone = ~common.any(0)
        mixed = (weights * torch.stack(list(scores))).sum(0) / weights.sum(0).masked_fill(alone, 1.0)
        return torch.where(alone, scores[0], mixed)


class MeanProbability(Mixture, name="mean-probability"):
    """sigma(f) = mean_v sigma(f_v) over the views that both entities have: models of their own, asked together.

    As MoMoK (2025) ranks: each view has parameters of the formula for itself and is trained alone, all by the same
    loss, L = sum_v L(f_v). Candidates rank by the mean of the probabilities, which is given as its logarithmic odds f.
    Without a common view the first one counts.

    The score is no sum. `weights` are those of the mean.

    Args:
        views: see `Mixture`.
    """

    undivided = ""
    separate = True

    def weights(
        self, gate: Float[Tensor, "B N"], own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]
    ) -> Float[Tensor, "B K V"]:
        counting = _counting(own, candidates).to(gate.dtype)
        return counting / counting.sum(-1, keepdim=True)

    def forward(
        self,
        scores: Sequence[Float[Tensor, "B K"]],
        gate: Float[Tensor, "B N"],
        own: Bool[Tensor, "B V"],
        candidates: Bool[Tensor, "*K V"],
    ) -> Float[Tensor, "B K"]:
        counting = _counting(own, candidates).unbind(-1)
        # ln p and ln (1 - p), each times how many there are.
        true, false = (
            torch.stack([masked(logsigmoid(sign * full(s)), c) for s, c in zip(scores, counting, strict=True)])
            for sign in (1, -1)
        )
        return true.logsumexp(0) - false.logsumexp(0)

    def loss(
        self, negatives: Negatives, objective: Loss, weight: Float[Tensor, " B"], true: Scores, false: Scores
    ) -> Float[Tensor, ""] | float:
        views = range(len(self.views))
        return sum((loss_of_view(view, negatives, objective, weight, true, false) for view in views), 0.0)

    @property
    def n_losses(self) -> int:
        return len(self.views)


class Residual(Mixture, name="residual"):
    """f(h, r, t) = f_s + sum_m a_m scale sigma(g_m(r)) c_m ( f_m - b_m(r) ): structure, and what modalities add to it.

    a_m is 1 where both entities have modality m, else 0; g_m(r) and b_m(r) are numbers of the relation, c_m > 0 one of
    the modality. A term that is not there is 0, which is what a score of b_m(r) adds: so b_m is trained to be what a
    missing modality is worth. It starts at b_0, the mean score of vectors that are not trained, and where one of the
    two entities lacks structure itself f_s is b_0. The relation's numbers start near 0 and c_m at 1, so that at first a
    modality has half of `scale` for a weight.

    Beside the loss of f each view has one of its own, so that structure is trained as it would be alone, and modalities
    before their weight has grown:

        L(f) + structure_loss L(f_s) + view_loss sum_m L(f_m)

    SACRF (2026) weighs alike, but holds each f_m against the scores of all other candidates (their mean and standard
    deviation). Here b_m and c_m stand for these, so that a triple has a score by itself.

    Args:
        views: see `Mixture`. `structure` is f_s, wherever it stands, or the first one where there is none.
        scale: the most that a relation may weigh a modality's score, before c_m.
        structure_loss: weight of the loss of the structural scores alone; 0 = none.
        view_loss: weight of the loss of each modality's scores alone; 0 = none.
    """

    undivided = ""
    untrained: Tensor

    def __init__(
        self,
        views: Sequence[str],
        *,
        scale: PositiveFloat = 0.2,
        structure_loss: NonNegativeFloat = 0.5,
        view_loss: NonNegativeFloat = 0.05,
    ):
        super().__init__(views)
        self.base = self.views.index(STRUCTURE) if STRUCTURE in self.views else 0
        self.added = [view for view in range(len(self.views)) if view != self.base]
        self.scale, self.structure_loss, self.view_loss = scale, structure_loss, view_loss
        self.log_c = nn.Parameter(torch.zeros(len(self.added)))
        self.register_buffer("untrained", torch.zeros(()))

    @property
    def relation_width(self) -> int:
        return 2 * len(self.added)

    def start(self, scorer: Scorer) -> None:
        self.untrained.fill_(scorer.untrained_mean())

    def gate(self, numbers: Float[Tensor, "B relation_width"]) -> Float[Tensor, "B N"]:
        """The weights of the modalities, then b_m(r)."""
        openness, b = numbers.chunk(2, dim=-1)
        return torch.cat([self.scale * torch.sigmoid(openness) * self.log_c.exp(), self.untrained + b], dim=-1)

    def weights(
        self, gate: Float[Tensor, "B N"], own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]
    ) -> Float[Tensor, "B K V"]:
        weights, _ = gate.chunk(2, dim=-1)
        before, after = weights.tensor_split([self.base], dim=-1)
        of_views = torch.cat([before, torch.ones_like(gate[:, :1]), after], dim=-1)
        return of_views[:, None] * common_views(own, candidates)

    def forward(
        self,
        scores: Sequence[Float[Tensor, "B K"]],
        gate: Float[Tensor, "B N"],
        own: Bool[Tensor, "B V"],
        candidates: Bool[Tensor, "*K V"],
    ) -> Float[Tensor, "B K"]:
        weights, b = gate.chunk(2, dim=-1)
        has, there = own.to(gate.dtype), candidates.to(gate.dtype)
        base = (full(scores[self.base]) - self.untrained) * there[..., self.base]
        mixed = torch.addcmul(self.untrained, has[:, self.base, None], base)
        for m, view in enumerate(self.added):
            # What one of the two lacks is left out by factors of a row and of a candidate: masks of pairs are slower.
            term = (full(scores[view]) - b[:, m, None]) * there[..., view]
            mixed = torch.addcmul(mixed, (has[:, view] * weights[:, m])[:, None], term)
        return mixed

    def loss(
        self, negatives: Negatives, objective: Loss, weight: Float[Tensor, " B"], true: Scores, false: Scores
    ) -> Float[Tensor, ""] | float:
        shares = {self.base: self.structure_loss} | dict.fromkeys(self.added, self.view_loss)
        return sum(
            (
                share * loss_of_view(view, negatives, objective, weight, true, false)
                for view, share in shares.items()
                if share
            ),
            0.0,
        )

    @property
    def n_losses(self) -> int:
        return bool(self.structure_loss) + len(self.added) * bool(self.view_loss)


class Joint(Mixture, name="joint"):
    """f(h, r, t) of the joint vectors of h and t, each the mean of its entity's views as the relation weighs them.

        joint(e, r) = sum_v p_v(e, r) e_v        p(e, r) = softmax_v( <w, tanh(e_v)> / sigma(g_r) )

    over the views that the entity has, of heads and candidates alike. g_r is a number of the relation, whose sigma is
    the temperature of the softmax. It is the joint representation of NativE (Zhang et al., "NativE: Multi-modal
    Knowledge Graph Completion in the Wild", 2024), whose projections have a hidden layer (`model.hidden`). w starts at
    0, so that at first all views weigh the same. The relation has one vector. Left out is the authors' adversarial
    training of the views.

    Of products the score is that of the views by these weights, as exact and at the cost of one product for each view.
    Of distances the joint vectors of the candidates are made for each row, as B x K x width numbers also of a pool.

    Args:
        views: see `Mixture`.
    """

    undivided = ""
    one_relation = True
    attention: nn.Parameter | None

    def __init__(self, views: Sequence[str]):
        super().__init__(views)
        self.register_parameter("attention", None)

    @property
    def relation_width(self) -> int:
        return 1

    def start(self, scorer: Scorer) -> None:
        if self.attention is None:
            self.attention = nn.Parameter(torch.zeros(scorer.entity_width))
        self._width = 0 if scorer.linear else scorer.entity_width

    @property
    def asks_each_view(self) -> bool:
        return False

    def gate(self, numbers: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
        return torch.sigmoid(numbers)

    def queries(
        self, asks: Sequence[Ask], anchor: Views, relation: Float[Tensor, "B n"], gate: Float[Tensor, "B 1"]
    ) -> tuple[Tensor, ...]:
        return (asks[0](joined(self._weights(anchor, gate), anchor.vectors), relation),)

    def compare(self, scorers: Sequence[Scorer], query: Query, candidates: Views) -> Scores:
        if not scorers[0].linear:
            mixed = scorers[0].compare(query.vectors[0], joined(self.shares(query, candidates), candidates.vectors))
            return Scores((), query.present, candidates.present, full(mixed))
        by_view, weights = self.by_view(scorers, query, candidates), self._by_view(query, candidates)
        mixed = sum((w * s for w, s in zip(weights, by_view, strict=True)), torch.zeros_like(by_view[0]))
        mixed = mixed / sum(weights, torch.zeros_like(weights[0]))
        return Scores(by_view, query.present, candidates.present, full(mixed))

    def _by_view(self, query: Query, candidates: Views) -> list[Float[Tensor, "B K"]]:
        """`shares` before they are divided by their sum, one tensor for each view: a softmax of so few is slow."""
        assert self.attention is not None, "made by `start`"
        assert query.gate is not None, "of several views"
        logits = torch.stack([torch.tanh(vectors) @ self.attention for vectors in candidates.by_view], dim=-1)
        top = masked(logits.detach(), candidates.present).amax(-1, keepdim=True)
        below = (logits - top).masked_fill(~candidates.present, 0.0)
        views = zip(below.unbind(-1), candidates.present.unbind(-1), strict=True)
        return [torch.exp(logit / query.gate) * has for logit, has in views]

    def by_view(self, scorers: Sequence[Scorer], query: Query, candidates: Views) -> tuple[Float[Tensor, "B K"], ...]:
        """The scores of each view's vectors where the anchor is the joint one."""
        return tuple(scorers[0].compare(query.vectors[0], vectors) for vectors in candidates.by_view)

    def shares(self, query: Query, candidates: Views) -> Float[Tensor, "B K V"]:
        assert query.gate is not None, "of several views"
        return self._weights(candidates, query.gate[:, None])

    def _weights(self, views: Views, temperature: Float[Tensor, "*#n 1"]) -> Float[Tensor, "*n V"]:
        assert self.attention is not None, "made by `start`"
        return joint_weights(views, self.attention, temperature)

    @property
    def reals_per_pair(self) -> int:
        # The joint vector and what a comparison with one's own candidates makes of it.
        return super().reals_per_pair + 3 * self._width


class Cross(Mixture, name="cross"):
    """f(h, r, t) = sum_{u, v} f(h_u, r, t_v) over all pairs of views, with one vector of the relation.

    Of structure and image these are the four energies of IKRL (Xie et al., "Image-embodied Knowledge Representation
    Learning", 2017) and, with RotatE, of VBKGC (Zhang and Zhang, 2022). With `sums` the score of the entities' summed
    views is added, as TBKGC (Mousselly-Sergieh et al., "A Multimodal Translation-Based Approach for Knowledge Graph
    Representation Learning", 2018) does, whose only view beside structure is of all modalities (`model.concatenate`).

    A pair counts where h has u and t has v. The sum is scaled up by V^2 over the number of these pairs, so that it is
    on the same scale whatever is missing. Of products it costs one for each view, of distances V^2 comparisons.

    Args:
        views: see `Mixture`.
        sums: add f(sum_u h_u, r, sum_v t_v).
    """

    undivided = ""
    one_relation = True

    def __init__(self, views: Sequence[str], *, sums: bool = False):
        super().__init__(views)
        self.sums = sums

    @property
    def asks_each_view(self) -> bool:
        return not self.sums

    def queries(
        self, asks: Sequence[Ask], anchor: Views, relation: Float[Tensor, "B n"], gate: Float[Tensor, "B N"]
    ) -> tuple[Tensor, ...]:
        vectors = (*anchor.by_view, *([_summed(anchor)] if self.sums else []))
        return tuple(asks[0](of_view, relation) for of_view in vectors)

    def compare(self, scorers: Sequence[Scorer], query: Query, candidates: Views) -> Scores:
        found = super().compare(scorers, query, candidates)
        if not self.sums:
            return found
        return replace(found, given=found.mixed + full(scorers[0].compare(query.vectors[-1], _summed(candidates))))

    def by_view(self, scorers: Sequence[Scorer], query: Query, candidates: Views) -> tuple[Float[Tensor, "B K"], ...]:
        """For each view of the candidates V times the mean of its scores with the views that the anchor has."""
        n, scorer, own = len(self.views), scorers[0], query.present.to(query.vectors[0].dtype)
        weights = (n * own / own.sum(-1, keepdim=True).clamp(min=1)).unbind(-1)
        pairs = list(zip(weights, query.vectors[:n], strict=True))
        if scorer.linear:
            # A sum of products is the product of the sum.
            total = sum((w[:, None] * q for w, q in pairs), torch.zeros_like(query.vectors[0]))
            return tuple(scorer.compare(total, vectors) for vectors in candidates.by_view)

        def of_view(vectors: Tensor) -> Tensor:
            of_pairs = [w[:, None] * scorer.compare(q, vectors) for w, q in pairs]
            return torch.stack(of_pairs).sum(0)

        return tuple(of_view(vectors) for vectors in candidates.by_view)

    def weights(
        self, gate: Float[Tensor, "B N"], own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]
    ) -> Float[Tensor, "B K V"]:
        there = candidates.to(gate.dtype)
        weights = len(self.views) * there / there.sum(-1, keepdim=True).clamp(min=1)
        return weights if candidates.ndim == 3 else weights.expand(len(own), -1, -1)


class RSME(Mixture, name="rsme"):
    """f(h, r, t) = balance f(e_h, r, e_t) + (1 - balance) sigma(g_r) cos(m_h, m_t), of views joined in fixed shares.

        e = (1 - share) e_s + share mean_m e_m        cos = mean_m cos(m_h, m_t), over the modalities m of both

    The score is of structure and modalities together, and of how similar h and t are by their modalities where the
    relation cares (Wang et al., "Is Visual Context Really Helpful for Knowledge Graph? A Representation Learning
    Perspective", 2021). A view that an entity lacks leaves its share to the others. The relation has one vector,
    and g_r is a number of its own that is trained. The authors' gate is 0 or 1 by how the pictures of the triples
    compare, those of valid and test among them, and their cosine, of the bare features, has no part in training.
    Here it is of the projections, as in the port by which RSME is usually compared.

    Args:
        views: see `Mixture`.
        share: a, of the modalities in the vector of an entity.
        balance: b, of the formula beside the cosine.
    """

    undivided = ""
    one_relation = True
    base: Tensor

    def __init__(self, views: Sequence[str], *, share: Share = 0.7, balance: Share = 0.5):
        super().__init__(views)
        self.share, self.balance = share, balance
        self.modalities = [view for view, name in enumerate(self.views) if name != STRUCTURE]
        of_views = [1 - share if name == STRUCTURE else share / len(self.modalities) for name in self.views]
        self.register_buffer("base", torch.tensor(of_views), persistent=False)

    @property
    def relation_width(self) -> int:
        return 1

    @property
    def asks_each_view(self) -> bool:
        return False

    def gate(self, numbers: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
        return (1 - self.balance) * torch.sigmoid(numbers)

    def queries(
        self, asks: Sequence[Ask], anchor: Views, relation: Float[Tensor, "B n"], gate: Float[Tensor, "B 1"]
    ) -> tuple[Tensor, ...]:
        query = asks[0](joined(self._weights(anchor.present), anchor.vectors), relation)
        return query, *(normalize(anchor.by_view[m], dim=-1) for m in self.modalities)

    def compare(self, scorers: Sequence[Scorer], query: Query, candidates: Views) -> Scores:
        by_view, weights = (), self._weights(candidates.present)
        if scorers[0].linear:
            by_view = self.by_view(scorers, query, candidates)
            found = sum((w * s for w, s in zip(weights.unbind(-1), by_view, strict=True)), torch.zeros_like(by_view[0]))
        else:
            found = scorers[0].compare(query.vectors[0], joined(weights, candidates.vectors))
        assert query.gate is not None, "of several views"
        mixed = self.balance * full(found) + query.gate * self._cosine(query, candidates)
        return Scores(by_view, query.present, candidates.present, full(mixed))

    def by_view(self, scorers: Sequence[Scorer], query: Query, candidates: Views) -> tuple[Float[Tensor, "B K"], ...]:
        """The scores of each view's vectors where the anchor is the whole one."""
        return tuple(scorers[0].compare(query.vectors[0], vectors) for vectors in candidates.by_view)

    def shares(self, query: Query, candidates: Views) -> Float[Tensor, "B K V"]:
        weights = self.balance * self._weights(candidates.present)
        return weights if weights.ndim == 3 else weights.expand(len(query.present), -1, -1)

    def _weights(self, present: Bool[Tensor, "*n V"]) -> Float[Tensor, "*n V"]:
        there = self.base * present
        return there / there.sum(-1, keepdim=True).clamp(min=1e-9)

    def _cosine(self, query: Query, candidates: Views) -> Float[Tensor, "B K"]:
        """The mean over the modalities that both have; 0 where there are none."""
        total, n = torch.zeros((), device=self.base.device), torch.zeros((), device=self.base.device)
        for m, own in zip(self.modalities, query.vectors[1:], strict=True):
            common = query.present[:, m, None] & candidates.present[..., m]
            total = total + common * comparisons.compare("dot", own, normalize(candidates.by_view[m], dim=-1))
            n = n + common
        return total / n.clamp(min=1)

    @property
    def reals_per_pair(self) -> int:
        return super().reals_per_pair + 4


def _summed(views: Views) -> Float[Tensor, "*n width"]:
    """The sum of the views that each entity has."""
    return joined(views.present.to(views.vectors.dtype), views.vectors)


def _counting(own: Bool[Tensor, "B V"], candidates: Bool[Tensor, "*K V"]) -> Bool[Tensor, "B K V"]:
    """The views that both entities have; without any, the first one."""
    common = common_views(own, candidates)
    return torch.cat([common[..., :1] | ~common.any(-1, keepdim=True), common[..., 1:]], dim=-1)


def loss_of_view(
    view: int, negatives: Negatives, objective: Loss, weight: Float[Tensor, " B"], true: Scores, false: Scores
) -> Float[Tensor, ""]:
    """The loss of one view's own scores, of the rows and the negatives that have it.

        sum_b w_b a_b L_b / sum_b w_b

    a_b is 1 where the row's anchor and its true entity (of a loss that needs all entities, one of the true ones) have
    the view, else 0. Candidates that lack it are no negatives of L_b, nor are those who keep the true entity's vector.
    Divided by the weight of all rows, a view counts by how often it is there, and the loss of a batch is the same in
    parts.

    Args:
        view: its position.
        negatives: what was drawn.
        objective: the loss of the mixed scores.
        weight: of each row.
        true, false: the scores of the true entities (K = 1) and of the negatives.
    """
    s_pos, s_neg = (full(scores.by_view[view]) for scores in (true, false))
    mask, log_weight = negatives.mask, negatives.log_weight
    if objective.needs_all:
        assert mask is not None, "the mask tells what is true"
        assert false.candidates is not None, "of several views"
        # Who lacks the view is no candidate, neither a true nor a false one.
        there = false.candidates[..., view]
        there = there if log_weight is None else there & candidates_of(log_weight)
        counts = false.anchors[:, view] & (row_sum(~mask & there) > 0)
        log_weight = there.to(s_neg.dtype).log().expand_as(s_neg)
    else:
        common = false.common(view)
        counts = true.common(view).squeeze(1)
        mask = common if mask is None else mask & common
        if isinstance(negatives, OwnNegatives) and negatives.kept is not None:
            mask = mask & ~negatives.kept[..., view]
    rows = objective.rows(s_pos.squeeze(1), s_neg, mask, log_weight)
    return (weight * counts * rows).sum() / weight.sum()
