"""The features of a dataset folder from its texts, pictures and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import polars as pl

from mmrns.data.folders import read_entities
from mmrns.data.tables import read_columns
from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import DataError
from mmrns.prepare.encoders.files import Block, stream_features
from mmrns.prepare.encoders.numbers import ATTRIBUTES, BASES, number_tokens
from mmrns.prepare.encoders.pictures import (
    GridEncoder,
    VisionEncoder,
    pictures_by_name,
    pictures_of_column,
    read_picture,
    reading_pictures,
)
from mmrns.prepare.encoders.rows import WRITER, Encoded, Keys, Progress, Skipped, encode_rows, finished, key_of, silent
from mmrns.prepare.encoders.texts import SentenceEncoder, split_sentences
from mmrns.prepare.folders import read_vocabulary

if TYPE_CHECKING:
    from PIL.Image import Image

CLASSICAL = "classical"
"""The picture encoder that needs no weights."""

_CHUNK = 128
_HEADERS = {"entity", "id", "name"}


def encode_texts(
    folder: Path,
    model: str,
    *,
    file: Path | None = None,
    tokens: int = 4,
    batch_size: int = 64,
    device: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Encoded:
    """Write `features/text`: an embedding of each of the first sentences about an entity.

    Args:
        folder: the dataset folder.
        model: see `SentenceEncoder`.
        file: entity and text in two columns (tab-separated, or `.csv`), rows of one entity one after the other; by
            default the columns `name`, which is the first token, and `description` of `entities.tsv`.
        tokens: L, the most sentences of an entity.
        batch_size: sentences encoded at a time.
        device: where the model runs.
        overwrite, progress: see `encode_rows`.

    Raises:
        DataError: a malformed file, or no entity has a text.
        UsageError: the model is not found or cannot be loaded.
    """
    known = read_vocabulary(folder)
    source = file or folder / "entities.tsv"
    texts, unmatched = _matched(_texts(folder, file, known), known)
    if not texts:
        raise _no_input(source, "text", unmatched)
    sentences = {
        entity: [s for text, whole in parts for s in ([text.strip()] if whole else split_sentences(text, tokens))]
        for entity, parts in texts.items()
    }
    rows = {entity: found[:tokens] for entity, found in sorted(sentences.items()) if found}
    encoder = SentenceEncoder(model, batch_size=batch_size, device=device)
    settings = {
        "encoder": encoder.name,
        "revision": encoder.revision,
        "preprocessing": "the name, then the sentences of the description" if file is None else "sentences",
        "pooling": f"one embedding of unit length for each of the first {tokens}",
    }
    lists = list(rows.values())

    def encode(places: Keys) -> tuple[Block, npt.NDArray[np.bool_]]:
        return encoder([lists[i] for i in places], tokens), np.ones(len(places), dtype=np.bool_)

    keys = np.array([key_of(*(s.encode() for s in row)) for row in lists], dtype=np.int64)
    found = encode_rows(
        folder,
        "text",
        list(rows),
        keys,
        encode,
        settings,
        chunk=max(batch_size, _CHUNK),
        nothing=lambda: _no_input(source, "text", unmatched),
        overwrite=overwrite,
        progress=progress,
    )
    return replace(found, unmatched=unmatched)


def encode_pictures(
    folder: Path,
    model: str,
    *,
    pictures: Path | None = None,
    tokens: int = 24,
    batch_size: int = 32,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress = silent,
) -> Encoded:
    """Write `features/image`: the patches of each entity's pictures, averaged over the cells of a grid.

    The L tokens of an entity are shared out among its pictures: m pictures get L // m each, from the squarest grid of
    so many cells; what is left over is absent. Of more than L pictures the first L count.

    Pictures that cannot be read are reported and left out; their entities are tried again by the next call.

    Args:
        folder: the dataset folder.
        model: see `VisionEncoder`; `classical` for `GridEncoder`, which needs no weights.
        pictures: a folder of pictures by entity name; by default the column `image` of `entities.tsv`, or where that
            names none, the folder `images`.
        tokens: L.
        batch_size: pictures encoded at a time.
        device: where the model runs.
        overwrite, progress: see `encode_rows`.

    Raises:
        DataError: a path that leaves the folder, or no picture that can be read.
        UsageError: the model is not found or cannot be loaded.
    """
    known = read_vocabulary(folder)
    paths, unmatched = _pictures(folder, pictures, known)
    source = pictures or folder
    if not paths:
        raise _no_input(source, "picture", unmatched)
    entities = sorted(paths)
    encoder = GridEncoder() if model == CLASSICAL else VisionEncoder(model, batch_size=batch_size, device=device)
    settings = {
        "encoder": encoder.name,
        "revision": encoder.revision,
        "preprocessing": f"RGB on white; {encoder.preprocessing}",
        "pooling": f"mean over the cells of a grid; {tokens} tokens shared out among the pictures of an entity",
    }
    skipped: list[Skipped] = []

    def read(path: Path) -> Image | str:
        try:
            return read_picture(path)
        except ValueError as error:
            return str(error)

    def encode(places: Keys) -> tuple[Block, npt.NDArray[np.bool_]]:
        named = [(row, path) for row, i in enumerate(places) for path in paths[entities[i]][:tokens]]
        opened = list(readers.map(read, [path for _, path in named]))
        whole = np.ones(len(places), dtype=np.bool_)
        for (row, path), found in zip(named, opened, strict=True):
            if isinstance(found, str):
                whole[row] = False
                skipped.append(Skipped(entities[places[row]], str(path), found))
        good = [(row, found) for (row, _), found in zip(named, opened, strict=True) if not isinstance(found, str)]
        count = np.bincount([row for row, _ in good], minlength=len(places))
        share = [tokens // int(count[row]) for row, _ in good]
        vectors = list(encoder([found for _, found in good], share))
        width = vectors[0].shape[1] if vectors else 0
        values = np.zeros((len(places), tokens, width), dtype=np.float16)
        mask = np.zeros((len(places), tokens), dtype=np.bool_)
        filled = np.zeros(len(places), dtype=np.int64)
        for (row, _), part in zip(good, vectors, strict=True):
            here = slice(filled[row], filled[row] + len(part))
            values[row, here], mask[row, here] = part, True
            filled[row] += len(part)
        return (values, mask), whole

    with reading_pictures(), ThreadPoolExecutor(4) as readers:
        keys = np.array([key_of(*readers.map(_content, paths[entity][:tokens])) for entity in entities], dtype=np.int64)
        found = encode_rows(
            folder,
            "image",
            entities,
            keys,
            encode,
            settings,
            chunk=max(batch_size, _CHUNK),
            nothing=lambda: DataError(
                skipped[0].input, f"{skipped[0].reason}, nor can another picture be read", "give pictures"
            ),
            overwrite=overwrite,
            progress=progress,
        )
    return replace(found, skipped=skipped, unmatched=unmatched)


def encode_numbers(folder: Path, file: Path, *, tokens: int = 8, overwrite: bool = False) -> Encoded:
    """Write `features/numeric`: a token a number, see `number_tokens`.

    Args:
        folder: the dataset folder.
        file: rows entity, attribute, value (tab-separated, or `.csv`).
        tokens: L, the most numbers of an entity.
        overwrite: see `encode_rows`.

    Raises:
        DataError: a malformed row, a value that is not a number, or no entity has a number.
    """
    known = read_vocabulary(folder)
    frame = _read(file, ["entity", "attribute", "value"], known)
    value = frame["value"].str.strip_chars().cast(pl.Float64, strict=False)
    bad = (~(value.is_finite().fill_null(False))).arg_true()
    if len(bad):
        row = int(bad[0])
        line = int(frame["line"][row])
        raise DataError(file, f"{frame['value'][row]!r} is not a number", "mend or delete the row", line)
    matched = known.find(frame["entity"]) >= 0
    unmatched = frame["entity"].filter(~pl.Series(matched.numpy())).unique(maintain_order=True).to_list()
    rows = frame.select("entity", "attribute").with_columns(value).filter(pl.Series(matched.numpy()))
    if rows.is_empty():
        raise _no_input(file, "number", unmatched)
    settings = {
        "writer": WRITER,
        "encoder": f"one-hot attribute (at most {ATTRIBUTES}) and {BASES} radial basis functions",
        "revision": "1",
        "preprocessing": "quantile within the attribute",
        "pooling": f"a token a number, of the most frequent attributes first, at most {tokens}",
    }
    entities, shape, blocks = number_tokens(rows, tokens)
    path = folder / "features" / "numeric.safetensors"
    _, _, keys, changed = finished(path, settings, overwrite)
    # A quantile depends on every other value, so that all rows have one key.
    key = key_of(file.read_bytes(), *(entity.encode() for entity in entities))
    new = not len(keys) or int(keys[0]) != key
    if new:
        metadata = {**settings, "date": datetime.now(UTC).date().isoformat()}
        stream_features(
            folder, "numeric", entities, shape, blocks, metadata, keys=np.full(len(entities), key, dtype=np.int64)
        )
    n = len(entities)
    return Encoded("numeric", path, n, n if new else 0, shape, unmatched=unmatched, changed=changed)


def _texts(folder: Path, file: Path | None, known: Vocabulary) -> pl.DataFrame:
    """Columns entity, text, whole: the text is one token, as it is."""
    if file is not None:
        return _read(file, ["entity", "text"], known).select("entity", "text", whole=False)
    table = folder / "entities.tsv"
    frame = read_entities(folder)
    if frame is None:
        raise DataError(table, "is missing", "write entity and description there, or give another file with --texts")
    columns = [name for name in ("name", "description") if name in frame.columns]
    if not columns:
        raise DataError(table, "has neither a column `name` nor `description`", "add one, or use --texts", 1)
    parts = [frame.select("entity", text=name, whole=pl.lit(name == "name")) for name in columns]
    return pl.concat(parts).filter(pl.col("text").str.strip_chars() != "")


def _matched(texts: pl.DataFrame, known: Vocabulary) -> tuple[dict[str, list[tuple[str, bool]]], list[str]]:
    """The texts of each entity of the graph, and the other names."""
    found = pl.Series(known.find(texts["entity"]).numpy()) >= 0
    unmatched = texts["entity"].filter(~found).unique(maintain_order=True).to_list()
    by_entity = texts.filter(found).group_by("entity", maintain_order=True).agg("text", "whole")
    return {entity: list(zip(t, w, strict=True)) for entity, t, w in by_entity.iter_rows()}, unmatched


def _pictures(folder: Path, pictures: Path | None, known: Vocabulary) -> tuple[dict[str, list[Path]], Sequence[str]]:
    """The pictures of each entity of the graph, and those of none."""
    frame = read_entities(folder) if pictures is None else None
    if frame is not None and "image" in frame.columns and (frame["image"].str.strip_chars() != "").any():
        rows = frame.select("entity", "image").iter_rows()
        found = pictures_of_column(folder, folder / "entities.tsv", rows)
        return {entity: paths for entity, paths in found.items() if paths}, []
    place = pictures or folder / "images"
    if pictures is None and not place.is_dir():
        remedy = "fill the column 'image' of entities.tsv, make that folder, or give another with --pictures"
        raise DataError(place, "there are no pictures", remedy)
    return pictures_by_name(place, known)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _read(path: Path, columns: list[str], known: Vocabulary) -> pl.DataFrame:
    """A table of these columns, with or without a header, and the line of each row."""
    frame = _read_csv(path, columns) if path.suffix == ".csv" else read_columns(path, columns)
    frame = frame.with_row_index("line", offset=1)
    first = frame["entity"][0] if len(frame) else ""
    return frame[1:] if first.strip().lower() in _HEADERS and first not in known else frame


def _read_csv(path: Path, columns: list[str]) -> pl.DataFrame:
    try:
        frame = pl.read_csv(path, has_header=False, infer_schema=False, truncate_ragged_lines=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(path, f"cannot be read as CSV ({reason})", "save it as UTF-8 with commas and quotes") from error
    if len(frame.columns) != len(columns):
        found = f"{len(frame.columns)} columns where {', '.join(columns)} are expected"
        raise DataError(path, found, "keep these", 1)
    frame = frame.rename(dict(zip(frame.columns, columns, strict=True)))
    empty = frame.select(pl.any_horizontal(pl.all().fill_null("").str.strip_chars() == "")).to_series().arg_true()
    if len(empty):
        raise DataError(path, f"row {int(empty[0]) + 1} has an empty field", "mend or delete the row")
    return frame


def _no_input(source: Path, what: str, unmatched: Sequence[str]) -> DataError:
    if unmatched:
        message = f"no {what} is of an entity of the graph (first: {unmatched[0]!r})"
        return DataError(source, message, "use the entity names of the triples")
    return DataError(source, f"holds no {what}", "add some")
