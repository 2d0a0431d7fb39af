"""Feature tables of other projects into `features/` of a dataset folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from mmrns.data.tables import read_lines
from mmrns.errors import DataError
from mmrns.prepare.encoders import stream_features
from mmrns.prepare.formats.arrays import SUFFIXES, Block, Rows, open_table
from mmrns.prepare.formats.contents import Contents

Zeros = Literal["missing", "keep"]

DBPEDIA = "http://dbpedia.org/resource/"
_FLOAT16_MAX = float(np.finfo(np.float16).max)
_BLOCK_BYTES = 2**26
KINDS = {
    "image": re.compile(r"visual|image|img|vis(?![a-z])|pic|beit|vit(?![a-z])|vgg|resnet|clip"),
    "text": re.compile(r"text|txt|desc|sentence|ling|bert"),
    "numeric": re.compile(r"numeric|number|literal"),
}
"""What the name of a feature file says of its modality."""


@dataclass(frozen=True)
class Source:
    """Where a modality comes from: `FILE[:KEY][,CODEBOOK]`."""

    path: Path
    key: str | None = None
    codebook: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Source:
        """From the command line."""
        file, _, codebook = text.partition(",")
        path, key = Path(file), None
        if not path.exists() and ":" in file:
            head, _, key = file.rpartition(":")
            path = Path(head)
        return cls(path, key or None, Path(codebook) if codebook else None)


def find_features(folder: Path) -> dict[str, Source]:
    """The feature files of a folder whose names say their modality, but for JSON, which may be anything.

    Tables of relations are left aside.

    Raises:
        DataError: two files look like the same modality.
    """
    found: dict[str, Source] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.suffix.lower() == ".json" or not path.is_file():
            continue
        stem = path.stem.lower()
        if re.search(r"(^|[-_.])rel(ations?)?([-_.]|$)", stem):
            continue
        kind = next((kind for kind, words in KINDS.items() if words.search(stem)), None)
        if kind is None:
            continue
        if kind in found:
            names = f"{found[kind].path.name} and {path.name}"
            raise DataError(folder, f"{names} both look like {kind} features", f"choose one: --features {kind}=FILE")
        found[kind] = Source(path)
    return found


def read_links(path: Path) -> pl.DataFrame:
    """Other names of entities: columns `other`, `entity`.

    `ent_links`: two columns, a DBpedia IRI and the entity. `*SameAsLink*`: an entity, SameAs, `<IRI>` and a full stop,
    blanks between.

    Raises:
        DataError: another number of columns, by line.
    """
    lines = read_lines(path)
    pattern = r"^\s*<?([^\s>]+)>?\s+(?:\S+\s+)?<?([^\s>]+)>?(?:\s*\.)?\s*$"
    fields = lines.str.extract_groups(pattern).struct.unnest()
    bad = fields.to_series(0).is_null().arg_true()
    if len(bad):
        message = "neither `name TAB entity` nor `entity SameAs <name> .`"
        raise DataError(path, message, "mend or delete the row", int(bad[0]) + 1)
    return fields.select(pl.nth(0).alias("other"), pl.nth(1).alias("entity"))


def match_names(
    names: pl.Series, contents: Contents, entities: pl.Series, links: pl.DataFrame | None
) -> npt.NDArray[Any]:
    """The place among `entities` that each name of a feature file means, -1 where none.

    A name is the entity itself; or that after `http://dbpedia.org/resource/`; or `m.x` for `/m/x`; or what `links` give
    for one of these, in either direction; or the id of an entity.
    """
    codes = pl.Enum(entities)

    def place(candidates: pl.Expr) -> pl.Expr:
        return candidates.cast(codes, strict=False).to_physical().cast(pl.Int64)

    table = names.alias("name").to_frame()
    name = pl.col("name")
    forms = [name, pl.lit(DBPEDIA) + name, name.str.replace(r"^m\.", "/m/")]
    found = [place(form) for form in forms]
    if links is not None:
        both = pl.concat([links, links.select(pl.col("entity").alias("other"), pl.col("other").alias("entity"))])
        both = both.filter(pl.col("entity").cast(codes, strict=False).is_not_null()).unique("other", keep="first")
        for i, form in enumerate(forms):
            table = table.with_columns(form.alias("other")).join(both, on="other", how="left", maintain_order="left")
            table = table.rename({"entity": f"linked{i}"}).drop("other")
            found.append(place(pl.col(f"linked{i}")))
    if contents.order is not None:
        at = name.cast(pl.Int64, strict=False)
        inside = pl.when(at.is_between(0, len(contents.order) - 1)).then(at)
        by_id = pl.Series(contents.order.cast(codes, strict=False).to_physical().cast(pl.Int64))
        found.append(pl.lit(by_id).gather(inside))
    return table.select(pl.coalesce(*found).fill_null(-1)).to_series().to_numpy()


def convert_features(
    contents: Contents,
    entities: pl.Series,
    sources: Mapping[str, Source],
    folder: Path,
    *,
    links: pl.DataFrame | None = None,
    zeros: Zeros = "missing",
    tokens: int | None = None,
    float32: bool = False,
    advance: Callable[[str, int, int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Write each modality and say what was found.

    Values become float16 unless one is too large for it, or `float32` asks for more. Tokens of zeros only are counted;
    they are missing unless `zeros` keeps them. Rows are read in blocks, twice: to look at them, and to write them.

    Args:
        contents: gives the order of ids, for tables without names.
        entities: every entity, sorted.
        sources: file by modality.
        folder: the dataset folder.
        links: other names of entities, from `read_links`.
        zeros: what tokens of zeros only mean.
        tokens: L, at most.
        float32: store single precision.
        advance: told modality, rows done and rows in all.

    Returns:
        By modality: rows, entities, unmatched names (how many, the first), zero tokens and rows, shape, dtype.

    Raises:
        DataError: a file that cannot be read or does not fit, values that are not finite, none that matches.
    """
    return {
        name: _convert(contents, entities, name, source, folder, links, zeros, tokens, float32, advance)
        for name, source in sources.items()
    }


