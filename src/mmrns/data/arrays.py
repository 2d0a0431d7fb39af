"""Triples and features that are in memory already, as frames, arrays or lists, become what a dataset is made of."""

from __future__ import annotations

import hashlib
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from mmrns.data.features import Modality, match_rows
from mmrns.data.names import COLUMNS
from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import UsageError


def triples_frame(triples: Any, what: str = "triples", *, gaps: bool = False) -> pl.DataFrame:
    """Triples as a frame with the columns head, relation, tail, all strings.

    Args:
        triples: see `Dataset.from_triples`.
        what: how messages call them.
        gaps: a name may be missing or empty.

    Raises:
        UsageError: another shape, or the first row with a name that is missing or is no name.
    """
    columns = {side: _names(column, side, what) for side, column in zip(COLUMNS, _columns(triples, what), strict=True)}
    if len({len(column) for column in columns.values()}) > 1:
        raise UsageError(f"{what}: the columns differ in length; give every triple a head, a relation and a tail")
    frame = pl.DataFrame(columns)
    empty = frame.select(pl.any_horizontal(pl.all().fill_null("").str.strip_chars() == "")).to_series().arg_true()
    if len(empty) and not gaps:
        row = int(empty[0])
        side = next(name for name in COLUMNS if not (frame[name][row] or "").strip())
        raise UsageError(f"{what}: row {row} (counted from 0) has no {side}; name it, or leave the row out")
    broken = frame.select(pl.any_horizontal(pl.all().str.contains(r"[\t\n\r]"))).to_series().arg_true()
    if len(broken):
        row = int(broken[0])
        found = f"{what}: row {row} (counted from 0) has a tab or a line end in a name"
        raise UsageError(f"{found}, {frame.row(row)!r}; rename it")
    return frame


def _columns(triples: Any, what: str) -> Sequence[Any]:
    """The columns of head, relation and tail."""
    if hasattr(triples, "columns") and hasattr(triples, "to_numpy"):
        known = [str(name) for name in triples.columns]
        if set(COLUMNS) <= set(known):
            places = [known.index(name) for name in COLUMNS]
        elif len(known) == 3:
            places = [0, 1, 2]
        else:
            found = f"{what}: {len(known)} columns ({', '.join(known[:8])})"
            raise UsageError(f"{found}; call three of them head, relation, tail")
        if isinstance(triples, pl.DataFrame):
            return [triples.to_series(place) for place in places]
        return [triples.iloc[:, place].to_numpy() for place in places]  # pandas, or a frame of its kind
    if hasattr(triples, "__array__"):
        array: npt.NDArray[Any] = np.asarray(triples)
        if array.ndim != 2 or array.shape[1] != 3:
            raise UsageError(f"{what}: an array of shape {list(array.shape)}; give [n, 3]: head, relation, tail")
        return list(array.T)
    if not isinstance(triples, Sequence) or isinstance(triples, str | bytes):
        raise UsageError(f"{what}: a {type(triples).__name__}; give a frame, an array [n, 3] or a list of triples")
    rows: Sequence[Any] = triples
    for number, row in enumerate(rows):
        if isinstance(row, str | bytes) or not hasattr(row, "__len__") or len(row) != 3:
            raise UsageError(f"{what}: row {number} (counted from 0) is {row!r}; give head, relation and tail")
    return [list(column) for column in zip(*rows, strict=True)] or [[], [], []]


def _names(column: Any, side: str, what: str) -> pl.Series:
    """A column as strings, null where a value is missing; integers are written in decimals."""
    if isinstance(column, pl.Series):
        if column.dtype.is_integer() or isinstance(column.dtype, pl.String | pl.Categorical | pl.Enum | pl.Null):
            return column.cast(pl.String)
    elif isinstance(column, np.ndarray) and column.dtype.kind in "iu":
        return pl.Series(column).cast(pl.String)
    values: list[Any] = column.tolist() if isinstance(column, np.ndarray) else list(column)
    if all(type(value) is str for value in values):
        return pl.Series(values, dtype=pl.String)
    found: list[str | None] = []
    for number, value in enumerate(values):
        if isinstance(value, str):
            found.append(str(value))
        elif isinstance(value, numbers.Integral) and value is not True and value is not False:
            found.append(str(int(value)))
        elif _missing(value):
            found.append(None)
        else:
            place = f"{what}: the {side} of row {number} (counted from 0) is {value!r}"
            raise UsageError(f"{place}; a name is a string or an integer")
    return pl.Series(found, dtype=pl.String)


def _missing(value: Any) -> bool:
    """None, NaN, and what pandas writes in their place."""
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):  # pandas.NA, which is neither equal nor unequal to anything.
        return type(value).__name__ == "NAType"


