"""The features of a dataset folder from its texts, pictures and numbers."""

from __future__ import annotations

import os
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
from mmrns.data.names import names_of_ids
from mmrns.data.tables import columns_of, split_lines
from mmrns.data.tokens import Origin
from mmrns.data.vocabulary import Vocabulary
from mmrns.errors import DataError, note
from mmrns.files import stamp_of
from mmrns.prepare.delimited import is_quoted, parse_delimited, read_table_text, sniff_delimiter, start_of
from mmrns.prepare.encoders.base import Encoder, checked, open_encoder, settings_of
from mmrns.prepare.encoders.cropping import picture_size
from mmrns.prepare.encoders.files import Block, stream_features
from mmrns.prepare.encoders.pictures import (
    Pictures,
    VisionEncoder,
    grids_of,
    pictures_by_name,
    pictures_of_column,
    read_picture,
    reading_pictures,
)
from mmrns.prepare.encoders.rows import WRITER, Encoded, Keys, Progress, Skipped, encode_rows, finished, key_of, silent
from mmrns.prepare.encoders.texts import SentenceEncoder, split_sentences
from mmrns.prepare.folders import leads_out, read_vocabulary

if TYPE_CHECKING:
    from PIL.Image import Image

_CHUNK = 128
PREPARED = "RGB on white; grey levels of more than 8 bits scaled"
NAMED = "the name, then the sentences of the description"
SENTENCES = "sentences"
"""What is done with pictures and with texts, of `entities.tsv` or of a file, before they come to an encoder."""

_HEADERS = {"entity", "id", "name"}


