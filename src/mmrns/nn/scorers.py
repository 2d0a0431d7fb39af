"""Scorers: one class, one formula each. Scores are bare (no margin); larger = more plausible.

A scorer turns (anchor, relation) into a query once and compares it with many candidates, so that one formula serves a
triple, K negatives and all entities. What the formula does to the candidates under the relation (TransD, PairRE) the
query carries along. Arithmetic is real: d complex numbers are d real parts, then d imaginary parts. To add one:
subclass `Scorer` with a `name`, define `query`, name the `comparison`, and give it an entry in the tests' table.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from mmrns.nn.kernels import comparisons
from mmrns.registry import Named, Registry
from mmrns.rng import generator, stream_seed
from mmrns.types import Projected

Queries = Float[Tensor, "B width"]
Candidates = Float[Tensor, "B K width"] | Float[Tensor, "P width"]
Scores = Float[Tensor, "B K"]
Share = Annotated[float, Field(ge=0, lt=1)]


class Scorer(Named, nn.Module, ABC):
    """Bare scores f(h, r, t). What parameters it has are trained and stored with the model's.

    Args:
        dim: d, the embedding dimension.
        init_range: embeddings start uniform on `[-init_range, init_range]`.
    """

    registry: ClassVar[Registry[Scorer]] = Registry("scorer", "mmrns.nn.scorers")

    comparison: comparisons.Kind | None = None
    """How a query and a candidate are compared: `dot`, their product; `l1` and `l2`, minus the length of their
    difference in that norm; `modulus`, minus the sum of the moduli of their complex difference. None: `compare` is
    overridden."""

    distance: ClassVar[bool] = False
    """True when scores are negated distances, to which the loss adds its margin gamma."""

    components: ClassVar[int] = 1
    """Reals in each of the numbers that entity and relation vectors alike consist of: 1, 2 of complex numbers, 8 of
    biquaternions. Vectors hold the first components of all their numbers, then the second ones, and so on. N3 cubes the
    numbers' moduli."""

    batch_norm: bool = False
    """True where a training step normalises its queries over the batch. A triple's tail and its head are then asked for
    by two formulas, so that heads take reciprocal relations; and the statistics are those of a single view."""

    def __init__(self, dim: int, init_range: float):
        super().__init__()
        self.dim, self.init_range = dim, init_range

    @property
    def entity_width(self) -> int:
        """Reals in an entity vector."""
        return self.dim

    @property
    def relation_width(self) -> int:
        """Reals in a relation vector."""
        return self.dim

    @abstractmethod
    def query(
        self, anchor: Queries, relation: Float[Tensor, "B relation_width"], head: bool
    ) -> Float[Tensor, "B query_width"]:
        """What every candidate is compared with; `head` = the candidates replace the head."""

    @property
    def linear(self) -> bool:
        """True where the score of a mean of queries, or of candidates, is the mean of their scores: of products."""
        return self.comparison == "dot"

    @property
    def varies(self) -> bool:
        """True where `query_in_step` differs from `query`."""
        return False

    def query_in_step(
        self, anchor: Queries, relation: Float[Tensor, "B relation_width"], head: bool, step: int
    ) -> Float[Tensor, "B query_width"]:
        """The queries of a training step, which may depend on chance, as a function of the step, and on the batch.

        By default they are those of `query`.
        """
        return self.query(anchor, relation, head)

    def compare(self, query: Float[Tensor, "B query_width"], candidates: Candidates) -> Scores:
        """Scores of each row's own candidates [B K width], or of one pool [P width] for all rows."""
        if self.comparison is None:
            raise TypeError(f"{type(self).__name__} names no `comparison` and does not override `compare`")
        found = comparisons.compare(self.comparison, query, candidates)
        return found if self.comparison == "dot" else -found

    def compare_projected(self, query: Float[Tensor, "B query_width"], candidates: Projected) -> Scores:
        """Scores of one pool whose vectors are a linear map of others: of products through the map if that is cheaper.

        What overrides `compare` of a product should override this, too; otherwise the vectors are made.
        """
        product = self.comparison == "dot" and type(self).compare is Scorer.compare
        if product and candidates.spares(len(query)):
            return candidates.products(query)
        return self.compare(query, candidates.vectors)

    def compare_rows(
        self, query: Float[Tensor, "B query_width"], table: Float[Tensor, "E width"], ids: Int[Tensor, "B K"]
    ) -> Scores:
        """The scores of each row's own candidates where they are rows of a table, which a kernel reads in place."""
        if self.comparison is None:
            return self.compare(query, embedding(ids, table))
        found = comparisons.compare_rows(self.comparison, query, table, ids)
        return found if self.comparison == "dot" else -found

    def pair_width(self, device: torch.device | str) -> int:
        """Reals that a comparison with a pool holds for each pair on a device, beside the score."""
        return comparisons.pair_width(self.entity_width, device) if self.comparison == "modulus" else 0

    def twin(self, number: int) -> Scorer:
        """The same formula with parameters of its own, which start anew; by default a copy.

        Args:
            number: of the twin, from 1: what it leaves to chance is another choice.
        """
        return copy.deepcopy(self)

    @torch.no_grad()
    def untrained_mean(self) -> float:
        """The mean score of vectors as they start: 0, about, of products; the usual distance, negated, of distances."""
        drawn = generator(0, "untrained", device="cpu")

        def vectors(width: int) -> Tensor:
            return torch.empty(64, width).uniform_(-self.init_range, self.init_range, generator=drawn)

        query = self.query(vectors(self.entity_width), vectors(self.relation_width), False)
        return float(self.compare(query, vectors(self.entity_width)).mean())

    def points(self, entities: Float[Tensor, "*n width"]) -> Float[Tensor, "*n other_width"]:
        """Entity vectors as points of which a cosine makes sense; by default as they are."""
        return entities

    def __repr__(self) -> str:
        return f"{type(self).__name__}(d={self.dim})"


