"""The page of `mmrns inspect`: one self-contained HTML file."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmrns.files import write_text

if TYPE_CHECKING:
    from mmrns.inspection.draws import Attention, Drawn, HeatMap, Inspection, TokenList

ScaleKey = tuple[str, str, str, str]
Scales = dict[ScaleKey, tuple[float, float]]

PIXELS = 256
"""Longest side of an embedded picture."""
BYTES = 2**14
"""A picture file of at most this many bytes that needs no scaling is embedded as it is."""
SPOTLIGHTS = 8
"""A picture is shown once for each guiding token, or once for their mean where there are more."""
TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}


@dataclass(frozen=True)
class Cell:
    """A number and its colour: `shade` within [-1, 1]; None where a token is absent."""

    value: float
    shade: float | None


@dataclass(frozen=True)
class Table:
    """A heat map: rows of cells, what they are, and the numbers that the colours run between."""

    title: str
    rows: list[tuple[str, list[Cell]]]
    columns: list[str]
    row_modality: str
    column_modality: str
    low: float
    high: float
    signed: bool


@dataclass(frozen=True)
class Spotlight:
    """A picture's cells, as bright as they are looked at: `shades` within [0, 1] in reading order."""

    label: str
    shades: list[float]
    columns: int


@dataclass(frozen=True)
class TokenMaps:
    """The heat maps of how one modality's tokens are read: `guided` is shown, the `others` on demand.

    Where a modality is `absent` there is nothing to show.
    """

    reads: str
    guide: str
    absent: list[str]
    spotlights: list[Spotlight]
    guided: Table
    others: list[Table]


def write_page(found: Inspection, folder: Path | None, path: Path) -> None:
    """Write the page under a temporary name and rename it.

    Args:
        found: what to show.
        folder: of the dataset, where the pictures are.
        path: the file.

    Raises:
        DataError: the file cannot be written.
    """
    write_text(path, page(found, folder))


def page(found: Inspection, folder: Path | None) -> str:
    """The page as text."""
    from jinja2 import Environment, StrictUndefined

    pictures, unread = embedded(found["images"], folder)
    scales = _scales(found)
    sides = [
        (side, queries) for side in ("tail", "head") if (queries := [q for q in found["queries"] if q["side"] == side])
    ]
    token_maps = {
        (q["head"], q["relation"], q["tail"], q["side"], s["method"]): _token_maps(s["attention"], scales, s["method"])
        for q in found["queries"]
        for s in q["samplers"]
        if s["attention"]
    }
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    source = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        found=found,
        sides=sides,
        pictures=pictures,
        unread=unread,
        token_maps=token_maps,
        probability=probability,
        largest=max(
            (n["probability"] for q in found["queries"] for s in q["samplers"] for n in s["negatives"]), default=1
        ),
    )


def embedded(images: Mapping[str, str], folder: Path | None) -> tuple[dict[str, str], list[str]]:
    """Pictures by entity as data URIs, at most `PIXELS` wide and high, and the paths that could not be read."""
    pictures: dict[str, str] = {}
    unread: list[str] = []
    if folder is None:
        # A dataset that was made in memory has no pictures.
        return pictures, unread
    root = folder.resolve()
    for entity, name in images.items():
        path = (folder / name).resolve()
        uri = _data_uri(path) if path.is_relative_to(root) else None
        if uri is None:
            unread.append(name)
        else:
            pictures[entity] = uri
    return pictures, unread


def _data_uri(path: Path) -> str | None:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # A picture of too many pixels warns first; it is refused here.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            data = path.read_bytes()
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                kind = image.format or ""
                if kind not in TYPES or len(data) > BYTES or max(image.size) > PIXELS:
                    photo = kind == "JPEG"
                    small = image.convert("RGB" if photo else "RGBA")
                    small.thumbnail((PIXELS, PIXELS))
                    buffer = io.BytesIO()
                    kind = "JPEG" if photo else "PNG"
                    small.save(buffer, format=kind)
                    data = buffer.getvalue()
    except Exception:  # Pillow raises whatever its decoders raise; the page does without the picture.
        return None
    return f"data:{TYPES[kind]};base64,{base64.b64encode(data).decode()}"


def _guided(one: HeatMap) -> list[list[float]]:
    return [[g * c for g, c in zip(gs, cs, strict=True)] for gs, cs in zip(one["gate"], one["affinity"], strict=True)]


KINDS = {
    "guided": "gate × affinity",
    "gate": "gate of the relation",
    "affinity": "affinity of the tokens",
    "attention": "attention",
}


def _values(one: HeatMap, kind: str) -> list[list[float]]:
    return {"guided": _guided(one), "gate": one["gate"], "affinity": one["affinity"], "attention": one["attention"]}[
        kind
    ]


