"""Entities by one vector, which a Transformer makes of their structure and the tokens of their modalities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention

from mmrns.data.features import Features
from mmrns.data.graph import KnowledgeGraph
from mmrns.errors import UsageError
from mmrns.nn.embedders.base import STRUCTURE
from mmrns.nn.embedders.computed import ComputedEmbedder
from mmrns.nn.embedders.table import EntityVectors
from mmrns.nn.lookup import Lookup, Scores
from mmrns.nn.losses import Loss
from mmrns.nn.numerics import masked
from mmrns.rng import among, generator
from mmrns.types import Negatives, Views

Share = Annotated[float, Field(ge=0, lt=1)]
Drop = Callable[[Float[Tensor, "n S width"], str], Float[Tensor, "n S width"]]
"""What a layer leaves out of vectors, and for what purpose."""

TEMPERATURE = 0.5
"""Of the cosines that the contrastive loss compares, as published."""


class TransformerLayer(nn.Module):
    """A layer of a Transformer encoder, normalised after each of its two parts (Vaswani et al., 2017).

        x' = LN( x + drop(attention(x)) )        y = LN( x' + drop( W_2 relu(W_1 x') ) )

    Args:
        width: of the tokens.
        heads: of the attention, each of as many numbers.
        inner: width of the hidden layer, of W_1.
    """

    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.inner, self.outer = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        for linear in (self.query, self.key_value, self.out, self.inner, self.outer):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, x: Float[Tensor, "n S width"], mask: Bool[Tensor, "n S"], drop: Drop, *, first: bool = False
    ) -> Float[Tensor, "n T width"]:
        """The tokens after the layer.

        Args:
            x: the tokens.
            mask: which of them are there; of each row one at least.
            drop: what is left out.
            first: give the first token alone, at the cost of its own part and of the others' keys and values.
        """
        asking = x[:, :1] if first else x
        key, value = (self._heads(part) for part in self.key_value(x).chunk(2, dim=-1))
        query = self._heads(self.query(asking))
        seen = scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
        y = self.norms[0](asking + drop(self.out(seen.transpose(1, 2).flatten(2)), "attention"))
        return self.norms[1](y + drop(self.outer(torch.relu(self.inner(y))), "inner"))

    def _heads(self, x: Float[Tensor, "n S m"]) -> Float[Tensor, "n heads S k"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


@dataclass(frozen=True)
class Tokens:
    """The tokens of entities: [CLS], the structural one, then those of each modality.

    Attributes:
        values: Float[n S width].
        mask: Bool[n S].
        sizes: how many there are of each modality.
    """

    values: Float[Tensor, "n S width"]
    mask: Bool[Tensor, "n S"]
    sizes: tuple[int, ...]


class MyGOEmbedder(ComputedEmbedder, name="mygo"):
    """The view `joint`: what a Transformer encoder makes of [CLS] before an entity's structure and its tokens.

        x_s = drop(LN(e_s)) + p_s        x_mj = drop(LN(W_m token_mj)) + p_m        v(e) = encoder([CLS], x_s, ..)_1

    Zhang et al., "MyGO: Discrete Modality Information as Fine-Grained Tokens for Multi-modal Knowledge Graph
    Completion", 2024. p is one trained vector for structure and one for each modality.
    Tokens that are masked take no part, nor does the structure of an entity that no train triple mentions and that
    has a token. Of the last layer only what [CLS] needs is computed, and only for the entities that a step touches.

    With `contrastive` the loss has the mean over four kinds of o, of two modalities, of

        - ln [ exp(cos(v_i, o_i) / 0.5) / sum_j exp(cos(v_i, o_j) / 0.5) ]

    added by that weight, over random entities i, j, where o is made of the encoder's output with other noise: that
    of [CLS], the mean of all tokens, and for each modality the mean of its tokens, over the entities that have any.
    With fewer modalities, or more, there are fewer kinds, or more.

    What a step leaves out is a function of the entity, the step and the seed, so that all looks at an entity in a step
    are the same. Left out are the authors' decoder, a further Transformer over (h, r, mask) before the scorer, and
    their tokenizers: tokens are those of the features, whatever encoder made them, and are not trained.

    Args:
        graph: whose entities they are.
        features: where the modalities are.
        width, init_range, sparse: see `EntityVectors`.
        modalities: names of the modalities; all of them by default.
        heads: of the attention; they divide the width.
        layers: of the encoder.
        inner: width of a layer's hidden layer.
        dropout: share of the numbers that a step drops in the layers.
        structure_noise: the same, of the structural token.
        token_noise: the same, of the modalities' tokens.
        contrastive: weight of the contrastive loss; 0 = none.
        contrasted: how many entities a step contrasts.

    Raises:
        UsageError: the heads do not divide the width.
    """

    undivided = ""
    takes_tables_whole = True
    views = ("joint",)

    def __init__(
        self,
        graph: KnowledgeGraph,
        features: Features,
        *,
        width: int,
        init_range: float,
        sparse: bool = False,
        modalities: Sequence[str] | None = None,
        heads: PositiveInt = 2,
        layers: PositiveInt = 1,
        inner: PositiveInt = 1024,
        dropout: Share = 0.0,
        structure_noise: Share = 0.0,
        token_noise: Share = 0.0,
        contrastive: NonNegativeFloat = 0.0,
        contrasted: PositiveInt = 512,
    ):
        super().__init__(graph, features, modalities)
        if width % heads:
            raise UsageError(f"model.heads: {heads} heads do not divide the {width} reals of an entity's vector")
        self.dropout, self.structure_noise, self.token_noise = dropout, structure_noise, token_noise
        self.contrastive, self.contrasted = contrastive, contrasted
        self.structure = EntityVectors(len(graph.entities), width, init_range, sparse=sparse)
        self.projections = nn.ModuleList(nn.Linear(m.width, width) for m in self.modalities.values())
        kinds = 1 + len(self.modalities)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(kinds))
        # What all entities have in common starts at 0, so that they differ.
        self.first, self.place = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(kinds, width))
        made = [TransformerLayer(width, heads, inner) for _ in range(layers)]
        # What is normalised has numbers of variance 1, a vector at the start that of the uniform distribution.
        nn.init.constant_(made[-1].norms[1].weight, init_range / 3**0.5)  # pyright: ignore[reportArgumentType]
        self.layers = nn.ModuleList(made)

    def views_of(self, ids: Int[Tensor, " n"]) -> Views:
        vectors = self._encoded(ids, self.tokens(ids), first=True)
        return Views(vectors, torch.ones_like(ids, dtype=torch.bool)[:, None])

    def tokens(self, ids: Int[Tensor, " n"], *, again: str = "") -> Tokens:
        """The tokens that the encoder is given.

        Args:
            ids: the entities.
            again: names other noise than that of the step's vectors.
        """
        found = [m.gather(ids) for m in self.modalities.values()]
        sizes = tuple(mask.shape[1] for _, mask in found)
        structure = self.rows_of(self.structure, ids)
        known = self.seen[ids] | ~torch.cat([mask for _, mask in found], dim=1).any(1)
        kinds = [(self.norms[0](structure)[:, None], known[:, None], self.structure_noise, STRUCTURE)]
        for name, norm, project, (values, mask) in zip(
            self.modalities, self.norms[1:], self.projections, found, strict=True
        ):
            kinds.append((norm(project(values.to(structure.dtype))), mask, self.token_noise, name))
        parts = [self.first.expand(len(ids), 1, -1)]
        for place, (values, _, share, name) in zip(self.place, kinds, strict=True):
            parts.append(self._dropped(values, ids, share, f"{name}{again}") + place)
        there = torch.ones_like(known)[:, None]
        masks = [there, *(mask for _, mask, _, _ in kinds)]
        # Under autocast the parts differ in type.
        return Tokens(torch.cat([part.to(structure.dtype) for part in parts], dim=1), torch.cat(masks, dim=1), sizes)

    def _encoded(
        self, ids: Int[Tensor, " n"], tokens: Tokens, *, first: bool, again: str = ""
    ) -> Float[Tensor, "n T width"]:
        """What the encoder makes of the tokens, or of the first."""
        x, last = tokens.values, len(self.layers) - 1
        for place, layer in enumerate(self.layers):

            def drop(values: Tensor, what: str, place: int = place) -> Tensor:
                return self._dropped(values, ids, self.dropout, f"{what} {place}{again}")

            x = layer(x, tokens.mask, drop, first=first and place == last)
        return x.to(self.structure.weight.dtype)

    def _dropped(
        self, x: Float[Tensor, "n S width"], ids: Int[Tensor, " n"], share: float, what: str
    ) -> Float[Tensor, "n S width"]:
        """Numbers of which a step sets a share to 0 and scales up the others, the same ones for each entity."""
        if self.at is None or not share:
            return x
        numbers = torch.arange(x.shape[1:].numel(), device=x.device).view(x.shape[1:])
        # So many are not of any two entities the same.
        of_entity = (self.numbers(ids) << 24)[:, None, None] + numbers
        return x * ~among(of_entity, share, self.seed, what, self.at) / (1 - share)

    def loss(
        self, lookup: Lookup, negatives: Negatives, objective: Loss, true: Scores, false: Scores
    ) -> Float[Tensor, ""] | float:
        """The contrastive loss, by its weight."""
        if not self.contrastive or self.at is None:
            return 0.0
        device = self.seen.device
        stream = generator(self.seed, "contrasted", self.at, device=device)
        ids = torch.randperm(self.n_all, generator=stream, device=device)[: self.contrasted]
        return self.contrastive * self.contrast(ids)

    def contrast(self, numbers: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """The contrastive loss of these entities, without its weight."""
        rows, ids = self.here(numbers)
        own = self._encoded(ids, self.tokens(ids), first=True).squeeze(1)
        tokens = self.tokens(ids, again=" again")
        output = self._encoded(ids, tokens, first=False, again=" again")
        others = [(output[:, 0], tokens.mask[:, 0]), _mean(output, tokens.mask)]
        _, *of_modalities = zip(
            output.split([2, *tokens.sizes], dim=1), tokens.mask.split([2, *tokens.sizes], dim=1), strict=True
        )
        others += [_mean(*part) for part in of_modalities]
        vectors = torch.stack([own, *(other for other, _ in others)], dim=1)
        flags = torch.stack([has for _, has in others], dim=1).to(vectors.dtype)
        vectors, flags = (self.told(values, rows, len(numbers)) for values in (vectors, flags))
        own, *told = vectors.unbind(1)
        return torch.stack([info_nce(own, *pair) for pair in zip(told, (flags > 0).unbind(1), strict=True)]).mean()


def info_nce(
    own: Float[Tensor, "n width"], other: Float[Tensor, "n width"], there: Bool[Tensor, " n"]
) -> Float[Tensor, ""]:
    """The mean over i of `-ln softmax_j( cos(own_i, other_j) / 0.5 )_i`, of those i and j that are there; 0 of none."""
    cosines = normalize(own, dim=-1) @ normalize(other, dim=-1).T
    logits = masked(cosines / TEMPERATURE, there)
    rows = logits.logsumexp(1) - logits.diagonal()
    return (rows * there).sum() / there.sum().clamp(min=1)


def _mean(
    values: Float[Tensor, "n S width"], mask: Bool[Tensor, "n S"]
) -> tuple[Float[Tensor, "n width"], Bool[Tensor, " n"]]:
    """The mean of the tokens that are there, and whether any is."""
    n = mask.sum(1, keepdim=True)
    return (values * mask[..., None]).sum(1) / n.clamp(min=1), n.squeeze(1) > 0