class TransE(Scorer, name="TransE"):
    """f(h, r, t) = -||h + r - t||_p (Bordes et al., "Translating Embeddings for Modeling Multi-relational Data", 2013).

    Args:
        dim: d.
        init_range: see `Scorer`.
        p: the norm, 1 or 2.
        normalize: scale h, r and t to length 1 first, as OpenKE does.
    """

    distance = True

    def __init__(self, dim: int, init_range: float, *, p: Literal[1, 2] = 1, normalize: bool = False):
        super().__init__(dim, init_range)
        self.p, self.normalize = p, normalize
        self.comparison = "l1" if p == 1 else "l2"

    def query(self, anchor: Queries, relation: Queries, head: bool) -> Queries:
        anchor, relation = self._scaled(anchor), self._scaled(relation)
        return anchor - relation if head else anchor + relation

    def compare(self, query: Queries, candidates: Candidates) -> Scores:
        return super().compare(query, self._scaled(candidates))

    def compare_rows(self, query: Queries, table: Float[Tensor, "E width"], ids: Int[Tensor, "B K"]) -> Scores:
        return super().compare_rows(query, self._scaled(table), ids)

    def _scaled(self, vectors: Float[Tensor, "*n width"]) -> Float[Tensor, "*n width"]:
        return normalize(vectors, dim=-1) if self.normalize else vectors


class TransD(Scorer, name="TransD"):
    """f(h, r, t) = -||h_r + r - t_r||_2^2, where e_r = e + <e_p, e> r_p is entity e as the relation sees it.

    Ji et al., "Knowledge Graph Embedding via Dynamic Mapping Matrix", 2015, with entities and relations of the same
    width. Entity vectors hold the d numbers of e, then the d of e_p; relation vectors r, then r_p. The paper's
    constraint that no vector be longer than 1 is left out.
    """

    distance = True

    @property
    def entity_width(self) -> int:
        return 2 * self.dim

    @property
    def relation_width(self) -> int:
        return 2 * self.dim

    def query(self, anchor: Queries, relation: Queries, head: bool) -> Queries:
        e, e_p = anchor.chunk(2, dim=-1)
        r, r_p = relation.chunk(2, dim=-1)
        projected = e + _inner(e_p, e) * r_p
        # The second half is what projects the candidates.
        return torch.cat([projected - r if head else projected + r, r_p], dim=-1)

    def compare(self, query: Queries, candidates: Candidates) -> Scores:
        q, r_p = query.chunk(2, dim=-1)
        e, e_p = candidates.chunk(2, dim=-1)
        a = _inner(e_p, e)
        if candidates.ndim == 3:
            return -(q[:, None] - e - a * r_p[:, None]).square().sum(-1)
        # The square multiplied out, so that a pool takes one product and no B x P vectors. What is lost to cancellation
        # is small beside the squared lengths; it may not turn a distance negative.
        left = torch.cat([q, r_p, _inner(q, r_p), _inner(r_p, r_p), _inner(q, q), torch.ones_like(q[:, :1])], dim=-1)
        right = torch.cat([2 * e, -2 * a * e, 2 * a, -(a**2), -torch.ones_like(a), -_inner(e, e)], dim=-1)
        return (left @ right.T).clamp(max=0)


