"""Knowledge-guided cross-modal attention (KCA)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu


@dataclass(frozen=True)
class Tokens:
    """Projected tokens of n entities in one modality: values [n L a], zero where absent, and mask [n L]."""

    values: Float[Tensor, "n L a"]
    mask: Bool[Tensor, "n L"]


class KnowledgeGuidedAttention(nn.Module):
    """KCA reads the tokens of two modalities of an entity under the guidance of a relation, in both directions.

    With projected tokens I_j (first modality, j = 1..L1) and T_k (second, k = 1..L2) of an entity, their affinities
    C_jk = <I_j, T_k>, and gates g1, g2 = sigmoid(W_g r + b_g) of the relation, both viewed L1 x L2:

        first:  X_k = LN( sum_j g1_jk C_jk I_j ) + LN( sum_j softmax_j(C_jk) I_j ),   y1 = W_1 [X_1 .. X_L2] + b_1
        second: Z_j = LN( sum_k g2_jk C_jk T_k ) + LN( sum_k softmax_k(C_jk) T_k ),   y2 = W_2 [Z_1 .. Z_L1] + b_2

    (Xu et al., MMRNS, ACM MM 2022, section 4.2, after the authors' code; one LayerNorm is shared.) With a single
    modality
    the attention is over the entity itself: I = T, and there is only y1.

    Missing tokens: an absent token has no attention weight; where the guiding token is absent, attention is the mean of
    the present tokens and the guided term is 0.

    Args:
        tokens: L of each modality (one or two of them).
        widths: D of each modality.
        relation_width: width of a relation vector.
        width: a, the width of projected tokens and of y.
    """

    def __init__(self, tokens: tuple[int, ...], widths: tuple[int, ...], relation_width: int, width: int):
        super().__init__()
        if len(tokens) not in (1, 2) or len(tokens) != len(widths):
            raise ValueError(f"one or two modalities, got tokens {tokens} and widths {widths}")
        n = len(tokens)
        self.tokens = (tokens[0], tokens[-1])
        self.project = nn.ModuleList(nn.Linear(w, width) for w in widths)
        self.gate = nn.ModuleList(nn.Linear(relation_width, tokens[0] * tokens[-1]) for _ in range(n))
        self.out = nn.ModuleList(nn.Linear(tokens[n - 1 - m] * width, width) for m in range(n))
        self.norm = nn.LayerNorm(width)

    @property
    def n_modalities(self) -> int:
        """One or two."""
        return len(self.project)

    def encode(self, modality: int, values: Float[Tensor, "n L D"], mask: Bool[Tensor, "n L"]) -> Tokens:
        """Project raw tokens; absent ones become exactly zero."""
        projected = leaky_relu(self.project[modality](values), 0.1)
        return Tokens(projected * mask[..., None], mask)

    def gates(self, modality: int, relations: Float[Tensor, "*R relation_width"]) -> Float[Tensor, "*R L1 L2"]:
        """Relation gates of one modality, between 0 and 1."""
        return torch.sigmoid(self.gate[modality](relations)).unflatten(-1, self.tokens)

    def outer(self, relations: Float[Tensor, "R relation_width"], tokens: list[Tokens]) -> list[Float[Tensor, "R n a"]]:
        """Y of every (relation, entity) pair, one tensor a modality."""
        return self._attend([self.gates(m, relations)[:, None] for m in range(self.n_modalities)], tokens)

    def paired(
        self, relations: Float[Tensor, "n relation_width"], tokens: list[Tokens], *, omit_first_norm: bool = False
    ) -> list[Float[Tensor, "n a"]]:
        """Y of each entity under its own relation.

        Args:
            relations: a relation vector for each entity.
            tokens: the entities' tokens, one a modality.
            omit_first_norm: leave the LayerNorm out of the first modality's attention term (a bug of the authors'
                code).
        """
        gates = [self.gates(m, relations)[None] for m in range(self.n_modalities)]
        return [y.squeeze(0) for y in self._attend(gates, tokens, omit_first_norm)]

    def _attend(
        self, gates: list[Float[Tensor, "R #n L1 L2"]], tokens: list[Tokens], omit_first_norm: bool = False
    ) -> list[Float[Tensor, "R n a"]]:
        first, second = tokens[0], tokens[-1]
        affinity = torch.einsum("nja,nka->njk", first.values, second.values)
        ys = [self._read(0, gates[0], affinity, first, second, omit_first_norm)]
        if self.n_modalities == 2:
            ys.append(self._read(1, gates[1].mT, affinity.mT, second, first))
        return ys

    def _read(
        self,
        modality: int,
        gate: Float[Tensor, "R #n L M"],
        affinity: Float[Tensor, "n L M"],
        read: Tokens,
        guide: Tokens,
        omit_norm: bool = False,
    ) -> Float[Tensor, "R n a"]:
        guided = torch.einsum("rnjk,nja->rnka", gate * affinity, read.values)
        lowest = torch.finfo(affinity.dtype).min
        attention = torch.softmax(affinity.masked_fill(~read.mask[..., None], lowest), dim=1)
        attended = torch.einsum("njk,nja->nka", attention, read.values)
        if not omit_norm:
            attended = self.norm(attended)
        mixed = self.norm(guided) * guide.mask[..., None] + attended
        return self.out[modality](mixed.flatten(-2))


class EntityGate(nn.Module):
    """y = e * sigmoid(W3 phi(W1 [e; r] + b1) + b3), phi = LeakyReLU: an entity's vector as a relation sees it.

    Args:
        entity_width, relation_width: widths of e and r.
        width: hidden units.
    """

    def __init__(self, entity_width: int, relation_width: int, width: int):
        super().__init__()
        self.entity_width = entity_width
        self.hidden = nn.Linear(entity_width + relation_width, width)
        self.gate = nn.Linear(width, entity_width)

    def forward(
        self, relations: Float[Tensor, "*R relation_width"], entities: Float[Tensor, "*n width"]
    ) -> Float[Tensor, "*Rn width"]:
        """Broadcasts: relations [R 1 Dr] with entities [n D] give [R n D]; [n Dr] with [n D] give [n D]."""
        # W1 [e; r] = W1e e + W1r r, so that no pair is ever concatenated.
        of_entity, of_relation = self.hidden.weight.split([self.entity_width, relations.shape[-1]], dim=1)
        hidden = entities @ of_entity.T + (relations @ of_relation.T + self.hidden.bias)
        return entities * torch.sigmoid(self.gate(leaky_relu(hidden, 0.1)))
