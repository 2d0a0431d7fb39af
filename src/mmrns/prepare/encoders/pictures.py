"""Pictures -> tokens: colours and edges of the cells of a grid, or the patches of a vision model."""

from __future__ import annotations

import math
import os
import warnings
from abc import abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unicodedata import normalize
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from mmrns.errors import DataError
from mmrns.prepare.encoders.base import Encoder, Inputs
from mmrns.prepare.encoders.files import Block
from mmrns.prepare.encoders.models import find_model, missing_extra

if TYPE_CHECKING:
    from PIL.Image import Image

GRID_WIDTH = 42
"""Feature width D of `grid_tokens`."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Files of a folder that are pictures."""

_LEVELS = 3
_ORIENTATIONS = 9
_LONGEST = 512


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

    Raises:
        ValueError: it is no picture, is cut off, or has too many pixels; with the reason in a few words.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise missing_extra(error) from error
    try:
        with Image.open(path) as opened:
            opened.load()
            picture = ImageOps.exif_transpose(opened)
        if picture.mode.startswith("I;16"):
            picture = picture.point(lambda level: level / 256).convert("L")
        if picture.has_transparency_data:
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        return picture.convert("RGB")
    except Exception as error:  # A decoder may raise anything on bytes that are no picture.
        raise ValueError(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if type(error).__name__ == "UnidentifiedImageError":
        return "no picture that can be read"
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


def pictures_of_column(folder: Path, table: Path, images: Iterable[tuple[str, str]]) -> dict[str, list[Path]]:
    """The pictures of each entity by the column `image` of `entities.tsv`: a file, or a folder of them.

    Args:
        folder: what the paths are relative to.
        table: the file that names them.
        images: entity and path of each row, blank where it has none.

    Raises:
        DataError: a path leaves the folder.
    """
    root = os.path.realpath(folder)
    found: dict[str, list[Path]] = {}
    for line, (entity, image) in enumerate(images, 2):
        if not image.strip():
            continue
        path = folder / image.strip()
        if not _within(path, root):
            raise DataError(table, f"image {image!r} is not inside {folder}", "name a file of that folder", line)
        found[entity] = _pictures(path, root) if os.path.isdir(path) else [path]
    return found


def pictures_by_name(folder: Path, known: Iterable[str]) -> tuple[dict[str, list[Path]], list[str]]:
    """The pictures of each entity by name: `ENTITY.png`, or any number in a folder `ENTITY/`.

    What a file name cannot hold may be percent-encoded. A slash in an entity's name is a folder.

    Args:
        folder: of the pictures.
        known: names of entities.

    Returns:
        The pictures of each entity, by file name; pictures that belong to none.

    Raises:
        DataError: there is no such folder, or a link leaves it.
    """
    if not folder.is_dir():
        raise DataError(folder, "is no folder", "give the folder of the pictures")
    # Some file systems keep accents apart from their letters.
    entities = {normalize("NFC", entity): entity for entity in known}
    found: dict[str, list[Path]] = {}
    unmatched: list[str] = []
    for path in _pictures(folder, os.path.realpath(folder)):
        inner = path.relative_to(folder)
        names = [normalize("NFC", name) for name in (inner.with_suffix("").as_posix(), inner.parent.as_posix())]
        entity = next((entities[name] for name in [*names, *map(unquote, names)] if name in entities), None)
        if entity is None:
            unmatched.append(str(inner))
        else:
            found.setdefault(entity, []).append(path)
    return found, unmatched


def _pictures(folder: Path, root: str) -> list[Path]:
    """All pictures below a folder, by name; folders that are links are not entered."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            path = Path(place, name)
            if path.suffix.lower() not in SUFFIXES:
                continue
            if not _within(path, root):
                raise DataError(path, f"is a link that leaves {folder}", "put the picture itself there")
            found.append(path)
    return found


def _within(path: Path, root: str) -> bool:
    try:
        return os.path.commonpath([os.path.realpath(path), root]) == root
    except ValueError:  # Another drive, or no path at all.
        return False