class DistMult(Scorer, name="DistMult"):
    """f(h, r, t) = <h, r, t> (Yang et al., "Embedding Entities and Relations for Learning and Inference", 2015)."""

    comparison = "dot"

    def query(self, anchor: Queries, relation: Queries, head: bool) -> Queries:
        return anchor * relation


class ComplEx(Scorer, name="ComplEx"):
    """f(h, r, t) = Re <h, r, conj(t)> over d complex numbers.

    Trouillon et al., "Complex Embeddings for Simple Link Prediction", 2016. Vectors hold the d real parts, then the d
    imaginary parts.
    """

    comparison = "dot"
    components = 2

    @property
    def entity_width(self) -> int:
        return 2 * self.dim

    @property
    def relation_width(self) -> int:
        return 2 * self.dim

    def query(self, anchor: Queries, relation: Queries, head: bool) -> Queries:
        a, b = anchor.chunk(2, dim=-1)
        c, d = relation.chunk(2, dim=-1)
        # Re <h, r, conj(t)> is the dot product of t with h r, and of h with conj(r) t.
        if head:
            d = -d
        return torch.cat([a * c - b * d, a * d + b * c], dim=-1)


class RotatE(Scorer, name="RotatE"):
    """f(h, r, t) = -sum_i |h_i e^(i phi_i) - t_i| over d complex numbers (Sun et al., "RotatE", 2019).

    Entity vectors hold the d real parts, then the d imaginary parts. Relation vectors hold d numbers in the same
    range as the entities; the phases are `phi = pi * r / init_range`, so that one learning rate suits both tables.
    """

    comparison = "modulus"
    distance = True

    @property
    def entity_width(self) -> int:
        return 2 * self.dim

    def query(self, anchor: Queries, relation: Float[Tensor, "B d"], head: bool) -> Queries:
        phase = relation * (math.pi / self.init_range)
        cos, sin = torch.cos(phase), torch.sin(-phase if head else phase)
        re, im = anchor.chunk(2, dim=-1)
        return torch.cat([re * cos - im * sin, re * sin + im * cos], dim=-1)


class pRotatE(Scorer, name="pRotatE"):  # the paper's name for it
    """f(h, r, t) = -2 C sum_i |sin((h_i + r_i - t_i) / 2)|: RotatE with all entities at modulus C (Sun et al., 2019).

    Vectors hold d numbers in the range of the embeddings; phases are pi / init_range times them, as RotatE's. C is a
    parameter that starts at init_range / 2, as in the authors' code, so that no distance exceeds gamma + 2 at first.
    Their code has C sum_i |sin(h_i + r_i - t_i)|, in which phases half a turn apart are equal; this is the paper's.
    """

    distance = True

    def __init__(self, dim: int, init_range: float):
        super().__init__(dim, init_range)
        self.modulus = nn.Parameter(torch.tensor(0.5 * init_range))

    def query(self, anchor: Queries, relation: Queries, head: bool) -> Float[Tensor, "B query_width"]:
        return self.points(anchor - relation if head else anchor + relation)

    def compare(self, query: Float[Tensor, "B query_width"], candidates: Candidates) -> Scores:
        # 2 |sin((x - y) / 2)| is the chord between phases x and y: sines are taken of vectors, not of all pairs.
        return -self.modulus * comparisons.compare("modulus", query, self.points(candidates))

    def pair_width(self, device: torch.device | str) -> int:
        return comparisons.pair_width(2 * self.dim, device)

    def points(self, entities: Float[Tensor, "*n width"]) -> Float[Tensor, "*n twice_width"]:
        phase = entities * (math.pi / self.init_range)
        return torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1)


