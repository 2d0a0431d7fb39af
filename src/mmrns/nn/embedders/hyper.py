"""Entities as biquaternions of structure and modalities, and of what a relation makes of them jointly: M-Hyper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, cast

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.errors import UsageError
from mmrns.nn.embedders.base import STRUCTURE
from mmrns.nn.embedders.computed import ComputedEmbedder
from mmrns.nn.embedders.table import EntityVectors
from mmrns.nn.kernels import comparisons
from mmrns.nn.lookup import Lookup, Query, Scores
from mmrns.nn.losses import Loss
from mmrns.nn.numerics import full, masked, without_autocast
from mmrns.nn.scorers import BiQUE, Scorer
from mmrns.rng import among
from mmrns.types import Negatives, Views


class Network(nn.Module):
    """Two layers: `W' max(0, W x + b) / sqrt(n) + b'`, with n numbers in between.

    Of vectors of length 1, what is in between has about length 1 as well, so that no number of W or W' counts much
    less than one of an embedding, and one learning rate suits all of them.

    Args:
        n_in, n, n_out: the widths.
        init_range: the results start about as long as vectors uniform on `[-init_range, init_range]`.
    """

    def __init__(self, n_in: int, n: int, n_out: int, init_range: float):
        super().__init__()
        self.first, self.second = nn.Linear(n_in, n), nn.Linear(n, n_out)
        # Rectified, normal numbers have half of their second moment left.
        for layer, std in ((self.first, 1.0), (self.second, init_range * (2 / 3) ** 0.5)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "n n_in"]) -> Float[Tensor, "n n_out"]:
        return self.second(torch.relu(self.first(x)) / self.second.in_features**0.5)


class HyperEmbedder(ComputedEmbedder, name="m-hyper"):
    """Q_e = e_J(r) + e_s i + e_v j + e_t k: structure and two modalities on the bases of d biquaternions, with a joint.

    M-Hyper (ACL 2026), for the scorer `BiQUE`. Each of the four is a vector of d complex numbers. That of a modality is

        e_m = MLP_m(x_m(e)) + u_m(e),     x_m(e) = the mean of the tokens, at mean 0 and length 1

    with a trained vector u_m(e) of the entity's own. The joint is what the relation weighs its parts by,

        e_J(r) = sum_m w_m e_m,     w(e, r) = softmax_m( ( <g_m, e_m> + <c_m, r> + b_m ) / tau_r )

    with the temperature tau_r > 0, a trained number of the relation; anchors and candidates alike are seen so. The
    logits are a sum of the entity's and the relation's, and the score is a product: candidates take one product for
    what lies on the other bases and one for each part of the joint, whatever the relation:

        f = sum_m <q_m, e_m> + sum_m w_m(e, r) <q_J, e_m>

    What an entity lacks is left out of its joint, and its base is 0. The step's loss is added to by

        reconstruction * sum_m || MLP'_m(u_m, x_o of the other modalities o) - x_m ||^2     of anchors and targets
        distillation * || e_J(r) - e_J'(r) ||^2     of anchors

    where e_J' is made of features of which the share `noise` is set to 0, chosen by the step, and e_J has no gradient.
    The authors start u_m at principal components of the features; here it starts at 0. One modality alone leaves the
    last base empty.

    `present` is of the only view, which everyone has. Where no relation is asked about, the vectors hold the joint of
    w = softmax_m <g_m, e_m>; penalties such as N3 are on these vectors.

    Args:
        graph: whose entities they are.
        features: where the modalities are.
        width, init_range, sparse: see `EntityVectors`.
        modalities: names of one or two, in the order of the bases; all of them by default.
        reconstruction: weight of that loss.
        distillation: weight of that loss.
        noise: share of the features that the joint to distill lacks.

    Raises:
        UsageError: there are no modalities, or more than two.
    """

    undivided = ""
    takes_tables_whole = True
    views = (STRUCTURE,)
    scorer = BiQUE
    has_traits = True

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        *,
        width: int,
        init_range: float,
        sparse: bool = False,
        modalities: Sequence[str] | None = None,
        reconstruction: NonNegativeFloat = 1.0,
        distillation: NonNegativeFloat = 1.0,
        noise: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    ):
        super().__init__(graph, features, modalities)
        if len(self.modalities) not in (1, 2):
            raise UsageError(
                f"model.embedder=m-hyper has bases for one or two modalities, not {len(self.modalities)}; name them by "
                "model.modalities"
            )
        widths = [modality.width for modality in self.modalities.values()]
        # Of the vector on one base, and of each relation in the formula.
        part, of_relation = width // 4, 2 * width
        self.structure = EntityVectors(len(graph.entities), part, init_range, sparse=sparse)
        # A vector of the entity's own and a gate start at 0, where they change nothing.
        self.own = nn.ModuleList(EntityVectors(len(graph.entities), part, 0.0, sparse=sparse) for _ in widths)
        self.networks = nn.ModuleList(Network(d, part, part, init_range) for d in widths)
        self.decoders = nn.ModuleList(Network(part + sum(widths) - d, part, d, init_range) for d in widths)
        self.gate = nn.Parameter(torch.zeros(1 + len(widths), part))
        self.relation_gate = nn.Linear(of_relation, 1 + len(widths))
        nn.init.zeros_(self.relation_gate.weight)
        nn.init.zeros_(self.relation_gate.bias)
        self.reconstruction, self.distillation, self.noise = reconstruction, distillation, noise

    @property
    def relation_width(self) -> int:
        return 1

    @property
    def reals_per_pair(self) -> int:
        # Of each part its logit, its weight, its score and the sum so far.
        return 4 * len(self.gate)

    def views_of(self, ids: Int[Tensor, " n"]) -> Views:
        parts, there = self._parts(ids, self.means(ids))
        logits = self._logits(parts, there)
        return Views(self._placed(parts, torch.softmax(logits, dim=-1))[:, None], there[:, :1] | True, logits)

    def anchor(self, views: Views, relation: Float[Tensor, "B relation_width"]) -> Views:
        assert views.traits is not None, "given by `views_of`"
        parts = self._taken_apart(views.vectors.squeeze(-2))
        weights = self._weights(views.traits, self.under(relation))
        return views.with_vectors(self._placed(parts, weights)[:, None])

    def under(self, relation: Float[Tensor, "B relation_width"]) -> Float[Tensor, "B M"]:
        """The relation's logits of the parts, then 1 / tau_r."""
        vectors, number = relation.tensor_split([-1], dim=-1)
        return torch.cat([full(self.relation_gate(vectors)), torch.exp(-number)], dim=-1)

    def compare(self, scorer: Scorer, query: Query, candidates: Views) -> Float[Tensor, "B K"]:
        assert candidates.traits is not None, "given by `views_of`"
        assert query.under is not None, "given by `under`"
        # What the relation's shift adds to every head follows BiQUE's query.
        q, constant = query.vectors[0].tensor_split([-1], dim=-1)
        q, n = q.unflatten(-1, (2, 4, -1)), len(self.gate)
        e = candidates.vectors.squeeze(-2).unflatten(-1, (2, 4, -1))[..., 1 : 1 + n, :]
        found = comparisons.compare("dot", q[:, :, 1 : 1 + n].flatten(1), e.flatten(-3)) + constant
        weights, of_joint = (
            torch.softmax(_logits_of_pairs(candidates.traits, query.under), dim=0),
            q[:, :, 0].flatten(1),
        )
        for weight, part in zip(weights, e.unbind(-2), strict=True):
            found = torch.addcmul(found, weight, comparisons.compare("dot", of_joint, part.flatten(-2)))
        return found

    def loss(
        self, lookup: Lookup, negatives: Negatives, objective: Loss, true: Scores, false: Scores
    ) -> Float[Tensor, ""] | float:
        rows: Tensor | float = 0.0
        if self.reconstruction:
            both = torch.cat([lookup.batch.anchor, lookup.batch.target])
            own, ids = self.here(both)
            rows = rows + self.reconstruction * self.told(self._reconstructed(ids), own, len(both)).view(2, -1).mean(0)
        if self.distillation and self.at is not None:
            own, ids = self.here(lookup.batch.anchor)
            rows = rows + self.distillation * self.told(
                self._distilled(lookup, own, ids, self.at), own, len(lookup.batch)
            )
        return (lookup.batch.weight * rows).sum() / lookup.batch.weight.sum()

    def _reconstructed(self, ids: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """How far what an entity's own vectors and its other modalities tell of each modality is from that."""
        found, total = self.means(ids), torch.zeros((), device=ids.device)
        for m, (x, has) in enumerate(found):
            others = [vector for o, (vector, _) in enumerate(found) if o != m]
            told = full(self.decoders[m](torch.cat([self.own[m](ids), *others], dim=-1)))
            total = total + (told - x).square().sum(-1) * has
        return total

    def _distilled(
        self, lookup: Lookup, own: Int[Tensor, " n"] | slice, ids: Int[Tensor, " n"], step: int
    ) -> Float[Tensor, " n"]:
        """How far the joint of anchors, of the rows whose anchors are here, is from that of features with gaps."""
        anchor, relation, numbers = lookup.anchor[own], lookup.relation[own], self.numbers(ids)
        noisy = [
            (x * ~among(_numbered(numbers, x.shape[1]), self.noise, self.seed, "noise", name, step), has)
            for name, (x, has) in zip(self.modalities, self.means(ids), strict=True)
        ]
        parts, there = self._parts(ids, noisy)
        joint = _mean(parts, self._weights(self._logits(parts, there), self.under(relation)))
        taught = self.anchor(anchor, relation).vectors.squeeze(-2).unflatten(-1, (2, 4, -1))[:, :, 0]
        return full(joint - taught.flatten(1).detach()).square().sum(-1)

    def _parts(
        self, ids: Int[Tensor, " n"], features: Sequence[tuple[Float[Tensor, "n _"], Bool[Tensor, " n"]]]
    ) -> tuple[Float[Tensor, "n V part"], Bool[Tensor, "n V"]]:
        """The vectors of structure and of each modality, 0 where an entity lacks it, and who has it."""
        there = self.known(ids, [has for _, has in features])
        own = (self.rows_of(cast("EntityVectors", table), ids) for table in self.own)
        of_features = (network(x) + rows for network, rows, (x, _) in zip(self.networks, own, features, strict=True))
        return torch.stack([self.rows_of(self.structure, ids), *of_features], dim=1) * there[..., None], there

    def _logits(self, parts: Float[Tensor, "n V part"], there: Bool[Tensor, "n V"]) -> Float[Tensor, "n V"]:
        return masked((parts * self.gate).sum(-1), there)

    def _weights(self, logits: Float[Tensor, "B V"], under: Float[Tensor, "B M"]) -> Float[Tensor, "B V"]:
        return torch.softmax((logits + under[:, :-1]) * under[:, -1:], dim=-1)

    def _placed(self, parts: Float[Tensor, "n V part"], weights: Float[Tensor, "n V"]) -> Float[Tensor, "n width"]:
        """The biquaternions of a joint and its parts: real parts of all bases, then the imaginary ones."""
        bases = [_mean(parts, weights), *parts.unbind(1)]
        bases += [torch.zeros_like(bases[0])] * (4 - len(bases))
        return torch.stack([base.unflatten(-1, (2, -1)) for base in bases], dim=2).flatten(1)

    def _taken_apart(self, vectors: Float[Tensor, "n width"]) -> Float[Tensor, "n V part"]:
        bases = vectors.unflatten(-1, (2, 4, -1)).transpose(1, 2).flatten(2)
        return bases[:, 1 : 1 + len(self.gate)]


def _logits_of_pairs(
    own: Float[Tensor, "B K V"] | Float[Tensor, "P V"], under: Float[Tensor, "B M"]
) -> Float[Tensor, "V B K"]:
    """The logits of all pairs of a row and a candidate, part by part."""
    own, of_relation, scale = full(own), under[:, :-1], under[:, -1:]
    if own.ndim == 3:
        return ((own + of_relation[:, None]) * scale[:, None]).permute(2, 0, 1)
    # Of a pool, (a + b) c = <(a, 1), (c, b c)> in one pass over the pairs. What autocast would round away is not small.
    left = torch.stack([scale.expand_as(of_relation), of_relation * scale], dim=-1)
    with without_autocast(own.device):
        return left.transpose(0, 1) @ torch.stack([own, torch.ones_like(own)]).permute(2, 0, 1)


def _mean(parts: Float[Tensor, "n V part"], weights: Float[Tensor, "n V"]) -> Float[Tensor, "n part"]:
    return (parts * weights[..., None]).sum(1)


def _numbered(ids: Int[Tensor, " n"], width: int) -> Int[Tensor, "n width"]:
    """A number for each entry of each entity's vector."""
    return ids[:, None] * width + torch.arange(width, device=ids.device)
