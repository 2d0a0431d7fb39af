"""Encoders: texts and pictures -> tokens, and the feature files that hold them.

Every encoder answers values [n, L, D] (n entities, L tokens, D feature width); `write_features` stores them
in the layout of a dataset folder. Needs the `encode` extra, whose libraries are imported only when one runs.
"""

import json
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, pairwise, product
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

GRID_WIDTH = 42
"""Feature width D of `grid_tokens`."""

Block = tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.bool_]]
"""Values [k, L, D] and mask [k, L] of the next k entities."""

_BLOCK_BYTES = 2**24
_DTYPES = {"float16": "F16", "float32": "F32", "bool": "BOOL"}
_LEVELS = 3
_ORIENTATIONS = 9


def text_tokens(
    texts: Sequence[Sequence[str]],
    tokens: int,
    model: str | Path,
    *,
    batch_size: int = 64,
    device: str | None = None,
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.bool_]]:
    """One sentence embedding a string: token l of row i is `e(texts[i][l]) / |e(texts[i][l])|_2`.

    Sentence-BERT (Reimers and Gurevych, EMNLP 2019, https://arxiv.org/abs/1908.10084). A string that occurs
    several times is encoded once.

    Args:
        texts: the strings of each row, most telling first. The first `tokens` are used; a row may have none.
        tokens: L, the tokens a row has room for.
        model: a sentence-transformers name, or the folder of a saved model (then nothing is downloaded).
        batch_size: strings encoded at a time.
        device: where the model runs; None lets sentence-transformers choose.

    Returns:
        values [n, tokens, D], of unit length where present, else 0; mask [n, tokens], True where present.

    Raises:
        ValueError: `tokens` is below 1, a row is a bare string, a used string is blank, or there is none at all.
    """
    if tokens < 1:
        raise ValueError(f"tokens must be at least 1, not {tokens}")
    rows = [list(row[:tokens]) for row in texts]
    for number, row in enumerate(rows):
        if isinstance(texts[number], str) or not all(text.strip() for text in row):
            raise ValueError(f"row {number} must hold strings that are not blank, not {texts[number]!r}")
    index = {text: position for position, text in enumerate(sorted(set(chain.from_iterable(rows))))}
    if not index:
        raise ValueError("there is no string to encode")

    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), device=device)
    vectors = np.asarray(
        encoder.encode(  # pyright: ignore[reportUnknownMemberType]
            list(index), batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
        )
    )
    values = np.zeros((len(rows), tokens, vectors.shape[1]), dtype=np.float16)
    mask = np.zeros((len(rows), tokens), dtype=np.bool_)
    for number, row in enumerate(rows):
        values[number, : len(row)] = vectors[[index[text] for text in row]]
        mask[number, : len(row)] = True
    return values, mask


def grid_tokens(images: Iterable[npt.NDArray[np.uint8]], rows: int = 4, columns: int = 6) -> npt.NDArray[np.float32]:
    """Colour and edge statistics of the cells of a grid: tokens that need no trained network.

    A token describes one cell by 42 numbers; cells are in reading order, left to right, then down:

    | columns | meaning                                                                        | range    |
    |---------|--------------------------------------------------------------------------------|----------|
    | 0-2     | mean over the pixels of CIELAB (L*/100, a*/128, b*/128)                        | [-1, 1]  |
    | 3-5     | standard deviation of the same                                                 | [0, 1]   |
    | 6-32    | sqrt(share of the pixels in box 9 R + 3 G + B), R = floor(3 * red / 256) ...   | [0, 1]   |
    | 33-41   | sqrt(sum of the lengths of g at angle k * 20 degrees / pixels), k = 0..8       | [0, 1.2] |

    where g is the Sobel gradient of L*/100, taken over the whole picture so that edges between cells count,
    and its angle is modulo 180 degrees and rounded: k = 0 holds vertical edges. Square roots make a dot
    product of two histograms their Bhattacharyya coefficient. Gradients are as in HOG (Dalal and Triggs, CVPR
    2005, https://doi.org/10.1109/CVPR.2005.177) without its block normalisation, which amplifies noise.

    Args:
        images: pictures [H, W, 3], sRGB levels 0..255; their sizes may differ.
        rows: cells from top to bottom.
        columns: cells from left to right.

    Returns:
        values [n, rows * columns, 42], all finite.

    Raises:
        ValueError: a picture is not [H, W, 3] or has fewer pixels than the grid has cells along a side.
    """
    tokens = [_describe(image, rows, columns) for image in images]
    return np.array(tokens, dtype=np.float32).reshape(len(tokens), rows * columns, GRID_WIDTH)


