"""Scorers: one class, one formula each. Scores are bare (no margin); larger = more plausible.

A scorer turns (anchor, relation) into a query once and compares it with many candidates, so that one formula serves a
triple, K negatives and all entities. To add one: subclass `Scorer` in this file and name it in the tests' table.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmrns.nn import distances

Queries = Float[Tensor, "B width"]
Candidates = Float[Tensor, "B K width"] | Float[Tensor, "P width"]
Scores = Float[Tensor, "B K"]


class Scorer(ABC):
    """Bare scores f(h, r, t).

    Args:
        dim: d, the embedding dimension.
        init_range: embeddings start uniform on `[-init_range, init_range]`.
    """

    distance: ClassVar[bool] = False
    """True when scores are negated distances, to which the loss adds its margin gamma."""

    def __init__(self, dim: int, init_range: float):
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
    def query(self, anchor: Queries, relation: Float[Tensor, "B relation_width"], head: bool) -> Queries:
        """What every candidate is compared with; `head` = the candidates replace the head."""

    @abstractmethod
    def compare(self, query: Queries, candidates: Candidates) -> Scores:
        """Scores of each row's own candidates [B K width], or of one pool [P width] for all rows."""


class TransE(Scorer):
    """f(h, r, t) = -||h + r - t||_p (Bordes et al., "Translating Embeddings for Modeling Multi-relational Data", 2013).

    Args:
        dim: d.
        init_range: see `Scorer`.
        p: the norm, 1 or 2.
    """

    distance = True

    def __init__(self, dim: int, init_range: float, *, p: Literal[1, 2] = 1):
        super().__init__(dim, init_range)
        self.p = p

    def query(self, anchor: Queries, relation: Queries, head: bool) -> Queries:
        return anchor - relation if head else anchor + relation

    def compare(self, query: Queries, candidates: Candidates) -> Scores:
        if self.p == 1:
            return -distances.l1(query, candidates)
        if candidates.ndim == 2:
            # "donot_use_mm": the matrix-product form of the Euclidean distance loses half of the digits.
            return -torch.cdist(query, candidates, p=2.0, compute_mode="donot_use_mm_for_euclid_dist")
        return -torch.linalg.vector_norm(query[:, None] - candidates, dim=-1)


class DistMult(Scorer):
    """f(h, r, t) = <h, r, t> (Yang et al., "Embedding Entities and Relations for Learning and Inference", 2015)."""

    def query(self, anchor: Queries, relation: Queries, head: bool) -> Queries:
        return anchor * relation

    def compare(self, query: Queries, candidates: Candidates) -> Scores:
        return _dot(query, candidates)


class RotatE(Scorer):
    """f(h, r, t) = -sum_i |h_i e^(i phi_i) - t_i| over d complex numbers (Sun et al., "RotatE", 2019).

    Entity vectors hold the d real parts, then the d imaginary parts. Relation vectors hold d numbers in the same
    range as the entities; the phases are `phi = pi * r / init_range`, so that one learning rate suits both tables.
    """

    distance = True

    @property
    def entity_width(self) -> int:
        return 2 * self.dim

    def query(self, anchor: Queries, relation: Float[Tensor, "B d"], head: bool) -> Queries:
        phase = relation * (math.pi / self.init_range)
        cos, sin = torch.cos(phase), torch.sin(-phase if head else phase)
        re, im = anchor.chunk(2, dim=-1)
        return torch.cat([re * cos - im * sin, re * sin + im * cos], dim=-1)

    def compare(self, query: Queries, candidates: Candidates) -> Scores:
        return -distances.modulus(query, candidates)


def _dot(query: Queries, candidates: Candidates) -> Scores:
    if candidates.ndim == 2:
        return query @ candidates.T
    return (candidates @ query[:, :, None]).squeeze(-1)
