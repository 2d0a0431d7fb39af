"""Pictures -> tokens: colours and edges of the cells of a grid, or the patches of a vision model."""

from __future__ import annotations

import math
import os
import stat
import warnings
from abc import abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from mmrns.data.tokens import WHOLE, Box, Origin, Patches
from mmrns.errors import DataError
from mmrns.prepare.encoders.base import Encoder, Inputs
from mmrns.prepare.encoders.cropping import covered
from mmrns.prepare.encoders.files import Block
from mmrns.prepare.encoders.models import find_model, missing_extra
from mmrns.prepare.encoders.rows import Skipped
from mmrns.prepare.folders import (
    PICTURE_SUFFIXES,
    is_address,
    is_picture,
    lies_within,
    named_pictures,
    picture_format,
    pictures_of,
)

if TYPE_CHECKING:
    from PIL.Image import Image

GRID_WIDTH = 42
"""Feature width D of `grid_tokens`."""

_LEVELS = 3
_ORIENTATIONS = 9
_LONGEST = 512

_SAMPLE_FORMAT = 339
"""The TIFF tag that tells signed from unsigned integers."""


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


class PictureEncoder(Encoder):
    """An encoder of the cells of a grid; the tokens of an entity are shared out among its pictures.

    m pictures get L // m tokens each, from the squarest grid of so many cells; what is left over is absent.

    Attributes:
        name: of the encoder or its model.
        preprocessing: what is done with a picture first.
    """

    reads = "pictures"
    name: str
    preprocessing: str

    @abstractmethod
    def patches(self, pictures: Sequence[Image], tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """The tokens [l, D] of each picture, l as asked for it."""

    def box(self, width: int, height: int) -> Box | None:
        """Which part of an upright picture of so many pixels the grid covers; None where that is not known."""
        return WHOLE

    def encode(self, inputs: Inputs, tokens: int) -> Block:
        """See `Encoder.encode`."""
        rows = [row for row, pictures in enumerate(inputs) for _ in pictures]
        share = [tokens // len(inputs[row]) for row in rows]
        vectors = list(self.patches([picture for pictures in inputs for picture in pictures], share))
        values = np.zeros((len(inputs), tokens, vectors[0].shape[1]), dtype=np.float16)
        mask = np.zeros((len(inputs), tokens), dtype=np.bool_)
        filled = np.zeros(len(inputs), dtype=np.int64)
        for row, part in zip(rows, vectors, strict=True):
            here = slice(filled[row], filled[row] + len(part))
            values[row, here], mask[row, here] = part, True
            filled[row] += len(part)
        return values, mask

    def settings(self, tokens: int) -> dict[str, str]:
        """See `Encoder.settings`."""
        return {
            "encoder": self.name,
            "revision": self.revision,
            "preprocessing": self.preprocessing,
            "pooling": f"mean over the cells of a grid; {tokens} tokens shared out among the pictures of an entity",
        }


class GridEncoder(PictureEncoder, name="classical"):
    """`grid_tokens` of pictures whose longest side is at most 512 pixels; larger ones are reduced to that.

    It needs neither weights nor a network.
    """

    name = "mmrns.prepare.encoders.grid_tokens"
    preprocessing = f"longest side at most {_LONGEST} pixels"

    def patches(self, pictures: Sequence[Image], tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """The tokens [l, 42] of each picture, l as asked for it."""
        for picture, count in zip(pictures, tokens, strict=True):
            rows, columns = grid_shape(count)
            picture.thumbnail((_LONGEST, _LONGEST))
            if picture.height < rows or picture.width < columns:
                picture = picture.resize((max(picture.width, columns), max(picture.height, rows)))
            yield grid_tokens([np.asarray(picture)], rows, columns)[0]


class VisionEncoder(PictureEncoder, name="transformers"):
    """The patches of a vision model of the Hugging Face Hub, such as `microsoft/beit-base-patch16-224`.

    The last hidden states of the patches (or the last feature map) are averaged over the cells of a grid; class and
    register tokens are left out. Pictures are prepared as the model's own configuration says.

    Args:
        model: a name on the Hub, or the folder of a saved model with its `preprocessor_config.json`.
        batch_size: pictures encoded at a time.
        device: where the model runs.

    Attributes:
        name, revision, preprocessing: for the record.

    Raises:
        UsageError: the model is not found, cannot be loaded, or lacks weights.
    """

    def __init__(self, model: str, *, batch_size: int = 32, device: str | None = "cpu"):
        super().__init__(batch_size=batch_size, device=device)
        found = find_model(model)
        self.name, self.revision = found.name, found.revision
        with found.loading():
            from transformers import AutoImageProcessor, AutoModel

            self._prepare: Any = AutoImageProcessor.from_pretrained(str(found.folder), backend="pil")
            network, info = AutoModel.from_pretrained(str(found.folder), use_safetensors=True, output_loading_info=True)
            # The last hidden states do not pass through the pooler, which many checkpoints leave out.
            absent = sorted(key for key in info["missing_keys"] if "pooler" not in key)
            if absent:
                raise ValueError(f"its weights lack {absent[0]}")
            # A model of texts and pictures: its half for pictures.
            self._model: Any = getattr(network, "vision_model", network).to(device).eval()
        self.preprocessing = f"{type(self._prepare).__name__} {_size(self._prepare)}"

    def box(self, width: int, height: int) -> Box | None:
        """What is left of the picture after the model's own resizing and cropping."""
        return covered(self._prepare, width, height)

    def patches(self, pictures: Sequence[Image], tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """The tokens [l, D] of each picture, l as asked for it."""
        import torch

        for first in range(0, len(pictures), self.batch_size):
            batch = list(pictures[first : first + self.batch_size])
            pixels = self._prepare(images=batch, return_tensors="pt")["pixel_values"].to(self.device)
            with torch.inference_mode():
                states = self._model(pixel_values=pixels).last_hidden_state
                if states.ndim == 3:
                    states = _patches(states, pixels.shape[-2:], getattr(self._model.config, "patch_size", None))
                for state, count in zip(states.float(), tokens[first : first + self.batch_size], strict=True):
                    pooled = torch.nn.functional.adaptive_avg_pool2d(state, grid_shape(count))
                    yield pooled.flatten(1).T.cpu().numpy()


def _size(processor: Any) -> str:
    size = dict(getattr(processor, "size", None) or {})
    return " x ".join(str(value) for value in size.values() if value is not None)


def grids_of(
    encoder: Encoder, pictures: Sequence[tuple[str | None, tuple[int, int] | None]], tokens: int
) -> list[Origin]:
    """What the tokens of an entity are, in their order: the cells of a grid for each of its pictures.

    Of an encoder that is no `PictureEncoder` a picture is one token, if it is at all.

    Args:
        encoder: which made them.
        pictures: path and size of each picture that was encoded.
        tokens: L.
    """
    if not isinstance(encoder, PictureEncoder):
        return [Patches(path, 1, 1) for path, _ in pictures]
    rows, columns = grid_shape(tokens // max(1, len(pictures)))
    return [Patches(path, rows, columns, None if size is None else encoder.box(*size)) for path, size in pictures]


def _patches(states: Any, pixels: Sequence[int], patch: Any) -> Any:
    """Hidden states [b, S, D] of the patches as a map [b, D, rows, columns]; the others come first and are dropped."""
    rows = columns = math.isqrt(states.shape[1])
    if isinstance(patch, int) and (pixels[0] // patch) * (pixels[1] // patch) <= states.shape[1]:
        rows, columns = pixels[0] // patch, pixels[1] // patch
    return states[:, states.shape[1] - rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


def grid_shape(cells: int) -> tuple[int, int]:
    """Rows and columns of the squarest grid of so many cells, not higher than wide.

    >>> grid_shape(24), grid_shape(4), grid_shape(5)
    ((4, 6), (2, 2), (1, 5))
    """
    rows = next(rows for rows in range(math.isqrt(cells), 0, -1) if cells % rows == 0)
    return rows, cells // rows


def read_picture(path: Path) -> Image:
    """A picture in RGB: upright, its first frame, white where it is transparent.

    Grey levels of more than 8 bits are scaled, see `grey_levels`.

    Raises:
        ValueError: it is no picture, is cut off, or has too many pixels; with the reason in a few words.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise missing_extra(error) from error
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("no regular file")
        with Image.open(path) as opened:
            opened.load()
            tags = getattr(opened, "tag_v2", None)
            unsigned = tags is not None and np.ravel(tags.get(_SAMPLE_FORMAT, 1))[0] == 1
            try:
                picture = ImageOps.exif_transpose(opened)
            except Exception:  # A turn that cannot be made out is none.
                picture = opened.copy()
        if picture.mode[0] in "IF":
            values = np.asarray(picture)
            # The library keeps unsigned integers of a TIFF as signed ones.
            values = values.view(np.uint32) if unsigned and picture.mode == "I" else values
            clear = picture.info.get("transparency")
            picture = Image.fromarray(grey_levels(values))
            if isinstance(clear, int):
                picture.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
        if picture.has_transparency_data:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        return picture.convert("RGB")
    except Exception as error:  # A decoder may raise anything on bytes that are no picture.
        raise ValueError(_reason(error, path)) from error


def grey_levels(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Grey levels 0..255 of a picture of one channel with more than 8 bits.

    16 bits are divided by 256. Of other integers and of floats the range decides: 0..1 (floats only), 0..255 or
    0..65,535, the first that holds all values; else what lies from the least to the greatest value. What is not finite
    is black.

    >>> grey_levels(np.array([[0.0, 0.5, 1.0]])), grey_levels(np.array([[-1e6, 1e6]]))
    (array([[  0, 128, 255]], dtype=uint8), array([[  0, 255]], dtype=uint8))

    Raises:
        ValueError: no value is finite.
    """
    if values.dtype.itemsize == 2 and values.dtype.kind == "u":
        return (values >> 8).astype(np.uint8)
    levels = values.astype(np.float64)
    finite = np.isfinite(levels)
    if not finite.any():
        raise ValueError("no value is finite")
    least, most = levels[finite].min(), levels[finite].max()
    tops = (1, 255, 65535) if values.dtype.kind == "f" else (255, 65535)
    top = next((top for top in tops if least >= 0 and most <= top), None)
    low, high = (0.0, float(top)) if top is not None else (least, most)
    shares = (np.where(finite, levels, low) / 2 - low / 2) / max(high / 2 - low / 2, np.finfo(np.float64).tiny)
    return np.rint(shares * 255).astype(np.uint8)


def _reason(error: Exception, path: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if type(error).__name__ == "UnidentifiedImageError":
        kind = picture_format(path)
        return f"{kind}, which cannot be read; save it as PNG" if kind else "no picture that can be read"
    if type(error).__name__.startswith("DecompressionBomb"):
        return "too many pixels"
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def reading_pictures() -> Generator[None]:
    """Inside, pictures of too many pixels are refused and the decoders' other remarks not shown."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\..*")
        warnings.filterwarnings("error", "Image size", module=r"PIL\..*")
        yield


@dataclass
class Pictures:
    """The pictures of entities, and every file that is not among them.

    Attributes:
        of: the pictures of each entity that has one.
        unmatched: pictures that belong to no entity.
        others: files that are no pictures, but for those that systems leave behind.
        skipped: what is named but cannot be a picture.
    """

    of: dict[str, list[Path]] = field(default_factory=dict[str, list[Path]])
    unmatched: list[str] = field(default_factory=list[str])
    others: list[str] = field(default_factory=list[str])
    skipped: list[Skipped] = field(default_factory=list[Skipped])


def pictures_of_column(folder: Path, table: Path, images: Iterable[tuple[str, str]]) -> Pictures:
    """The pictures of each entity by the column `image` of `entities.tsv`: a file, a folder of them, or several.

    Args:
        folder: what the paths are relative to; see `named_pictures` for how they may be written.
        table: the file that names them.
        images: entity and paths of each row, blank where it has none.

    Raises:
        DataError: a path leaves the folder.
    """
    root = os.path.realpath(folder)
    found = Pictures()
    for line, (entity, image) in enumerate(images, 2):
        if not image.strip():
            continue
        if is_address(image.strip()):
            found.skipped.append(Skipped(entity, image.strip(), "a web address; download it and name the file"))
            continue
        for path in named_pictures(folder, image):
            if not lies_within(path, root):
                raise DataError(table, f"image {image!r} is not inside {folder}", "name a file of that folder", line)
            if not os.path.isdir(path):
                found.of.setdefault(entity, []).append(path)
                continue
            pictures, others = _below(path, root)
            found.others += [str(other.relative_to(folder)) for other in others]
            if pictures:
                found.of.setdefault(entity, []).extend(pictures)
            else:
                found.skipped.append(Skipped(entity, str(path), "a folder without pictures"))
    named = {path for paths in found.of.values() for path in paths}
    if (folder / "images").is_dir():
        pictures, others = _below(folder / "images", root)
        found.unmatched = [str(path.relative_to(folder)) for path in pictures if path not in named]
        found.others += [str(path.relative_to(folder)) for path in others]
    found.others = list(dict.fromkeys(found.others))
    return found


def pictures_by_name(folder: Path, known: Iterable[str]) -> Pictures:
    """The pictures of each entity by name: `ENTITY.png`, or any number in a folder `ENTITY/`.

    Pictures are known by their suffix (`PICTURE_SUFFIXES`), or whatever they are called by their content; a file
    `ENTITY` without a suffix is meant to be one. What a file name cannot hold may be percent-encoded. A slash in an
    entity's name is a folder.

    Args:
        folder: of the pictures.
        known: names of entities.

    Raises:
        DataError: there is no such folder, or a link to a file leaves it.
    """
    if not folder.is_dir():
        raise DataError(folder, "is no folder", "give the folder of the pictures")
    # Some file systems keep accents apart from their letters.
    entities = {normalize("NFC", entity): entity for entity in known}
    found = Pictures()

    def whose(inner: Path) -> str | None:
        whole, stem, parent = (normalize("NFC", p.as_posix()) for p in (inner, inner.with_suffix(""), inner.parent))
        names = [stem, whole, parent] if inner.suffix.lower() in PICTURE_SUFFIXES else [whole, stem, parent]
        return next((entities[name] for name in [*names, *map(unquote, names)] if name in entities), None)

    pictures, others = _below(folder, os.path.realpath(folder))
    for path in pictures:
        inner = path.relative_to(folder)
        entity = whose(inner)
        if entity is None:
            found.unmatched.append(str(inner))
        else:
            found.of.setdefault(entity, []).append(path)
    for path in others:
        inner = path.relative_to(folder)
        entity = None if inner.suffix or not path.is_file() else whose(inner)
        if entity is None:
            found.others.append(str(inner))
        else:
            found.of.setdefault(entity, []).append(path)
    return found


def _below(folder: Path, root: str) -> tuple[list[Path], list[Path]]:
    """The pictures below a folder, by name, and its other files; of those, hidden ones are not told."""
    pictures: list[Path] = []
    others: list[Path] = []
    for path in pictures_of(folder, root):
        if path.is_dir():  # A link that leaves the folder.
            others.append(path)
        elif not is_picture(path):
            others += [] if path.name.startswith(".") else [path]
        elif not lies_within(path, root):
            raise DataError(path, f"is a link that leaves {folder}", "put the picture itself there")
        else:
            pictures.append(path)
    return pictures, others
