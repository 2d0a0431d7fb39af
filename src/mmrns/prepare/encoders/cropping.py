"""Which part of a picture a model sees, once its own image processor has resized and cropped it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmrns.data.tokens import WHOLE, Box

_SQUEEZED = 384
"""From this size on ConvNeXt's image processor squeezes pictures rather than cutting out their middle."""


def covered(processor: Any, width: int, height: int) -> Box | None:
    """The part of a picture that an image processor of transformers leaves, by its settings."""
    size = {key: value for key, value in dict(getattr(processor, "size", None) or {}).items() if value is not None}
    crop = {key: value for key, value in dict(getattr(processor, "crop_size", None) or {}).items() if value is not None}
    if getattr(processor, "do_pad", False):
        return None
    wide, high = float(width), float(height)
    cropped = crop if getattr(processor, "do_center_crop", False) else {}
    if getattr(processor, "do_resize", False):
        if "height" in size and "width" in size:
            wide, high = float(size["width"]), float(size["height"])
        elif set(size) == {"shortest_edge"}:
            shortest = float(size["shortest_edge"])
            share = getattr(processor, "crop_pct", None)
            if share is not None:  # ConvNeXt's: small sizes are cut out of a larger picture, large ones squeezed.
                if shortest >= _SQUEEZED:
                    return WHOLE
                cropped = {"height": shortest, "width": shortest}
                shortest = int(shortest / share)
            wide, high = (shortest * side / min(width, height) for side in (width, height))
        else:
            return None
    if not cropped:
        return WHOLE
    if set(cropped) != {"height", "width"} or cropped["width"] > wide + 1 or cropped["height"] > high + 1:
        return None
    edges = [max(0.0, (1 - cropped[side] / whole) / 2) for side, whole in (("width", wide), ("height", high))]
    return edges[0], edges[1], 1 - edges[0], 1 - edges[1]


def picture_size(path: Path) -> tuple[int, int] | None:
    """Width and height of a picture once it is upright, without decoding it; None where they cannot be told."""
    from PIL import ExifTags, Image

    try:
        with Image.open(path) as opened:
            turned = opened.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            return (opened.height, opened.width) if turned else (opened.width, opened.height)
    except Exception:  # As in `read_picture`.
        return None