def _scale_key(method: str, attention: Attention, one: HeatMap, kind: str) -> ScaleKey:
    """Whose maps are coloured by one scale: gates are the relations' alone, all else differs from entity to entity."""
    return method, one["reads"], kind, "" if kind == "gate" else attention["entity"]


def _scales(found: Inspection) -> Scales:
    """Least and largest value of each kind of map over the page, so that colours compare between relations."""
    scales: Scales = {}
    attentions = [(s["method"], s["attention"]) for q in found["queries"] for s in q["samplers"] if s["attention"]]
    for method, attention in attentions:
        for one in attention["maps"]:
            for kind in KINDS:
                shown = [v for row in _shown(one, attention, kind) for v in row if v is not None]
                key = _scale_key(method, attention, one, kind)
                low, high = scales.get(key, (float("inf"), float("-inf")))
                scales[key] = min([low, *shown]), max([high, *shown])
    return scales


def _shown(one: HeatMap, attention: Attention, kind: str) -> list[list[float | None]]:
    """Values by [token read][guiding token], None where either is absent."""
    read = attention["tokens"][one["reads"]]["present"]
    guide = attention["tokens"][one["guide"]]["present"]
    return [
        [v if there and present else None for v, present in zip(row, guide, strict=True)]
        for row, there in zip(_values(one, kind), read, strict=True)
    ]


def _token_maps(attention: Attention, scales: Scales, method: str) -> list[TokenMaps]:
    found: list[TokenMaps] = []
    first = attention["maps"][0]["reads"]
    for one in attention["maps"]:
        tables = {
            kind: _table(one, attention, kind, scales[_scale_key(method, attention, one, kind)], one["reads"] == first)
            for kind in KINDS
        }
        guided = tables.pop("guided")
        spotlights = _spotlights(one, attention, max(abs(guided.low), abs(guided.high)))
        absent = [name for name in (one["reads"], one["guide"]) if not any(attention["tokens"][name]["present"])]
        found.append(TokenMaps(one["reads"], one["guide"], absent, spotlights, guided, list(tables.values())))
    return found


def _table(one: HeatMap, attention: Attention, kind: str, scale: tuple[float, float], transposed: bool) -> Table:
    """With the tokens of the first modality in columns, whichever is read."""
    low, high = scale
    values = _shown(one, attention, kind)
    rows: Iterable[Sequence[float | None]] = zip(*values, strict=True) if transposed else values
    names = (one["guide"], one["reads"]) if transposed else (one["reads"], one["guide"])
    labels, columns = (_labels(attention["tokens"][name], name) for name in names)
    signed = low < 0
    # Gates and attention differ by little from a mean that is not 0.
    base = low if kind in ("gate", "attention") else 0.0
    span = max(abs(low), abs(high)) if kind in ("guided", "affinity") else high - base

    def cell(value: float | None) -> Cell:
        return Cell(0.0, None) if value is None else Cell(value, (value - base) / span if span > 0 else 0.0)

    title = f"{KINDS[kind]} over {one['reads']} tokens" if kind == "attention" else KINDS[kind]
    body = [(label, [cell(v) for v in row]) for label, row in zip(labels, rows, strict=True)]
    return Table(title, body, columns, *names, -span if signed else base, base + span, signed)


def _labels(tokens: TokenList, modality: str) -> list[str]:
    """Words for each token: its text, its place in the picture, or its number."""
    names = iter(tokens["labels"] or ())
    found: list[str] = []
    for i, present in enumerate(tokens["present"]):
        if tokens["grid"]:
            row, column = divmod(i, tokens["grid"][1])
            found.append(f"row {row + 1}, column {column + 1}")
        else:
            found.append((next(names, None) if present else None) or f"{modality} {i + 1}")
    return found


def _spotlights(one: HeatMap, attention: Attention, largest: float) -> list[Spotlight]:
    tokens = attention["tokens"][one["reads"]]
    if tokens["grid"] is None or not any(tokens["present"]):
        return []
    columns = tokens["grid"][1]
    shades = [[abs(v or 0.0) / (largest or 1.0) for v in row] for row in _shown(one, attention, "guided")]
    guides = attention["tokens"][one["guide"]]
    present = [k for k, there in enumerate(guides["present"]) if there]
    if len(present) > SPOTLIGHTS:
        means = [sum(row) / len(present) for row in shades]
        return [Spotlight(f"mean over {len(present)} {one['guide']} tokens", means, columns)]
    labels = _labels(guides, one["guide"])
    return [Spotlight(labels[k], [row[k] for row in shades], columns) for k in present]


def probability(drawn: Drawn, found: Inspection) -> str:
    """Where the probabilities come from, as a phrase."""
    if drawn["exact"]:
        return "probabilities are exact"
    if drawn["closed_form"]:
        return f"probabilities are those of the first draw, estimated: the mean over {found['steps']:,} steps"
    return f"probabilities are estimated: shares of {drawn['draws']:,} draws"