class PairRE(Scorer, name="PairRE"):
    """f(h, r, t) = -||h o r_H - t o r_T||_1 with h and t scaled to length 1.

    Chao et al., "PairRE: Knowledge Graph Embeddings via Paired Relation Vectors", 2021; o is the elementwise product.
    Relation vectors hold the d numbers of r_H, then those of r_T.
    """

    distance = True

    @property
    def relation_width(self) -> int:
        return 2 * self.dim

    def query(
        self, anchor: Queries, relation: Float[Tensor, "B relation_width"], head: bool
    ) -> Float[Tensor, "B query_width"]:
        of_head, of_tail = relation.chunk(2, dim=-1)
        own, other = (of_tail, of_head) if head else (of_head, of_tail)
        # The second half is what multiplies the candidates.
        return torch.cat([normalize(anchor, dim=-1) * own, other], dim=-1)

    def compare(self, query: Float[Tensor, "B query_width"], candidates: Candidates) -> Scores:
        q, other = query.chunk(2, dim=-1)
        # Also a pool is another one for each row, [B P d].
        return -comparisons.compare("l1", q, other[:, None] * normalize(candidates, dim=-1))

    def pair_width(self, device: torch.device | str) -> int:
        return self.dim + comparisons.pair_width(self.dim, device)


class BiQUE(Scorer, name="BiQUE"):
    """f(h, r, t) = <(h + r_T) (x) r_R, t> over d biquaternions: the relation shifts the head, then turns and scales it.

    Guo and Kok, "BiQUE: Biquaternionic Embeddings of Knowledge Graphs", 2021; (x) is the Hamilton product of each of
    the d biquaternions, <,> the product of the 8d reals. A biquaternion is w + x i + y j + z k with complex w, x, y, z.
    Vectors hold the real parts of the four, then the imaginary parts, each for all biquaternions: relations have 2d of
    them, those of r_T and those of r_R in turn for each part. `dim` is what the paper calls k: at the same `dim` an
    entity has 4 times as many reals as with `ComplEx`.
    """

    comparison = "dot"
    components = 8

    @property
    def entity_width(self) -> int:
        return 8 * self.dim

    @property
    def relation_width(self) -> int:
        return 16 * self.dim

    def query(
        self, anchor: Queries, relation: Float[Tensor, "B relation_width"], head: bool
    ) -> Float[Tensor, "B query_width"]:
        e = anchor.unflatten(-1, (2, 4, -1))
        shift, turn = relation.unflatten(-1, (2, 4, 2, -1)).unbind(-2)
        if not head:
            turned = _hamilton(e + shift, turn).flatten(1)
            return torch.cat([turned, torch.zeros_like(turned[:, :1])], dim=-1)
        # <a (x) b, t> = <a, t (x) b*>, where b* has x, y and z negated, and then all imaginary parts.
        w, xyz = turn.split([1, 3], dim=2)
        real, imaginary = torch.cat([w, -xyz], dim=2).unbind(1)
        turned = _hamilton(e, torch.stack([real, -imaginary], dim=1))
        # What r_T adds is the same for all heads: it follows the query.
        return torch.cat([turned.flatten(1), (turned * shift).flatten(1).sum(-1, keepdim=True)], dim=-1)

    def compare(self, query: Float[Tensor, "B query_width"], candidates: Candidates) -> Scores:
        return super().compare(query[:, :-1], candidates) + query[:, -1:]

    def compare_projected(self, query: Float[Tensor, "B query_width"], candidates: Projected) -> Scores:
        if candidates.spares(len(query)):
            return candidates.products(query[:, :-1]) + query[:, -1:]
        return self.compare(query, candidates.vectors)

    def compare_rows(
        self, query: Float[Tensor, "B query_width"], table: Float[Tensor, "E width"], ids: Int[Tensor, "B K"]
    ) -> Scores:
        return super().compare_rows(query[:, :-1], table, ids) + query[:, -1:]


