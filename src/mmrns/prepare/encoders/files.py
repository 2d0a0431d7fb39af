"""Feature files: rows of tokens, streamed to `features/NAME.safetensors` and `features/NAME.entities`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmrns.data.tokens import Origin, origins_line, origins_path
from mmrns.files import locked, replacing

Block = tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.bool_]]
"""Values [k, L, D] and mask [k, L] of the next k entities."""

_BLOCK_BYTES = 2**24
_DTYPES = {"int64": "I64", "float16": "F16", "float32": "F32", "bool": "BOOL"}


def write_features(
    folder: str | Path,
    name: str,
    entities: Sequence[str],
    values: npt.NDArray[np.floating[Any]],
    mask: npt.NDArray[np.bool_],
    metadata: Mapping[str, str],
    origins: Sequence[Sequence[Origin]] | None = None,
) -> None:
    """Write `features/NAME.safetensors` and `features/NAME.entities` of a dataset folder.

    Values are stored as float16; equal arguments give equal bytes. Both files are written under a temporary
    name and renamed at the end, so that a failure leaves whatever was there before. `values` may be a memory-mapped
    array: it is read block by block.

    Args:
        folder: the dataset folder; `features/` is made where it is missing.
        name: NAME, the modality.
        entities: the entity of each of the n rows.
        values: [n, L, D].
        mask: [n, L], True where a token is present.
        metadata: provenance: encoder, revision, preprocessing.
        origins: what the present tokens of each row were made of, in words or as `Patches` of a picture, for
            `features/NAME.tokens.jsonl`.

    Raises:
        ValueError: shapes disagree, a value is not finite as float16, or an entity is repeated, empty or more
            than one line.
    """
    if values.ndim != 3 or mask.shape != values.shape[:2] or len(entities) != len(values):
        found = f"values {list(values.shape)}, mask {list(mask.shape)}, {len(entities)} entities"
        raise ValueError(f"{found} where [n, L, D], [n, L] and n are expected")
    n, tokens, width = values.shape
    size = max(1, _BLOCK_BYTES // max(1, 2 * tokens * width))
    blocks = ((values[i : i + size], mask[i : i + size]) for i in range(0, n, size))
    stream_features(folder, name, entities, (tokens, width), blocks, metadata, origins=origins)


def stream_features(
    folder: str | Path,
    name: str,
    entities: Sequence[str],
    shape: tuple[int, int],
    blocks: Iterable[Block],
    metadata: Mapping[str, str],
    *,
    dtype: str = "float16",
    keys: npt.NDArray[np.int64] | None = None,
    origins: Sequence[Sequence[Origin]] | None = None,
) -> None:
    """`write_features` of rows that come block by block, so that they are never in memory at once.

    Args:
        folder, name, entities, metadata: see `write_features`.
        shape: L and D.
        blocks: values [k, L, D] and mask [k, L] of the next k entities.
        dtype: of the stored values, `float16` or `float32`.
        keys: [n], stored as a third tensor `key`: what the tokens of each row were made from.
        origins: see `write_features`; without them such a file of an earlier encoding is removed.

    Raises:
        ValueError: see `write_features`.
    """
    if origins is not None and len(origins) != len(entities):
        raise ValueError(f"{len(origins)} rows of origins where {len(entities)} are expected")
    if len(set(entities)) != len(entities):
        raise ValueError("an entity has two rows")
    for entity in entities:
        if entity.splitlines() != [entity]:
            raise ValueError(f"an entity must be one line of text, not {entity!r}")
    features = Path(folder) / "features"
    paths = [features / f"{name}.safetensors", features / f"{name}.entities"]
    said = origins_path(paths[0])
    with locked(features), replacing(*paths, *([] if origins is None else [said])) as (file, listing, *words):
        masks = np.zeros((len(entities), shape[0]), dtype=np.bool_)
        layout = {"values": (dtype, (len(entities), *shape)), "mask": ("bool", masks.shape)}
        if keys is not None:
            layout = {"key": ("int64", keys.shape), **layout}
        file.write(_header(layout, metadata))
        if keys is not None:
            file.write(keys.astype("<i8").tobytes())
        done = 0
        for values, mask in blocks:
            end = done + len(values)
            if values.shape[1:] != shape or mask.shape != values.shape[:2] or end > len(entities):
                found = f"a block of values {list(values.shape)} and mask {list(mask.shape)}"
                raise ValueError(f"{found} where [k, {shape[0]}, {shape[1]}] and [k, {shape[0]}] are expected")
            with np.errstate(over="ignore"):
                stored = np.ascontiguousarray(values, dtype=np.dtype(dtype).newbyteorder("<"))
            if not np.isfinite(stored).all():
                raise ValueError(f"a value is not finite as {dtype}")
            file.write(stored.data)
            masks[done:end] = mask
            done = end
        if done != len(entities):
            raise ValueError(f"{done} rows where {len(entities)} are expected")
        file.write(masks.tobytes())
        listing.writelines(f"{entity}\n".encode() for entity in entities)
        for lines in words:
            lines.writelines(f"{origins_line(row)}\n".encode() for row in origins or ())
        if origins is None:
            said.unlink(missing_ok=True)


def _header(layout: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file, sorted: the library orders metadata differently from call to call.

    https://github.com/huggingface/safetensors#format
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, (dtype, shape) in layout.items():
        end = start + int(np.prod(shape)) * np.dtype(dtype).itemsize
        header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, sort_keys=True, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
