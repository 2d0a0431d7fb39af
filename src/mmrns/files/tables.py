"""Tables as CSV, Parquet or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmrns.files.replacing import replaced, system_error, unwritable

if TYPE_CHECKING:
    import polars as pl

FRAME_WRITERS = {".csv": "write_csv", ".parquet": "write_parquet", ".json": "write_json"}
"""The formats of `write_frame` by the ending of a file's name, and the methods of a frame that write them."""


def write_frame(frame: pl.DataFrame, path: Path) -> None:
    """Write a table as CSV, Parquet or JSON, by the ending of the name.

    Raises:
        DataError: it cannot be written.
    """
    from polars.exceptions import PolarsError

    with replaced(path) as temporary:
        try:
            getattr(frame, FRAME_WRITERS[path.suffix])(temporary)
        except PolarsError as error:
            if system_error(error) is None:
                raise
            raise unwritable(path, error) from error


def spreadsheet_safe(frame: pl.DataFrame) -> pl.DataFrame:
    """A table whose texts no spreadsheet takes for formulas: an apostrophe is put before what begins like one.

    What begins so is `=`, `+`, `-`, `@`, a tab or a carriage return.
    """
    import polars as pl
    from polars import selectors

    texts = selectors.string()
    formula = texts.str.contains(r"^[=+\-@\t\r]")
    return frame.with_columns(pl.when(~formula).then(texts).otherwise("'" + texts))
