"""Knowledge-guided cross-modal attention (KCA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from mmrns.nn.numerics import masked
from mmrns.samplers.explanation import AttentionMap
from mmrns.samplers.mmrns.grouped import Gated, folded_values


@dataclass(frozen=True)
class Tokens:
    """Projected tokens of n entities in one modality.

    Attributes:
        values: Float[n L a], zero where absent.
        mask: Bool[n L], True where present; None where all are.
    """

    values: Float[Tensor, "n L a"]
    mask: Bool[Tensor, "n L"] | None

    @staticmethod
    def concatenate(parts: Sequence[Tokens], dim: int = 0) -> Tokens:
        """The tokens of several lists of entities or, along `dim` 1, of several modalities, one after the other."""
        masks = [t.mask for t in parts if t.mask is not None]
        return Tokens(torch.cat([t.values for t in parts], dim), torch.cat(masks, dim) if masks else None)

    def index_select(self, rows: Int[Tensor, " m"]) -> Tokens:
        """Those of some of the entities."""
        return Tokens(self.values.index_select(0, rows), None if self.mask is None else self.mask.index_select(0, rows))

    def split(self, sizes: Sequence[int]) -> list[Tokens]:
        """Those of the entities in parts of these sizes."""
        masks = [None] * len(sizes) if self.mask is None else self.mask.split(list(sizes))
        return [Tokens(*part) for part in zip(self.values.split(list(sizes)), masks, strict=True)]

    def only(self, values: Float[Tensor, "*n L a"]) -> Float[Tensor, "*n L a"]:
        """What is made of each token, and zeros for those that are absent."""
        return values if self.mask is None else values * self.mask[..., None]


@dataclass(frozen=True)
class Folded:
    """LayerNorm and output projection of the guided term, folded into blocks of the entity.

    With I0_j the token I_j less its mean, W_k the k-th block of the output projection, gamma and beta those of the
    LayerNorm,

        y(r) = constant + sum_jk (g_jk / sd_k) blocks_jk        blocks_jk = C_jk W_k (gamma * I0_j)
        sd_k^2 = sum_ji g_jk g_ik pairs_kji + eps               pairs_kji = C_jk C_ik <I0_j, I0_i> / a

    The LayerNorm of a linear combination of tokens is linear in the centred tokens but for its standard deviation, and
    that is a quadratic form in the gates.

    Attributes:
        constant: Float[n a].
        blocks: Float[n L*M a].
        pairs: Float[M n L*L].
    """

    constant: Float[Tensor, "n a"]
    blocks: Float[Tensor, "n LM a"]
    pairs: Float[Tensor, "M n LL"]


@dataclass(frozen=True)
class EntityTerms:
    """The part of one modality's y that depends on the entities alone: L tokens are read, M of the others guide.

    Attributes:
        modality: which of the attention's modalities is read.
        affinity: Float[n L M], C.
        values: Float[n L a], the tokens read.
        guide: the tokens that guide.
        attended: Float[n M a], the attention terms.
        folded: the folded form, where it is cheaper.
    """

    modality: int
    affinity: Float[Tensor, "n L M"]
    values: Float[Tensor, "n L a"]
    guide: Tokens
    attended: Float[Tensor, "n M a"]
    folded: Folded | None = None


class KnowledgeGuidedAttention(nn.Module):
    """KCA reads the tokens of an entity's modalities under the guidance of a relation, each modality as the others ask.

    Of two modalities, with projected tokens I_j (first, j = 1..L1) and T_k (second, k = 1..L2) of an entity, their
    affinities C_jk = <I_j, T_k>, and gates g1, g2 = sigmoid(W_g r + b_g) of the relation, both viewed L1 x L2:

        first:  X_k = LN( sum_j g1_jk C_jk I_j ) + LN( sum_j softmax_j(C_jk) I_j ),   y1 = W_1 [X_1 .. X_L2] + b_1
        second: Z_j = LN( sum_k g2_jk C_jk T_k ) + LN( sum_k softmax_k(C_jk) T_k ),   y2 = W_2 [Z_1 .. Z_L1] + b_2

    (Xu et al., MMRNS, ACM MM 2022, section 4.2, after the authors' code; one LayerNorm is shared.) Of more than two,
    each modality is guided by the tokens of all others, one after the other: T is then their list. With a single
    modality the attention is over the entity itself: I = T, and there is only y1.

    Missing tokens: an absent token has no attention weight; where the guiding token is absent, attention is the mean of
    the present tokens and the guided term is 0.

    Args:
        tokens: L of each modality.
        widths: D of each modality.
        relation_width: width of a relation vector.
        width: a, the width of projected tokens and of y.
    """

    def __init__(self, tokens: tuple[int, ...], widths: tuple[int, ...], relation_width: int, width: int):
        super().__init__()
        if not tokens or len(tokens) != len(widths):
            raise ValueError(f"at least one modality, as many tokens as widths: got {tokens} and {widths}")
        self.tokens, self.widths, self.width = tokens, widths, width
        guides = [self._counts(m)[1] for m in range(len(tokens))]
        self.project = nn.ModuleList(nn.Linear(w, width) for w in widths)
        self.gate = nn.ModuleList(nn.Linear(relation_width, n * m) for n, m in zip(tokens, guides, strict=True))
        self.out = nn.ModuleList(nn.Linear(m * width, width) for m in guides)
        self.norm = nn.LayerNorm(width)

    @property
    def n_modalities(self) -> int:
        """How many modalities are read."""
        return len(self.tokens)

    def encode(self, modality: int, values: Float[Tensor, "n L D"], mask: Bool[Tensor, "n L"] | None) -> Tokens:
        """Project raw tokens; absent ones, unless all take part, become exactly zero, whatever they are."""
        projected = leaky_relu(self.project[modality](values.to(self.norm.weight.dtype)), 0.1)
        return Tokens(projected if mask is None else projected.masked_fill(~mask[..., None], 0.0), mask)

    def gates(self, relations: Float[Tensor, "*R relation_width"]) -> list[Float[Tensor, "*R _ _"]]:
        """Relation gates of each modality, between 0 and 1, as [.. read token, guiding token]."""
        gates = [torch.sigmoid(gate(relations)) for gate in self.gate]
        # As in the authors' code, the gates of two modalities both list the tokens of the first one first.
        first = gates[0].unflatten(-1, self._counts(0))
        others = [g.unflatten(-1, self._counts(m)[::-1]).mT for m, g in enumerate(gates[1:], 1)]
        return [first, *others]

    def outer(self, gates: list[Float[Tensor, "R _ _"]], terms: list[EntityTerms]) -> list[Float[Tensor, "R n a"]]:
        """The values y of every (relation, entity) pair, one tensor a modality, by the relations' `gates`.

        A term that is folded is combined in its folded form, any other in the direct form of the class docstring.
        """
        return [
            self._combine_folded(gate, term.folded) if term.folded else self._combine(gate[:, None], term)
            for gate, term in zip(gates, terms, strict=True)
        ]

    def paired(
        self, gates: list[Float[Tensor, "n _ _"]], tokens: list[Tokens], *, omit_first_norm: bool = False
    ) -> list[Float[Tensor, "n a"]]:
        """The values y of each entity under its own relation.

        Args:
            gates: of each entity's relation, one tensor a modality.
            tokens: the entities' tokens, one a modality.
            omit_first_norm: leave the LayerNorm out of the first modality's attention term (a bug of the authors'
                code).
        """
        found: list[Tensor] = []
        for m, (gate, (affinity, read, guide)) in enumerate(zip(gates, self._read(tokens), strict=True)):
            # Both sums over the tokens read are one product, and one LayerNorm.
            weights = torch.cat([gate * affinity, _attention(affinity, read)], dim=2)
            sums = torch.einsum("njk,nja->nka", weights, read.values)
            normed = self.norm(sums)
            n_guide = affinity.shape[2]
            attended = (sums if omit_first_norm and m == 0 else normed)[:, n_guide:]
            mixed = guide.only(normed[:, :n_guide]) + attended
            found.append(self.out[m](mixed.flatten(1)))
        return found

    def terms(self, tokens: list[Tokens], *, n_relations: int = 0) -> list[EntityTerms]:
        """What of y depends on the entities alone, one term a modality.

        Args:
            tokens: the entities' tokens, one a modality.
            n_relations: relations that the terms will be combined with; where that is cheaper they are folded.
        """
        return [
            self._terms(m, affinity, read, guide, n_relations)
            for m, (affinity, read, guide) in enumerate(self._read(tokens))
        ]

    def _read(self, tokens: list[Tokens]) -> list[tuple[Float[Tensor, "n L M"], Tokens, Tokens]]:
        """Of each modality the affinities, the tokens that are read, and those that guide."""
        found: list[tuple[Tensor, Tokens, Tokens]] = []
        for m, read in enumerate(tokens):
            others = [*tokens[:m], *tokens[m + 1 :]] or [read]
            if len(tokens) == 2 and found:
                # As it is made, so that nothing made of it is copied.
                affinity, guide = found[0][0].mT.contiguous(), others[0]
            else:
                guide = others[0] if len(others) == 1 else Tokens.concatenate(others, dim=1)
                affinity = torch.einsum("nja,nka->njk", read.values, guide.values)
            found.append((affinity, read, guide))
        return found

    def maps(
        self, relations: Float[Tensor, "n relation_width"], tokens: list[Tokens], names: Sequence[str]
    ) -> tuple[AttentionMap, ...]:
        """How each entity's tokens are read under its own relation, one map a modality: for the eyes of people.

        Args:
            relations: a relation vector for each entity.
            tokens: the entities' tokens, one a modality.
            names: of the modalities.
        """

        def guides(m: int) -> str:
            return " + ".join([*names[:m], *names[m + 1 :]] or names)

        def there(part: Tokens) -> Bool[Tensor, "n L"]:
            return torch.ones_like(part.values[..., 0], dtype=torch.bool) if part.mask is None else part.mask

        return tuple(
            AttentionMap(names[m], guides(m), c, _attention(c, read), gate, there(read), there(guide))
            for m, (gate, (c, read, guide)) in enumerate(zip(self.gates(relations), self._read(tokens), strict=True))
        )

    def folds(self, modality: int, n_relations: int) -> bool:
        """Whether folding a modality takes fewer products than the direct form.

        Per entity, with L read and M guiding tokens, the direct form takes `R M a (L + a)` products and the folded one
        `L M a^2 + R M (L a + L^2)`.
        """
        n_read, n_guide = self._counts(modality)
        a = self.width
        direct = n_relations * n_guide * a * (n_read + a)
        folded = n_read * n_guide * a * a + n_relations * n_guide * n_read * (a + n_read)
        return folded < direct

    def reals_per_pair(self, n_relations: int) -> int:
        """Estimate of the reals that `outer` and its backward pass hold for each (relation, entity) pair."""
        total = 0
        for m in range(self.n_modalities):
            n_read, n_guide = self._counts(m)
            # Coefficients, their gradient and product; or guided tokens, normalised, mixed, and their gradients.
            held = 3 * n_read if self.folds(m, n_relations) else 2 * n_read + 7 * self.width
            total += n_guide * (held + 3) + 3 * self.width
        return total

    def reals_per_entity(self, n_relations: int) -> int:
        """Estimate of the reals that the tokens and `terms` of an entity and their backward pass hold."""
        total = 0
        for m, width in enumerate(self.widths):
            n_read, n_guide = self._counts(m)
            total += n_read * (width + 4 * self.width) + 4 * n_guide * (n_read + self.width)
            if self.folds(m, n_relations):
                total += n_guide * n_read * (3 * self.width + 4 * n_read)
        return total

    def _counts(self, modality: int) -> tuple[int, int]:
        """Tokens read and tokens that guide."""
        read = self.tokens[modality]
        return read, sum(self.tokens) - read or read

    def _terms(
        self,
        modality: int,
        affinity: Float[Tensor, "n L M"],
        read: Tokens,
        guide: Tokens,
        n_relations: int,
    ) -> EntityTerms:
        attention = _attention(affinity, read)
        attended = self.norm(torch.einsum("njk,nja->nka", attention, read.values))
        term = EntityTerms(modality, affinity, read.values, guide, attended)
        return replace(term, folded=self._fold(term)) if self.folds(modality, n_relations) else term

    def _combine(self, gate: Float[Tensor, "R #n L M"], term: EntityTerms) -> Float[Tensor, "R n a"]:
        guided = torch.einsum("rnjk,nja->rnka", gate * term.affinity, term.values)
        mixed = term.guide.only(self.norm(guided)) + term.attended
        return self.out[term.modality](mixed.flatten(-2))

    def _fold(self, term: EntityTerms) -> Folded:
        n, n_read, n_guide = term.affinity.shape
        a = term.values.shape[-1]
        out = self.out[term.modality]
        assert isinstance(out, nn.Linear)
        weight = out.weight.view(a, n_guide, a).transpose(0, 1) * self.norm.weight
        constant = out((term.attended + term.guide.only(self.norm.bias.expand_as(term.attended))).flatten(-2))
        centred = term.values - term.values.mean(-1, keepdim=True)
        projected = (centred.flatten(0, 1) @ weight.flatten(0, 1).T).view(n, n_read, n_guide, a)
        blocks = (term.affinity[..., None] * projected).flatten(1, 2)
        gram = centred @ centred.mT / a
        guide = term.affinity.permute(2, 0, 1)
        pairs = guide[..., None] * guide[..., None, :] * gram
        return Folded(constant, blocks, pairs.flatten(2))

    def _combine_folded(self, gate: Float[Tensor, "R L M"], folded: Folded) -> Float[Tensor, "R n a"]:
        given = folded.constant, folded.blocks, folded.pairs
        return folded_values(gate.permute(1, 2, 0).contiguous(), *given, self.norm.eps)


def _attention(affinity: Float[Tensor, "n L M"], read: Tokens) -> Float[Tensor, "n L M"]:
    """Softmax over the tokens read; absent ones have no weight."""
    return torch.softmax(affinity if read.mask is None else masked(affinity, read.mask[..., None]), dim=1)


class Summary(nn.Module):
    """z_m = S_m [I_1; ..; I_L] + c_m: all tokens of a modality in one linear map, each place with its own part of it.

    Args:
        tokens: L of each modality.
        widths: D of each modality.
        width: a, the width of z.
    """

    def __init__(self, tokens: tuple[int, ...], widths: tuple[int, ...], width: int):
        super().__init__()
        self.map = nn.ModuleList(nn.Linear(n * w, width) for n, w in zip(tokens, widths, strict=True))

    def forward(self, tokens: Sequence[tuple[Float[Tensor, "n _ _"], Bool[Tensor, "n _"]]]) -> Float[Tensor, "n T a"]:
        """Of raw tokens and masks; absent tokens are 0, whatever they hold."""
        parts: list[Tensor] = []
        for part, (values, mask) in zip(self.map, tokens, strict=True):
            assert isinstance(part, nn.Linear)
            # Place by place, since what a token becomes has fewer numbers to be left out than the token.
            by_place = part.weight.unflatten(1, values.shape[1:]).permute(1, 2, 0)
            found = values.to(part.weight.dtype).transpose(0, 1) @ by_place
            parts.append(found.masked_fill(~mask.T[..., None], 0.0).sum(0) + part.bias)
        return torch.stack(parts, dim=1)


class EntityGate(nn.Module):
    """y = e * sigmoid(W3 phi(W1 [e; r] + b1) + b3), phi = LeakyReLU: an entity's vector as a relation sees it.

    Args:
        entity_width, relation_width: widths of e and r.
        width: hidden units.
    """

    SLOPE = 0.1

    def __init__(self, entity_width: int, relation_width: int, width: int):
        super().__init__()
        self.entity_width = entity_width
        self.hidden = nn.Linear(entity_width + relation_width, width)
        self.gate = nn.Linear(width, entity_width)

    def forward(
        self, relations: Float[Tensor, "*R relation_width"], entities: Float[Tensor, "*n width"]
    ) -> Float[Tensor, "*Rn width"]:
        """Broadcasts: relations [R 1 Dr] with entities [n D] give [R n D]; [n Dr] with [n D] give [n D]."""
        of_entity, of_relation = self._halves(relations, entities)
        return entities * torch.sigmoid(self.gate(leaky_relu(of_entity + of_relation, self.SLOPE)))

    def gated(
        self,
        own: Float[Tensor, "B width"],
        relations: Float[Tensor, "R relation_width"],
        entities: Float[Tensor, "n width"],
    ) -> Gated:
        """What `grouped_cosines` gates: each row's true entity by its own relation, all others by every one."""
        of_entity, of_relation = self._halves(relations, entities)
        of_own = own @ self.hidden.weight[:, : self.entity_width].T
        return Gated(own, of_own, entities, of_entity, of_relation, self.gate.weight, self.gate.bias, self.SLOPE)

    def _halves(
        self, relations: Float[Tensor, "*R relation_width"], entities: Float[Tensor, "*n width"]
    ) -> tuple[Float[Tensor, "*n hidden"], Float[Tensor, "*R hidden"]]:
        # W1 [e; r] + b1 = W1e e + (W1r r + b1), so that no pair is ever concatenated.
        of_entity, of_relation = self.hidden.weight.split([self.entity_width, relations.shape[-1]], dim=1)
        return entities @ of_entity.T, relations @ of_relation.T + self.hidden.bias
