"""Encoders: texts and pictures -> tokens, and the feature files that hold them.

Every encoder answers values [n, L, D] (n entities, L tokens, D feature width); `write_features` stores them
in the layout of a dataset folder. Needs the `encode` extra, whose libraries are imported only when one runs.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

GRID_WIDTH = 42
"""Feature width D of `grid_tokens`."""

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
    name and renamed at the end, so that a failure leaves whatever was there before.

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
    if len(set(entities)) != len(entities):
        raise ValueError("an entity has two rows")
    for entity in entities:
        if entity.splitlines() != [entity]:
            raise ValueError(f"an entity must be one line of text, not {entity!r}")
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(values, dtype=np.float16)
    if not np.isfinite(stored).all():
        raise ValueError("a value is not finite as float16")

    features = Path(folder) / "features"
    features.mkdir(parents=True, exist_ok=True)
    contents = {
        features / f"{name}.safetensors": _safetensors({"values": stored, "mask": mask}, metadata),
        features / f"{name}.entities": "".join(f"{entity}\n" for entity in entities).encode(),
    }
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    try:
        for path, content in contents.items():
            temporary[path].write_bytes(content)
        for path in contents:
            temporary[path].replace(path)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def _safetensors(tensors: dict[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with a sorted header: the library orders metadata differently from call to call."""
    from safetensors.numpy import save

    content = save(tensors, metadata=dict(metadata))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True, ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[start:]