class TuckER(Scorer, name="TuckER"):
    """f(h, r, t) = sum_ijk W_ijk h_i r_j t_k: what relations have in common is in the core W.

    Balazevic et al., "TuckER: Tensor Factorization for Knowledge Graph Completion", 2019. The core W
    [d, relation_dim, d] is a parameter of the scorer; it starts uniform on [-1, 1], as in the authors' code. That
    trains with `batch_norm` and all three kinds of dropout, which set a share of the numbers to 0 and scale up the
    others, anew in each step.

    Args:
        dim: d, of the entities.
        init_range: see `Scorer`.
        relation_dim: width of the relation vectors; d by default.
        anchor_dropout: share of the anchor's numbers that a step drops, the authors' `input_dropout`.
        matrix_dropout: share of those of sum_j W_ijk r_j, of each row anew, their `hidden_dropout1`; that takes d^2
            random numbers a row.
        query_dropout: share of those of the query, their `hidden_dropout2`.
        batch_norm: normalise each number of the anchor, and of the query, over the batch (Ioffe and Szegedy, 2015);
            outside of a step by running means. It takes reciprocal relations.
    """

    comparison = "dot"

    def __init__(
        self,
        dim: int,
        init_range: float,
        *,
        relation_dim: PositiveInt | None = None,
        anchor_dropout: Share = 0.0,
        matrix_dropout: Share = 0.0,
        query_dropout: Share = 0.0,
        batch_norm: bool = False,
    ):
        super().__init__(dim, init_range)
        self.core = nn.Parameter(torch.empty(dim, relation_dim or dim, dim).uniform_(-1, 1))
        self.anchor_dropout, self.matrix_dropout, self.query_dropout = anchor_dropout, matrix_dropout, query_dropout
        self.batch_norm, self.seed = batch_norm, torch.initial_seed()
        self.norms = nn.ModuleList(nn.BatchNorm1d(dim) for _ in range(2 if batch_norm else 0))

    def twin(self, number: int) -> TuckER:
        made = copy.deepcopy(self)
        nn.init.uniform_(made.core, -1, 1)
        made.seed = stream_seed(self.seed, "twin", number)
        return made

    @property
    def relation_width(self) -> int:
        return self.core.shape[1]

    @property
    def varies(self) -> bool:
        return self.batch_norm or bool(self.anchor_dropout or self.matrix_dropout or self.query_dropout)

    def query(self, anchor: Queries, relation: Float[Tensor, "B relation_width"], head: bool) -> Queries:
        return self._query(anchor, relation, head, None)

    def query_in_step(
        self, anchor: Queries, relation: Float[Tensor, "B relation_width"], head: bool, step: int
    ) -> Queries:
        return self._query(anchor, relation, head, step)

    def _query(
        self, anchor: Queries, relation: Float[Tensor, "B relation_width"], head: bool, step: int | None
    ) -> Queries:
        core = self.core.transpose(0, 2) if head else self.core
        x = self._dropped(self._normalised(anchor, 0, step), self.anchor_dropout, step, "anchor", head)
        if step is None or not self.matrix_dropout:
            x = torch.einsum("bi,bj,ijk->bk", x, relation, core)
        else:
            matrices = torch.einsum("bj,ijk->bik", relation, core)
            x = (x[:, None] @ self._dropped(matrices, self.matrix_dropout, step, "matrix", head)).squeeze(1)
        return self._dropped(self._normalised(x, 1, step), self.query_dropout, step, "query", head)

    def _normalised(self, x: Queries, which: int, step: int | None) -> Queries:
        if not self.batch_norm:
            return x
        norm = self.norms[which]
        # A single row has no variance.
        norm.train(step is not None and len(x) > 1)
        return norm(x)

    def _dropped(
        self, x: Float[Tensor, "B *n"], share: float, step: int | None, what: str, head: bool
    ) -> Float[Tensor, "B *n"]:
        if step is None or not share:
            return x
        stream = generator(self.seed, "dropout", step, what, int(head), device=x.device)
        kept = torch.rand(x.shape, generator=stream, device=x.device) >= share
        return x * kept / (1 - share)


def _inner(x: Float[Tensor, "*n d"], y: Float[Tensor, "*n d"]) -> Float[Tensor, "*n 1"]:
    return (x * y).sum(-1, keepdim=True)


def _hamilton(a: Float[Tensor, "B 2 4 d"], b: Float[Tensor, "B 2 4 d"]) -> Float[Tensor, "B 2 4 d"]:
    """The products of biquaternions, which have real and imaginary parts of w, x, y and z each."""
    # Real and imaginary parts are quaternions: all four products of them at once.
    w, x, y, z = a[:, :, None].unbind(-2)
    p, q, r, s = b[:, None].unbind(-2)
    products = torch.stack(
        [
            w * p - x * q - y * r - z * s,
            w * q + x * p + y * s - z * r,
            w * r - x * s + y * p + z * q,
            w * s + x * r - y * q + z * p,
        ],
        dim=-2,
    )
    real = products[:, 0, 0] - products[:, 1, 1]
    return torch.stack([real, products[:, 0, 1] + products[:, 1, 0]], dim=1)
