"""Tables about entities or relations in any of their file formats, with every field as a string."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import polars as pl

from mmrns.data.folders import read_parquet_table
from mmrns.data.tables import is_text, read_text
from mmrns.errors import DataError
from mmrns.prepare.delimited import read_delimited

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
TABLE_SUFFIXES = (*TEXT_SUFFIXES, ".parquet", *JSON_SUFFIXES)

_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")

BETWEEN = "; "
"""What is put between the members of a list that becomes one field."""


def read_records(
    path: Path, header: Callable[[Sequence[str]], bool], notes: list[str] | None = None
) -> tuple[pl.DataFrame, int]:
    """A table of strings, and the line of its first row: 2 where a header line comes before it, otherwise 1.

    JSON holds an object a line, a list of objects, or an object of objects, whose keys become the column `id`. Lists
    become one field with semicolons between.

    Args:
        path: `.parquet`, `.jsonl`, `.ndjson`, `.json`, or text with any delimiter, also `.gz`.
        header: whether the first line of a text names the columns, from its fields.
        notes: where to what was done is added.

    Raises:
        DataError: unreadable, or malformed, by line.
    """
    if path.suffix.lower() in _SPREADSHEETS:
        raise DataError(path, "is a spreadsheet", "save it as CSV")
    if path.suffix == ".parquet":
        return _of_parquet(read_parquet_table(path), path, notes), 2
    if path.suffix in JSON_SUFFIXES:
        rows = _json_rows(path)
        columns = list(dict.fromkeys(key for row in rows for key in row))
        cells = {column: [_cell(row.get(column)) for row in rows] for column in columns}
        broken = next((i for column in columns for i, cell in enumerate(cells[column]) if not is_text(cell)), None)
        if broken is not None or not all(map(is_text, columns)):
            raise DataError(path, "holds half of a character", "write it as UTF-8", (broken or 0) + 1)
        return pl.DataFrame(cells, schema=dict.fromkeys(columns, pl.String)), 2
    return read_delimited(path, header=header, notes=notes)


def _json_rows(path: Path) -> list[dict[str, Any]]:
    text = read_text(path)
    found: Any
    try:
        found = json.loads(text) if path.suffix == ".json" else None
    except (ValueError, RecursionError) as error:
        try:  # JSON lines by the wrong name.
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError):
            line = getattr(error, "lineno", None)
            raise DataError(path, f"is not valid JSON ({error})", "mend it", line) from error
    if found is None:
        found = []
        for i, line in enumerate(text.split("\n"), 1):
            try:
                found += [json.loads(line)] if line.strip() else []
            except (ValueError, RecursionError) as error:
                raise DataError(path, f"is not valid JSON ({error})", "write an object a line", i) from error
    if (
        isinstance(found, dict)
        and found
        and all(isinstance(one, dict) for one in cast("dict[str, Any]", found).values())
    ):
        found = [{"id": key, **row} for key, row in cast("dict[str, dict[str, Any]]", found).items()]
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in cast("list[Any]", found)):
        raise DataError(path, "is no list of objects", "write an object for each entity")
    return cast("list[dict[str, Any]]", found)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and not any(isinstance(one, list | Mapping) for one in cast("list[Any]", value)):
        return BETWEEN.join(_cell(one) for one in cast("list[Any]", value))
    return json.dumps(value, ensure_ascii=False)


def _of_parquet(frame: pl.DataFrame, path: Path, notes: list[str] | None) -> pl.DataFrame:
    columns: list[pl.Series] = []
    other: list[str] = []
    for column in frame.get_columns():
        kind = column.dtype
        try:
            if isinstance(kind, pl.List) and not str(kind.inner).startswith(("List", "Struct", "Array")):  # pyright: ignore[reportUnknownMemberType]
                columns.append(column.cast(pl.List(pl.String)).list.join(BETWEEN))
            elif kind.is_nested() or isinstance(kind, pl.Binary | pl.Object):
                other.append(column.name)
            else:
                columns.append(column.cast(pl.String))
        except pl.exceptions.PolarsError:
            other.append(column.name)
    if other and notes is not None:
        notes.append(
            f"{path.name}: {', '.join(f'`{name}`' for name in other)} hold neither texts nor numbers, left out"
        )
    return pl.DataFrame(columns).with_columns(pl.all().fill_null(""))