def modality_of(name: str, given: Any, entities: Vocabulary) -> Modality:
    """A modality from arrays in memory.

    Args:
        name: the modality's name.
        given: see `Dataset.from_triples`.
        entities: of the graph.

    Raises:
        UsageError: another shape, NaN, infinity or what is too large in a present token, an entity with two rows, or no
            entity matches.
    """
    what = f"features[{name!r}]"
    if isinstance(given, Mapping):
        names, values, mask = _stacked(given, what)
    elif isinstance(given, tuple) and len(given) in (2, 3) and hasattr(given[0], "__iter__"):
        names, values = _names(list(given[0]), "entity", what), _numbers(given[1], what)
        mask = _mask(given[2], what) if len(given) == 3 else None
    else:
        usual = "a mapping of entities to arrays, (entities, values) or (entities, values, mask)"
        raise UsageError(f"{what}: a {type(given).__name__}; give {usual}")
    values = values[:, None] if values.ndim == 2 else values
    if values.ndim != 3 or 0 in values.shape:
        raise UsageError(f"{what}: values are {list(values.shape)}; give [n, L, D] or [n, D]")
    mask = np.ones(values.shape[:2], dtype=np.bool_) if mask is None else mask
    if len(names) != len(values) or mask.shape != values.shape[:2]:
        found = f"{len(names):,} entities, values {list(values.shape)}, mask {list(mask.shape)}"
        raise UsageError(f"{what}: {found} do not fit; give n, [n, L, D] and [n, L]")
    unnamed = (names.fill_null("") == "").arg_true()
    if len(unnamed):
        raise UsageError(f"{what}: row {unnamed[0]} (counted from 0) has no entity; name it, or leave the row out")
    repeated = names.filter(~names.is_first_distinct())
    if len(repeated):
        raise UsageError(f"{what}: entity {repeated[0]!r} has two rows; keep one")
    row, unmatched = match_rows(names, entities)
    if len(unmatched) == len(names):
        found = f"none of its {len(names):,} entities is in the graph (first: {names[0]!r})"
        raise UsageError(f"{what}: {found}; use the entity names of the triples")
    digest = hashlib.sha256("\n".join(names).encode())
    for array in (values, mask):
        digest.update(f"{array.dtype.str} {array.shape}".encode() + array.data)
    provenance = {"encoder": "given in memory", "sha256": digest.hexdigest()}
    made = Modality(torch.from_numpy(values), torch.from_numpy(mask), row, provenance, unmatched)
    bad = made.first_unfit()
    if bad is not None:
        raise UsageError(f"{what}: the row of {names[bad[0]]!r} {bad[1]}; mend it, or leave it out")
    return made


def _stacked(given: Mapping[Any, Any], what: str) -> tuple[pl.Series, npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """One array [L, D] or [D] an entity as names, values and mask; L is that of the longest."""
    names = _names(list(given), "entity", what)
    arrays = [_numbers(array, f"{what}[{name!r}]") for name, array in given.items()]
    arrays = [array[None] if array.ndim == 1 else array for array in arrays]
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 2 or array.shape[1] != arrays[0].shape[1]:
            found = f"{list(array.shape)} where {names[0]!r} has {list(arrays[0].shape)}"
            raise UsageError(f"{what}[{name!r}]: {found}; give every entity [L, D] or [D] of the same D")
    if not arrays:
        raise UsageError(f"{what}: no entity; leave the modality out")
    lengths = np.array([len(array) for array in arrays])
    mask = np.arange(lengths.max()) < lengths[:, None]
    values = np.zeros((*mask.shape, arrays[0].shape[1]), dtype=np.result_type(*arrays))
    values[mask] = np.concatenate(arrays)
    return names, values, mask


def _numbers(values: Any, what: str) -> npt.NDArray[Any]:
    """An array of float16 or float32, which other numbers are turned into; it is copied only if it must be."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise UsageError(f"{what}: is no array ({str(error).splitlines()[0]}); give numbers of one shape") from error
    if array.dtype.kind not in "fiu":
        raise UsageError(f"{what}: holds {array.dtype}, not numbers; give an array of numbers")
    kept = array.dtype.newbyteorder("=") if array.dtype.itemsize in (2, 4) and array.dtype.kind == "f" else np.float32
    with np.errstate(over="ignore"):  # What single precision cannot hold becomes infinite, and is refused as such.
        return np.require(array, kept, ["C", "W"])


def _mask(mask: Any, what: str) -> npt.NDArray[np.bool_]:
    array = np.asarray(mask.detach().cpu() if isinstance(mask, torch.Tensor) else mask)
    if array.dtype != np.bool_:
        raise UsageError(f"{what}: the mask holds {array.dtype}; give True where a token is present, False elsewhere")
    return np.require(array, None, ["C", "W"])