def _convert(
    contents: Contents,
    entities: pl.Series,
    name: str,
    source: Source,
    folder: Path,
    links: pl.DataFrame | None,
    zeros: Zeros,
    tokens: int | None,
    float32: bool,
    advance: Callable[[str, int, int], None] | None,
) -> dict[str, Any]:
    table = open_table(source.path, key=source.key, codebook=source.codebook, tokens=tokens)
    n, length, width = table.shape
    if table.names is not None:
        place = match_names(table.names, contents, entities, links)
        called = table.names
    else:
        order = contents.order
        if order is None:
            raise DataError(source.path, "its rows have no names", "say whose they are: --ids FILE, one entity a line")
        if len(order) != n:
            message = f"{n:,} rows, but there are {len(order):,} entity ids"
            raise DataError(source.path, message, "use the table that belongs to these ids")
        place, called = match_names(order, Contents(contents.source, {}), entities, None), order
    matched = place >= 0
    # Of two rows for the same entity the first counts.
    _, first = np.unique(place, return_index=True)
    rows = np.sort(first[place[first] >= 0]).astype(np.int64)
    twice = int(matched.sum()) - len(rows)
    unmatched = called.filter(pl.Series(~matched)).to_list()
    if not len(rows):
        message = f"none of its {n:,} names is an entity (first: {called[0]!r})"
        raise DataError(source.path, message, "use the entity names of the triples, or give --links FILE")
    step = max(1, _BLOCK_BYTES // (4 * length * width))
    total = 2 * len(rows)

    def blocks(chosen: Rows, done: int) -> Iterator[tuple[Rows, Block]]:
        for start in range(0, len(chosen), step):
            part = chosen[start : start + step]
            yield part, table.read(part)
            if advance is not None:
                advance(name, done + start + len(part), total)

    zero_tokens, kept, largest = 0, np.zeros(len(rows), dtype=np.bool_), 0.0
    for start, (part, (values, mask)) in enumerate(blocks(rows, 0)):
        bad = (~np.isfinite(values) & mask[..., None]).any((1, 2))
        if bad.any():
            row = int(part[int(bad.argmax())])
            message = f"row {row:,} ({called[row]}) holds NaN or infinity"
            raise DataError(source.path, message, "mend the table, or delete the row")
        zero = mask & ~values.any(-1)
        zero_tokens += int(zero.sum())
        mask = mask if zeros == "keep" else mask & ~zero
        kept[start * step : start * step + len(part)] = mask.any(1)
        largest = max(largest, float(np.abs(values).max(initial=0.0, where=mask[..., None])))
    zero_rows = len(rows) - int(kept.sum())
    rows = rows[kept]
    if not len(rows):
        raise DataError(source.path, "holds zeros only", "use the table with values, or --zeros keep")
    wide = float32 or largest > _FLOAT16_MAX

    def written() -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]:
        for _, (values, mask) in blocks(rows, total - len(rows)):
            yield values, mask if zeros == "keep" else mask & values.any(-1)

    metadata = {
        "encoder": "unknown",
        "source": source.path.name + (f":{source.key}" if source.key else ""),
        "preprocessing": "as in the source; tokens of zeros " + ("kept" if zeros == "keep" else "missing"),
    } | ({"codebook": source.codebook.name} if source.codebook else {})
    names = entities.gather(place[rows]).to_list()
    dtype = "float32" if wide else "float16"
    try:
        stream_features(folder, name, names, (length, width), written(), metadata, dtype=dtype)
    except ValueError as error:
        raise DataError(source.path, str(error), "mend the names of entities") from error
    return {
        "rows": n,
        "entities": len(rows),
        "of": len(entities),
        "unmatched": len(unmatched),
        "first unmatched": unmatched[0] if unmatched else None,
        "repeated": twice,
        "zero tokens": zero_tokens,
        "zero rows": zero_rows,
        "tokens": length,
        "width": width,
        "dtype": dtype,
        "largest": largest,
    }


def find_links(folder: Path) -> Path | None:
    """`ent_links` or `*SameAsLink*` of a folder."""
    found = [path for path in sorted(folder.iterdir()) if path.name == "ent_links" or "sameaslink" in path.name.lower()]
    return found[0] if found else None
