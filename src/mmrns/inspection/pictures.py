"""The pictures of a dataset's entities: which there are, and small upright copies to show."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmrns.data.datasets import Dataset

if TYPE_CHECKING:
    from PIL.Image import Image

PIXELS = 512
"""Longest side of an embedded picture."""
BYTES = 2**15
"""A picture file of at most this many bytes that needs neither scaling nor turning is embedded as it is."""
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, with its size in pixels; `key` names it on the page."""

    key: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Copy:
    """A picture as it is shown: its bytes, the media type that they are of, and its size in pixels."""

    data: bytes
    type: str
    width: int
    height: int


def pictures_of(dataset: Dataset, entity: str) -> list[str]:
    """The paths of an entity's pictures within the dataset folder: those that its tokens were made of, then the one
    that `entities.tsv` names, where that is another.
    """
    i = dataset.graph.entities.id(entity)
    origins = (one for modality in dataset.features.at_hand.values() for one in modality.made_of(i))
    encoded = [one.picture for one in origins if not isinstance(one, str) and one.picture is not None]
    named = [dataset.images[entity]] if entity in dataset.images else []
    return [*dict.fromkeys([*encoded, *named])]


def embedded(paths: Iterable[str], folder: Path | None, pixels: int = PIXELS) -> tuple[dict[str, Picture], list[str]]:
    """Pictures by path, upright, at most `pixels` wide and high, and the paths that could not be read.

    Args:
        paths: within the folder; what lies outside counts as not read.
        folder: of the dataset; None for one that was made in memory, which has no pictures.
        pixels: of the longest side at most.
    """
    pictures: dict[str, Picture] = {}
    unread: list[str] = []
    if folder is None:
        return pictures, unread
    for name in dict.fromkeys(paths):
        found = read_picture(folder, name, pixels)
        if found is None:
            unread.append(name)
        else:
            uri = f"data:{found.type};base64,{base64.b64encode(found.data).decode()}"
            pictures[name] = Picture(f"picture-{len(pictures)}", uri, found.width, found.height)
    return pictures, unread


def read_picture(folder: Path, name: str, pixels: int = PIXELS) -> Copy | None:
    """A picture of a dataset, upright; None where it cannot be read, or lies outside the folder.

    Args:
        folder: of the dataset.
        name: the path within it.
        pixels: how wide and high it is at most; it is never enlarged.
    """
    from PIL import Image, ImageOps

    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        return None
    try:
        with warnings.catch_warnings():
            # A picture of too many pixels warns first; it is refused here.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            data = path.read_bytes()
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                kind = image.format or ""
                upright = ImageOps.exif_transpose(image)
                if kind not in TYPES or len(data) > BYTES or max(image.size) > pixels or upright.size != image.size:
                    kind, data, upright = _reduced(upright, pixels)
    except Exception:  # Pillow raises whatever its decoders raise; who asks does without the picture.
        return None
    return Copy(data, TYPES[kind], upright.width, upright.height)


def _reduced(image: Image, pixels: int) -> tuple[str, bytes, Image]:
    """A smaller copy: PNG where it is transparent, else JPEG; its format, bytes and the copy."""
    kind = "PNG" if image.has_transparency_data else "JPEG"
    small = image.convert("RGBA" if kind == "PNG" else "RGB")
    small.thumbnail((pixels, pixels))
    buffer = io.BytesIO()
    small.save(buffer, format=kind, quality=85)
    return kind, buffer.getvalue(), small