def _describe(image: npt.NDArray[np.uint8], rows: int, columns: int) -> npt.NDArray[np.float64]:
    """The tokens [rows * columns, 42] of one picture."""
    if image.ndim != 3 or image.shape[2] != 3 or image.shape[0] < rows or image.shape[1] < columns:
        raise ValueError(f"a picture must be [H >= {rows}, W >= {columns}, 3], not {list(image.shape)}")

    from skimage.color import rgb2lab  # pyright: ignore[reportUnknownVariableType]
    from skimage.filters import sobel_h, sobel_v  # pyright: ignore[reportUnknownVariableType]

    lab = np.asarray(rgb2lab(image), np.float64) / [100.0, 128.0, 128.0]
    down = np.asarray(sobel_h(lab[..., 0]), np.float64)
    right = np.asarray(sobel_v(lab[..., 0]), np.float64)
    box = (image.astype(np.int64) * _LEVELS // 256) @ [_LEVELS**2, _LEVELS, 1]
    # Rounded, not floored: straight edges, the usual ones, lie amid a bin, not between the last and first.
    angle = np.rint(np.arctan2(down, right) / np.pi * _ORIENTATIONS).astype(np.int64) % _ORIENTATIONS
    length = np.hypot(down, right)

    tokens: list[npt.NDArray[np.float64]] = []
    for cell in product(_spans(image.shape[0], rows), _spans(image.shape[1], columns)):
        mean = np.mean(lab[cell], axis=(0, 1))
        spread = np.std(lab[cell], axis=(0, 1))
        colours = np.bincount(box[cell].ravel(), minlength=_LEVELS**3)
        edges = np.bincount(angle[cell].ravel(), length[cell].ravel(), minlength=_ORIENTATIONS)
        tokens.append(np.concatenate([mean, spread, np.sqrt(np.hstack([colours, edges]) / box[cell].size)]))
    return np.stack(tokens)


def _spans(size: int, parts: int) -> list[slice]:
    """Cut `size` pixels into `parts` neighbouring spans of nearly equal size."""
    return [slice(*ends) for ends in pairwise(size * part // parts for part in range(parts + 1))]


def write_features(
    folder: str | Path,
    name: str,
    entities: Sequence[str],
    values: npt.NDArray[np.floating[Any]],
    mask: npt.NDArray[np.bool_],
    metadata: Mapping[str, str],
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
    stream_features(folder, name, entities, (tokens, width), blocks, metadata)


def stream_features(
    folder: str | Path,
    name: str,
    entities: Sequence[str],
    shape: tuple[int, int],
    blocks: Iterable[Block],
    metadata: Mapping[str, str],
    *,
    dtype: str = "float16",
) -> None:
    """`write_features` of rows that come block by block, so that they are never in memory at once.

    Args:
        folder, name, entities, metadata: see `write_features`.
        shape: L and D.
        blocks: values [k, L, D] and mask [k, L] of the next k entities.
        dtype: of the stored values, `float16` or `float32`.

    Raises:
        ValueError: see `write_features`.
    """
    if len(set(entities)) != len(entities):
        raise ValueError("an entity has two rows")
    for entity in entities:
        if entity.splitlines() != [entity]:
            raise ValueError(f"an entity must be one line of text, not {entity!r}")
    features = Path(folder) / "features"
    with _made(features), replacing(features / f"{name}.safetensors", features / f"{name}.entities") as (file, listing):
        masks = np.zeros((len(entities), shape[0]), dtype=np.bool_)
        file.write(_header({"values": (dtype, (len(entities), *shape)), "mask": ("bool", masks.shape)}, metadata))
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


@contextmanager
def replacing(*paths: Path) -> Generator[list[IO[bytes]]]:
    """Files open for writing under temporary names, which take their own names once all are written."""
    temporary = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths]
    files: list[IO[bytes]] = []
    try:
        for path in temporary:
            files.append(path.open("wb"))
        yield files
        for file in files:
            file.close()
        for source, path in zip(temporary, paths, strict=True):
            source.replace(path)
    finally:
        for file in files:
            # Closing writes what is buffered, and on a full disk fails as the write before it has.
            with suppress(OSError):
                file.close()
        for path in temporary:
            path.unlink(missing_ok=True)


@contextmanager
def _made(folder: Path) -> Generator[None]:
    """A folder that is made where it is missing, and gone again after a failure."""
    missing = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if missing:
            with suppress(OSError):
                folder.rmdir()
        raise


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
