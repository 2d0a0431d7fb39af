"""The pictures of a dataset as the page holds them."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    root = folder.resolve()
    for name in dict.fromkeys(paths):
        path = (folder / name).resolve()
        found = _picture(path, f"picture-{len(pictures)}", pixels) if path.is_relative_to(root) else None
        if found is None:
            unread.append(name)
        else:
            pictures[name] = found
    return pictures, unread


def _picture(path: Path, key: str, pixels: int) -> Picture | None:
    from PIL import Image, ImageOps

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
    except Exception:  # Pillow raises whatever its decoders raise; the page does without the picture.
        return None
    uri = f"data:{TYPES[kind]};base64,{base64.b64encode(data).decode()}"
    return Picture(key, uri, upright.width, upright.height)


def _reduced(image: Image, pixels: int) -> tuple[str, bytes, Image]:
    """A smaller copy: PNG where it is transparent, else JPEG; its format, bytes and the copy."""
    kind = "PNG" if image.has_transparency_data else "JPEG"
    small = image.convert("RGBA" if kind == "PNG" else "RGB")
    small.thumbnail((pixels, pixels))
    buffer = io.BytesIO()
    small.save(buffer, format=kind, quality=85)
    return kind, buffer.getvalue(), small
