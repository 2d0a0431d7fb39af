"""The page of `mmrns inspect`: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmrns.files import write_text
from mmrns.inspection.pictures import embedded

if TYPE_CHECKING:
    from mmrns.inspection.draws import Attention, Cells, Drawn, HeatMap, Inspection, TokenList

ScaleKey = tuple[str, str, str, str]
MapsKey = tuple[str, str, str, str, str]
"""Head, relation, tail and side of a query, and a method."""
Scales = dict[ScaleKey, tuple[float, float]]

SPOTLIGHTS = 8
"""A picture is shown once for each guiding token, or once for their mean where there are more."""


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
    """A picture's cells, as bright as they are looked at: `shades` within [0, 1], from left to right, then down.

    They cover the picture of this path but for so many percent of it from above, right, below and left.
    """

    label: str
    picture: str
    shades: list[float]
    columns: int
    inset: tuple[float, float, float, float]


@dataclass(frozen=True)
class TokenMaps:
    """The heat maps of how one modality's tokens are read: `guided` is shown, the `others` on demand.

    `words` are those of the tokens read, by number, where they are of texts. Where a modality is `absent` there is
    nothing to show; `remark` says why there is no picture with the tokens laid over it, where one is looked for.
    """

    reads: str
    guide: str
    absent: list[str]
    words: dict[int, str]
    spotlights: list[Spotlight]
    remark: str
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

    pictures, unread = embedded([*found["images"].values(), *laid_over(found)], folder)
    sides = [
        (side, queries) for side in ("tail", "head") if (queries := [q for q in found["queries"] if q["side"] == side])
    ]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    source = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        found=found,
        sides=sides,
        pictures=pictures,
        unread=unread,
        token_maps=token_maps(found, pictures),
        probability=probability,
        largest=max(
            (n["probability"] for q in found["queries"] for s in q["samplers"] for n in s["negatives"]), default=1
        ),
    )


def token_maps(found: Inspection, shown: Container[str]) -> dict[MapsKey, list[TokenMaps]]:
    """The heat maps of each query and sampler that has an attention, in colours that compare between the queries.

    Args:
        found: what was drawn.
        shown: paths of the pictures that can be shown.
    """
    scales = _scales(found)
    return {
        (q["head"], q["relation"], q["tail"], q["side"], s["method"]): _token_maps(
            s["attention"], scales, s["method"], shown
        )
        for q in found["queries"]
        for s in q["samplers"]
        if s["attention"]
    }


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


def laid_over(found: Inspection) -> Iterator[str]:
    """The pictures whose cells are tokens."""
    for query in found["queries"]:
        for drawn in query["samplers"]:
            for tokens in drawn["attention"]["tokens"].values() if drawn["attention"] else ():
                yield from (cells["picture"] for cells in tokens["grids"] if cells["picture"] is not None)


def _token_maps(attention: Attention, scales: Scales, method: str, shown: Container[str]) -> list[TokenMaps]:
    found: list[TokenMaps] = []
    first = attention["maps"][0]["reads"]
    for one in attention["maps"]:
        tables = {
            kind: _table(one, attention, kind, scales[_scale_key(method, attention, one, kind)], one["reads"] == first)
            for kind in KINDS
        }
        guided = tables.pop("guided")
        spotlights = _spotlights(one, attention, max(abs(guided.low), abs(guided.high)), shown)
        tokens = attention["tokens"][one["reads"]]
        remark = "" if spotlights else _remark(tokens, one["reads"], shown)
        words = dict(
            zip((k + 1 for k, there in enumerate(tokens["present"]) if there), tokens["labels"] or (), strict=False)
        )
        absent = [name for name in (one["reads"], one["guide"]) if not any(attention["tokens"][name]["present"])]
        others = list(tables.values())
        found.append(TokenMaps(one["reads"], one["guide"], absent, words, spotlights, remark, guided, others))
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
    words = iter(tokens["labels"] or _places(tokens["grids"]))
    return [
        (next(words, None) if there else None) or f"{modality} {i + 1}" for i, there in enumerate(tokens["present"])
    ]


def _places(grids: Sequence[Cells]) -> Iterator[str]:
    """Where the cells of grids are, from left to right, then down, one grid after the other."""
    for n, grid in enumerate(grids):
        for cell in range(grid["rows"] * grid["columns"]):
            row, column = divmod(cell, grid["columns"])
            place = f"row {row + 1}, column {column + 1}"
            yield place if len(grids) == 1 else f"picture {n + 1}, {place}"


def _spotlights(one: HeatMap, attention: Attention, largest: float, shown: Container[str]) -> list[Spotlight]:
    """Each picture once for each guiding token, or for their mean where there are many."""
    tokens, guides = (attention["tokens"][one[name]] for name in ("reads", "guide"))
    values = _shown(one, attention, "guided")
    shades = [
        [abs(v or 0.0) / (largest or 1.0) for v in row]
        for row, there in zip(values, tokens["present"], strict=True)
        if there
    ]
    seen = [k for k, there in enumerate(guides["present"]) if there]
    if not seen:
        return []
    labels = _labels(guides, one["guide"])
    looks = {labels[k]: [row[k] for row in shades] for k in seen}
    if len(seen) > SPOTLIGHTS:
        looks = {f"mean over {len(seen)} {one['guide']} tokens": [sum(row) / len(seen) for row in shades]}
    found: list[Spotlight] = []
    start = 0
    for grid in tokens["grids"]:
        cells = slice(start, start := start + grid["rows"] * grid["columns"])
        picture, box = grid["picture"], grid["box"]
        if picture is None or picture not in shown or box is None:
            continue
        left, upper, right, lower = box
        inset = (100 * upper, 100 * (1 - right), 100 * (1 - lower), 100 * left)
        found += [Spotlight(label, picture, look[cells], grid["columns"], inset) for label, look in looks.items()]
    return found


def _remark(tokens: TokenList, modality: str, shown: Container[str]) -> str:
    """Why tokens are not laid over a picture; nothing where they are words."""
    if tokens["labels"] or not any(tokens["present"]):
        return ""
    if not tokens["grids"]:
        file = f"features/{modality}.tokens.jsonl"
        return f"Tokens have numbers, since {file} does not say what they were made of; mmrns encode writes it."
    if all(grid["picture"] is None for grid in tokens["grids"]):
        return "The picture is not shown, since it lies outside the dataset folder."
    if not any(grid["picture"] is not None and grid["picture"] in shown for grid in tokens["grids"]):
        return "The picture is not shown, since it could not be read."
    return "The picture is not shown, since it is not known which part of it the model looked at."


def probability(drawn: Drawn, found: Inspection) -> str:
    """Where the probabilities come from, as a phrase."""
    if drawn["exact"]:
        return "probabilities are exact"
    if drawn["closed_form"]:
        return f"probabilities are those of the first draw, estimated: the mean over {found['steps']:,} steps"
    return f"probabilities are estimated: shares of {drawn['draws']:,} draws"