def encode_texts(
    folder: Path,
    encoder: str | type[Encoder] | Encoder,
    *,
    file: Path | None = None,
    tokens: int = 4,
    batch_size: int = 64,
    device: str | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Encoded:
    """Write `features/text`: a token for each of the first sentences about an entity; every entity has one.

    An entity without a description is encoded by its name, and without one by its id (`names_of_ids`).
    `features/text.tokens.jsonl` says which words became which token.

    Args:
        folder: the dataset folder.
        encoder: a model for `SentenceEncoder`, or an encoder of texts: a name, `package.module:Class`, class or object.
        file: entity and text in two columns (tab-separated, or `.csv`), rows of one entity one after the other; by
            default the columns `name`, which is the first token, and `description` of `entities.tsv`. Entities that
            the file lacks are encoded by their name.
        tokens: L, the most sentences of an entity.
        batch_size: sentences encoded at a time.
        device: where the model runs.
        overwrite, progress: see `encode_rows`.

    Raises:
        DataError: a malformed file, or none of its texts is of an entity.
        UsageError: the model is not found or cannot be loaded.
    """
    known = read_vocabulary(folder)
    table = read_entities(folder)
    texts, unmatched = _matched(_texts(table, file, known), known)
    if file is not None and not texts:
        raise _no_input(file, "text", unmatched)
    sentences = {entity: sentences_of(parts, tokens) for entity, parts in texts.items()}
    rows = {entity: found for entity, found in sentences.items() if found}
    described = sum(entity in rows and not all(whole for _, whole in parts) for entity, parts in texts.items())
    names = _names(table)
    by_id = names_of_ids(known.names).to_list()
    unnamed = [
        (entity, name) for entity, name in zip(known, by_id, strict=True) if not (rows.get(entity) or names.get(entity))
    ]
    rows = {entity: [name] for entity, name in (*names.items(), *unnamed)} | rows
    rows = {entity: rows[entity] for entity in known}
    by = {"description": described, "name": len(rows) - described - len(unnamed), "id": len(unnamed)}
    opened = open_encoder(encoder, "texts", SentenceEncoder, batch_size=batch_size, device=device)
    prepared = NAMED if file is None else SENTENCES
    lists, run = list(rows.values()), checked(opened, tokens)

    def encode(places: Keys) -> tuple[Block, npt.NDArray[np.bool_]]:
        return run([lists[i] for i in places]), np.ones(len(places), dtype=np.bool_)

    keys = np.array([key_of(*(s.encode() for s in row)) for row in lists], dtype=np.int64)
    found = encode_rows(
        folder,
        "text",
        list(rows),
        keys,
        encode,
        settings_of(opened, tokens, prepared),
        chunk=max(batch_size, _CHUNK),
        nothing=lambda: _no_input(file or folder, "text", unmatched),
        origins=lambda places: [lists[i] for i in places],
        overwrite=overwrite,
        progress=progress,
    )
    return replace(found, of=len(known), unmatched=unmatched, by=by)


def sentences_of(texts: Sequence[tuple[str, bool]], tokens: int) -> list[str]:
    """The first sentences of the texts of an entity, each with whether it is one sentence as it stands."""
    each = (s for text, whole in texts for s in ([text.strip()] if whole else split_sentences(text, tokens)))
    return list(each)[:tokens]


def encode_pictures(
    folder: Path,
    encoder: str | type[Encoder] | Encoder,
    *,
    pictures: Path | None = None,
    tokens: int = 24,
    batch_size: int = 32,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress = silent,
) -> Encoded:
    """Write `features/image`: the tokens of each entity's pictures.

    Our own encoders average the patches of a picture over the cells of a grid, see `PictureEncoder`. Of more than L
    pictures the first L count.

    Pictures that cannot be read are reported and left out; their entities are tried again by the next call.

    Args:
        folder: the dataset folder.
        encoder: a model for `VisionEncoder`; `classical` for `GridEncoder`, which needs no weights; or another encoder
            of pictures: a name, `package.module:Class`, class or object.
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
    found = _pictures(folder, pictures, known)
    paths = found.of
    source = pictures or folder
    if not paths:
        if found.skipped:
            raise _unreadable(found.skipped[0])
        raise _no_input(source, "picture", found.unmatched)
    entities = sorted(paths)
    opened = open_encoder(encoder, "pictures", VisionEncoder, batch_size=batch_size, device=device)
    run = checked(opened, tokens)
    stamps: dict[Path, object] = {}
    failed: dict[int, list[tuple[int, str]]] = {}

    def content(path: Path) -> bytes:
        try:
            stamps[path] = stamp_of(path)
            return path.read_bytes() if path.is_file() else b""
        except OSError as error:
            return f"\0{error.strerror}".encode()

    def read(path: Path) -> Image | str:
        try:
            picture = read_picture(path)
            return picture if stamps.get(path) == stamp_of(path) else "changed while it was read"
        except (ValueError, OSError) as error:
            return str(error)

    def encode(places: Keys) -> tuple[Block, npt.NDArray[np.bool_]]:
        named = [(row, n, path) for row, i in enumerate(places) for n, path in enumerate(paths[entities[i]][:tokens])]
        whole = np.ones(len(places), dtype=np.bool_)
        pictures: list[list[Image]] = [[] for _ in places]
        for (row, n, _), one in zip(named, readers.map(read, [path for *_, path in named]), strict=True):
            if isinstance(one, str):
                whole[row] = False
                failed.setdefault(int(keys[places[row]]), []).append((n, one))
            else:
                pictures[row].append(one)
        some = [row for row, there in enumerate(pictures) if there]
        there = run([pictures[row] for row in some]) if some else (np.zeros((0, tokens, 0)), np.zeros((0, tokens)))
        values = np.zeros((len(places), *there[0].shape[1:]), dtype=np.float16)
        mask = np.zeros(values.shape[:2], dtype=np.bool_)
        values[some], mask[some] = there
        return (values, mask), whole

    def unread() -> list[Skipped]:
        """What could not be read: of entities with equal pictures one was tried, and all lack theirs."""
        each = zip(entities, keys.tolist(), strict=True)
        return [
            Skipped(entity, str(paths[entity][n]), reason) for entity, key in each for n, reason in failed.get(key, ())
        ]

    def origins(places: Keys) -> list[list[Origin]]:
        lacking = {key: {n for n, _ in several} for key, several in failed.items()}
        kept = [(row, n, path) for row, i in enumerate(places) for n, path in enumerate(paths[entities[i]][:tokens])]
        kept = [(row, path) for row, n, path in kept if n not in lacking.get(int(keys[places[row]]), ())]
        sizes = readers.map(picture_size, [path for _, path in kept])
        shown: list[list[tuple[str | None, tuple[int, int] | None]]] = [[] for _ in places]
        for (row, path), size in zip(kept, sizes, strict=True):
            shown[row].append((_within(folder, path), size))
        return [grids_of(opened, pictures, tokens) for pictures in shown]

    with reading_pictures(), ThreadPoolExecutor(4) as readers:
        keys = np.array([key_of(*readers.map(content, paths[entity][:tokens])) for entity in entities], dtype=np.int64)
        done = encode_rows(
            folder,
            "image",
            entities,
            keys,
            encode,
            settings_of(opened, tokens, PREPARED),
            chunk=max(batch_size, _CHUNK),
            nothing=lambda: _unreadable(unread()[0]),
            origins=origins,
            overwrite=overwrite,
            progress=progress,
        )
    skipped = sorted([*found.skipped, *unread()], key=lambda one: one.entity)
    return replace(done, of=len(known), skipped=skipped, unmatched=found.unmatched, others=found.others)


def _within(folder: Path, path: Path) -> str | None:
    """A picture's path within the dataset folder; None where it lies elsewhere."""
    inner = os.path.relpath(os.path.abspath(path), os.path.abspath(folder))
    return None if leads_out(inner) else Path(inner).as_posix()


def _unreadable(first: Skipped) -> DataError:
    return DataError(first.input, f"{first.reason}, nor can another picture be read", "give pictures")


def encode_numbers(
    folder: Path,
    file: Path,
    encoder: str | type[Encoder] | Encoder = "quantiles",
    *,
    tokens: int = 8,
    overwrite: bool = False,
) -> Encoded:
    """Write `features/numeric`: by default a token a number, see `number_tokens`.

    Args:
        folder: the dataset folder.
        file: rows entity, attribute, value (tab-separated, or `.csv`).
        encoder: an encoder of numbers: a name, `package.module:Class`, class or object.
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
    # As the tokens are ordered, so that it can be said which number is which.
    rows = rows.sort(-pl.len().over("attribute").cast(pl.Int64), "attribute", "value")
    grouped = rows.group_by("entity", maintain_order=True).agg("attribute", "value").sort("entity")
    entities = grouped["entity"].to_list()
    opened = open_encoder(encoder, "numbers")
    settings = {"writer": WRITER, **settings_of(opened, tokens)}
    path = folder / "features" / "numeric.safetensors"
    stock, names, keys, changed = finished(path, settings, overwrite)
    # A token may depend on every other number, so that all rows have one key.
    key = key_of(file.read_bytes(), *(entity.encode() for entity in entities))
    if len(keys) and int(keys[0]) == key:
        kept = stock.sources[0][0].shape
        return Encoded("numeric", path, len(names), 0, (kept[1], kept[2]), len(known), unmatched=unmatched)
    pairs = [list(zip(a, v, strict=True)) for _, a, v in grouped.iter_rows()]
    values, mask = checked(opened, tokens)(pairs)
    there = np.asarray(mask.any(1))
    if not there.any():
        raise _no_input(file, "number", [])
    entities = [entity for entity, some in zip(entities, there, strict=True) if some]
    n, shape = len(entities), (values.shape[1], values.shape[2])
    metadata = {**settings, "date": datetime.now(UTC).date().isoformat()}
    block, new = (values[there], mask[there]), np.full(n, key, dtype=np.int64)
    said = [[f"{attribute} {value:.10g}" for attribute, value in row[:tokens]] for row in pairs]
    made_of = [row for row, some in zip(said, there, strict=True) if some]
    stream_features(folder, "numeric", entities, shape, [block], metadata, keys=new, origins=made_of)
    return Encoded("numeric", path, n, n, shape, len(known), unmatched=unmatched, changed=changed)


def _texts(table: pl.DataFrame | None, file: Path | None, known: Vocabulary) -> pl.DataFrame:
    """Columns entity, text, whole: the text is one token, as it is."""
    if file is not None:
        return _read(file, ["entity", "text"], known).select("entity", "text", whole=False)
    columns = [] if table is None else [name for name in ("name", "description") if name in table.columns]
    none = pl.DataFrame(schema={"entity": pl.String, "text": pl.String, "whole": pl.Boolean})
    if table is None:
        return none
    parts = [table.select("entity", text=name, whole=pl.lit(name == "name")) for name in columns]
    return pl.concat([none, *parts]).filter(pl.col("text").str.strip_chars() != "")


def _names(table: pl.DataFrame | None) -> dict[str, str]:
    """The name of each entity of `entities.tsv` that has one."""
    if table is None or "name" not in table.columns:
        return {}
    named = table.select("entity", pl.col("name").str.strip_chars()).filter(pl.col("name") != "")
    return dict(named.iter_rows())


def _matched(texts: pl.DataFrame, known: Vocabulary) -> tuple[dict[str, list[tuple[str, bool]]], list[str]]:
    """The texts of each entity of the graph, and the other names."""
    found = pl.Series(known.find(texts["entity"]).numpy()) >= 0
    unmatched = texts["entity"].filter(~found).unique(maintain_order=True).to_list()
    by_entity = texts.filter(found).group_by("entity", maintain_order=True).agg("text", "whole")
    return {entity: list(zip(t, w, strict=True)) for entity, t, w in by_entity.iter_rows()}, unmatched


def _pictures(folder: Path, pictures: Path | None, known: Vocabulary) -> Pictures:
    """The pictures of each entity of the graph, and every other file."""
    frame = read_entities(folder) if pictures is None else None
    if frame is not None and "image" in frame.columns and (frame["image"].str.strip_chars() != "").any():
        return pictures_of_column(folder, folder / "entities.tsv", frame.select("entity", "image").iter_rows())
    place = pictures or folder / "images"
    if pictures is None and not place.is_dir():
        remedy = "fill the column 'image' of entities.tsv, make that folder, or give another with --pictures"
        raise DataError(place, "there are no pictures", remedy)
    return pictures_by_name(place, known)


def _read(path: Path, columns: list[str], known: Vocabulary) -> pl.DataFrame:
    """A table of these columns, with or without a header and any delimiter, and the line of each row.

    Rows with an empty field are left out, and counted in a note.

    Raises:
        DataError: malformed, other columns, or a row without an entity.
    """
    notes: list[str] = []
    text = read_table_text(path, notes)
    start = start_of(text)
    delimiter = sniff_delimiter(start, path)
    if delimiter == "\t" and not is_quoted(start, delimiter):
        frame = columns_of(split_lines(text), columns, path, may_be_empty=columns)
    else:
        frame, _ = parse_delimited(text, path, delimiter, header=False, notes=notes)
        if frame.width != len(columns):
            found = f"{frame.width} column{'s' * (frame.width != 1)} where {', '.join(columns)} are expected"
            raise DataError(path, found, "keep these", 1)
        frame = frame.rename(dict(zip(frame.columns, columns, strict=True)))
    frame = frame.with_row_index("line", offset=1)
    first = frame["entity"][0].strip() if len(frame) else ""
    frame = frame[1:] if first.lower() in _HEADERS and first not in known else frame
    filled = frame.with_columns(pl.col("entity").str.strip_chars())
    unnamed = (filled["entity"] == "").arg_true()
    if len(unnamed):
        raise DataError(path, "empty entity", "name it or delete the row", int(frame["line"][unnamed[0]]))
    edged = int((filled["entity"] != frame["entity"]).sum())
    if edged:
        notes.append(f"{path.name}: blanks around {edged:,} names of entities were taken off")
    empty = filled.select(pl.any_horizontal(pl.col(columns[1:]).str.strip_chars() == "")).to_series()
    if empty.any():
        what = f"{path.name}: {int(empty.sum()):,} rows have an empty field and are left out"
        notes.append(f"{what}, first: line {filled['line'].filter(empty)[0]}")
    for said in notes:
        note(said)
    return filled.filter(~empty)


def _no_input(source: Path, what: str, unmatched: Sequence[str]) -> DataError:
    if unmatched:
        message = f"no {what} is of an entity of the graph (first: {unmatched[0]!r})"
        return DataError(source, message, "use the entity names of the triples")
    return DataError(source, f"holds no {what}", "add some")
