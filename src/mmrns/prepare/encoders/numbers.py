"""Numbers -> tokens: which attribute, and where its value lies among the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mmrns.prepare.encoders.base import Encoder, Inputs
from mmrns.prepare.encoders.files import Block

ATTRIBUTES = 112
"""The most attributes that have a place in a token."""

BASES = 16
"""Radial basis functions of a value."""

_BLOCK = 8192


def number_tokens(rows: pl.DataFrame, tokens: int = 8) -> tuple[list[Any], tuple[int, int], Iterator[Block]]:
    """A token a value: its attribute one-hot, then 16 radial basis functions of its quantile within the attribute.

    The quantile of a value is `(rank - 1/2) / n` among the n values of its attribute, tied ones at their mean rank, so
    that a token neither depends on the unit nor on outliers; basis function k is `exp(-((q - k/15) * 15)^2 / 2)`. The
    112 most frequent attributes are used. An entity's tokens are in the order of their attributes' frequency, then by
    value; those past the first L are left out.

    Args:
        rows: columns entity, attribute (a string) and value (a finite float).
        tokens: L.

    Returns:
        The entities that have a token, sorted; the shape (L, A + 16) with A the number of attributes used; blocks of
        values and mask, in the order of the entities.
    """
    order = rows.group_by("attribute").len().sort(["len", "attribute"], descending=[True, False]).head(ATTRIBUTES)
    places = order.select("attribute", place=pl.int_range(pl.len()))
    quantile = (pl.col("value").rank("average").over("attribute") - 0.5) / pl.len().over("attribute")
    used = (
        rows.with_columns(quantile=quantile)
        .join(places, on="attribute")
        .sort(["entity", "place", "value"])
        .with_columns(token=pl.int_range(pl.len()).over("entity"))
        .filter(pl.col("token") < tokens)
    )
    entities = used["entity"].unique(maintain_order=True)
    row = used["entity"].rle_id().to_numpy()
    token, place, q = (used[column].to_numpy() for column in ("token", "place", "quantile"))
    shape = (tokens, len(places) + BASES)

    def blocks() -> Iterator[Block]:
        for first in range(0, len(entities), _BLOCK):
            inside = slice(*np.searchsorted(row, [first, first + _BLOCK]))
            size = min(_BLOCK, len(entities) - first)
            values = np.zeros((size, *shape), dtype=np.float32)
            mask = np.zeros((size, tokens), dtype=np.bool_)
            at = (row[inside] - first, token[inside])
            values[(*at, place[inside])] = 1
            values[(*at, slice(len(places), None))] = _bases(q[inside])
            mask[at] = True
            yield values, mask

    return entities.to_list(), shape, blocks()


class NumberEncoder(Encoder, name="quantiles"):
    """`number_tokens`: the attribute of each number, and where its value lies among those of the same call."""

    reads = "numbers"

    def encode(self, inputs: Inputs, tokens: int) -> Block:
        """See `number_tokens`."""
        rows = [(i, str(attribute), float(value)) for i, pairs in enumerate(inputs) for attribute, value in pairs]
        schema = {"entity": pl.Int64, "attribute": pl.String, "value": pl.Float64}
        entities, shape, blocks = number_tokens(pl.DataFrame(rows, schema=schema, orient="row"), tokens)
        values = np.zeros((len(inputs), *shape), dtype=np.float16)
        mask = np.zeros((len(inputs), tokens), dtype=np.bool_)
        done = 0
        for part, present in blocks:
            here = entities[done : done + len(part)]
            values[here], mask[here] = part, present
            done += len(part)
        return values, mask

    def settings(self, tokens: int) -> dict[str, str]:
        """See `Encoder.settings`."""
        return {
            "encoder": f"one-hot attribute (at most {ATTRIBUTES}) and {BASES} radial basis functions",
            "revision": self.revision,
            "preprocessing": "quantile within the attribute",
            "pooling": f"a token a number, of the most frequent attributes first, at most {tokens}",
        }


def tokens_beside(
    known: Mapping[str, Sequence[tuple[float, npt.NDArray[np.floating[Any]]]]], pairs: Inputs, tokens: int
) -> list[npt.NDArray[np.floating[Any]]]:
    """`number_tokens` of further entities, by the quantiles of those that were encoded, which stay as they are.

    A value that was encoded has the token that it had; between two of them the quantile goes in proportion, and beyond
    all of them it is that of the last.

    Args:
        known: by attribute each value that was encoded, and its token [A + 16].
        pairs: attributes and values of each entity, all of known attributes.
        tokens: L.

    Returns:
        The tokens [l, A + 16] of each entity, l <= L, in the order of `number_tokens`.
    """
    found: list[npt.NDArray[np.floating[Any]]] = []
    for row in pairs:
        made = [(value, _beside(dict(known[attribute]), value)) for attribute, value in row]
        # The attribute's place is where the first A numbers are 1.
        made.sort(key=lambda one: (int(one[1][:-BASES].argmax()), one[0]))
        found.append(np.stack([token for _, token in made[:tokens]]))
    return found


def _beside(known: dict[float, npt.NDArray[np.floating[Any]]], value: float) -> npt.NDArray[np.floating[Any]]:
    """The token of a value of an attribute, from those of other values."""
    # Ten digits of a value are recorded.
    value = float(f"{value:.10g}")
    if value in known:
        return known[value]
    values = np.array(sorted(known))
    bases = np.stack([known[other][-BASES:].astype(np.float64) for other in values])
    # The two greatest neighbouring bases tell the quantile: log(b_k / b_{k+1}) = k + 1/2 - 15 q.
    k = (bases[:, :-1] * bases[:, 1:]).argmax(1)
    here, there = (np.take_along_axis(bases, (k + step)[:, None], 1)[:, 0] for step in (0, 1))
    quantiles = (k + 0.5 - np.log(here / there)) / (BASES - 1)
    token = known[float(values[0])].copy()
    token[-BASES:] = _bases(np.array([np.interp(value, values, quantiles)]))[0]
    return token


def _bases(quantile: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[n, 16]."""
    steps = quantile[:, None] * (BASES - 1) - np.arange(BASES)
    return np.exp(-(steps**2) / 2)
