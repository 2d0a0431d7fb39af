"""Dataset folders: where they are found, and how their tables are read. This module loads no torch."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import polars as pl

from mmrns.data.names import BREAKS, COLUMNS
from mmrns.data.tables import column_blocks, is_utf8, read_header_table
from mmrns.errors import DataError, UsageError, nearest, note

SPLITS = ("train", "valid", "test")
SUFFIXES = (".tsv", ".txt", ".tsv.gz", ".parquet")
EMBEDDED = {"countries": Path(__file__).parent / "countries"}
_NAMES = (pl.String, pl.Categorical, pl.Enum, pl.Date, pl.Null)
CATALOGUE = Path(__file__).with_name("catalogue.toml")


def largest_exponent(width: int) -> int:
    """k, where squares of feature values below 2^k can be summed over a token of that width in single precision.

    >>> largest_exponent(1), largest_exponent(768)
    (64, 59)
    """
    return (128 - (width - 1).bit_length()) // 2


def find_dataset(name_or_folder: str | Path) -> Path:
    """Find the folder of a dataset by its name or path.

    Raises:
        UsageError: there is none; the message lists the known names.
    """
    name = str(name_or_folder)
    known = dataset_folders()
    folder = Path(name_or_folder)
    if name in known:
        _say_which(name, known[name])
        return known[name]
    # Also false for what is no path, such as a name that is too long.
    if os.path.isdir(folder):
        return folder
    if name in published():
        raise UsageError(f"dataset {name!r} is not on this machine; `mmrns data get {name}` brings it or says how")
    hint = nearest(name, [*known, *published()]) or ";"
    place = "" if "MMRNS_DATA" in os.environ else " ($MMRNS_DATA is not set)"
    raise UsageError(f"no dataset or folder {name!r}{hint} known: {', '.join(known)}{place}")


def _say_which(name: str, taken: Path) -> None:
    """A name may be that of several folders; what is not taken is said."""
    what = "the embedded dataset" if name in EMBEDDED else str(taken)
    for other in [Path(name), *(root / name for root in _roots())]:
        if is_dataset(other) and not other.samefile(taken):
            # A path of several parts is no name.
            path = other if len(other.parts) > 1 else f".{os.sep}{name}"
            note(f"{name!r} is {what}; for your own folder of that name write {path}")
            return


def _roots() -> list[Path]:
    """Where datasets are found by name, first things first."""
    own = [Path(os.environ["MMRNS_DATA"])] if "MMRNS_DATA" in os.environ else []
    return [*own, cache_folder()]


def dataset_folders() -> dict[str, Path]:
    """The folder of each name: embedded datasets come first, then those under `$MMRNS_DATA`, then the cache."""
    folders = dict(EMBEDDED)
    for root in _roots():
        if root.is_dir():
            for folder in sorted(root.iterdir()):
                if not folder.name.startswith(".") and is_dataset(folder):
                    folders.setdefault(folder.name, folder)
    return folders


def is_dataset(folder: Path) -> bool:
    """Whether a folder holds a split `train`."""
    return any((folder / f"train{end}").exists() for end in SUFFIXES)


@cache
def published() -> tuple[str, ...]:
    """Names of the published datasets that `mmrns data get` knows (`mmrns.prepare.catalogue` has the rest)."""
    return tuple(tomllib.loads(CATALOGUE.read_text(encoding="utf-8")))


def cache_folder() -> Path:
    """Where `mmrns data get` puts datasets: `mmrns/datasets` in the platform's cache folder of the user."""
    from platformdirs import user_cache_path

    return user_cache_path("mmrns", appauthor=False) / "datasets"


def find_table(folder: Path, name: str) -> Path | None:
    """Find the file of a table of triples such as `train`, whatever its format; None where there is none.

    Raises:
        DataError: there are two.
    """
    found = [path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").exists()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise DataError(folder, f"{names} both hold split {name!r}", "keep one")
    return found[0] if found else None


def dataset_files(folder: Path) -> dict[str, Path]:
    """The files that the ids and values of a dataset come from, by path within the folder.

    They are the splits, `entities.tsv`, which adds ids, and the features.
    """
    tables = [path for split in SPLITS if (path := find_table(folder, split)) is not None]
    features = [
        path
        for values in sorted((folder / "features").glob("*.safetensors"))
        for path in (values, values.with_suffix(".entities"))
    ]
    paths = [*tables, *folder.glob("entities.tsv"), *features]
    return {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}


def split_file(folder: Path, split: str) -> Path:
    """Find the file of a split.

    Raises:
        DataError: there is none, or two.
    """
    found = find_table(folder, split)
    if found is None:
        remedy = f"add {split}.tsv (head TAB relation TAB tail)"
        if any(find_table(folder, name) is not None for name in ("train", "triples")):
            remedy = f"`mmrns data split {folder} DST` makes train, valid and test, or {remedy}"
        raise DataError(folder, f"split {split!r} is missing", remedy)
    return found


def read_triples(path: Path, *, categories: bool = False) -> pl.DataFrame:
    """Read a table of triples in any of the formats of a split, as names in the columns head, relation, tail.

    Args:
        path: the file.
        categories: the names are categories and not strings: 4 bytes each, however long they are.

    Raises:
        DataError: unreadable, or the first malformed row, by line.
    """
    kind = pl.Categorical if categories else pl.String
    if path.suffix != ".parquet":
        return pl.concat(block.cast(kind) for block in column_blocks(path, COLUMNS))
    return _read_parquet_triples(path).cast(kind)


def _read_parquet_triples(path: Path) -> pl.DataFrame:
    frame = read_parquet(path)
    bad = frame.select(pl.any_horizontal(pl.all().fill_null("").str.strip_chars() == "")).to_series().arg_true()
    if len(bad):
        raise DataError(path, "empty field", "mend or delete the row", int(bad[0]) + 1)
    broken = frame.select(pl.any_horizontal(pl.all().str.contains(BREAKS))).to_series().arg_true()
    if len(broken):
        message = "a name has a tab or a line end"
        raise DataError(path, message, "rename it; `mmrns data convert` makes blanks of them", int(broken[0]) + 1)
    return frame


def read_parquet(path: Path) -> pl.DataFrame:
    """Read the three columns of a Parquet file as head, relation, tail; a field may be null.

    Raises:
        DataError: unreadable, another number of columns, or one that holds no names.
    """
    frame = read_parquet_table(path)
    if len(frame.columns) != 3:
        raise DataError(path, f"{len(frame.columns)} columns where 3 are expected", "keep head, relation, tail")
    return names_of(frame.rename(dict(zip(frame.columns, COLUMNS, strict=True))), path, frame.columns)


def read_parquet_table(path: Path) -> pl.DataFrame:
    """Read a Parquet file as it is.

    Raises:
        DataError: unreadable.
    """
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError, MemoryError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(path, f"is not a readable Parquet file ({reason})", "write it again") from error


def names_of(frame: pl.DataFrame, path: Path, called: Sequence[str]) -> pl.DataFrame:
    """The same frame with every column as strings: what holds strings, categories, integers, days or UTF-8 bytes.

    Numbers with a fraction are no names, since 1 and 1.0 would be two; neither are lists, structs, times.

    Args:
        frame: what a Parquet file holds.
        path: the file.
        called: what its columns are called there.

    Raises:
        DataError: a column of another type; bytes that are not UTF-8, by row.
    """
    for name, column in zip(frame.columns, frame.dtypes, strict=True):
        given = called[frame.columns.index(name)]
        if column == pl.Binary:
            try:
                frame = frame.with_columns(frame[name].cast(pl.String))
            except pl.exceptions.PolarsError as error:
                row = next(i for i, value in enumerate(frame[name]) if value is not None and not is_utf8(value))
                message = f"column {given} holds bytes that are not UTF-8"
                raise DataError(path, message, "write the column as strings", row + 1) from error
        elif not (column.is_integer() or isinstance(column, _NAMES)):
            kind = "a list" if column.is_nested() and column != pl.Struct else str(column).split("(")[0]
            kind = {"Struct": "a struct", "Object": "of objects"}.get(kind, kind if " " in kind else f"of {kind}")
            raise DataError(path, f"column {given} is {kind}", "write names there, as strings or integers")
    return frame.cast(pl.String)


def read_entities(folder: Path) -> pl.DataFrame | None:
    """Read `entities.tsv`; None where there is no such file.

    Raises:
        DataError: no column `entity`, or an entity that is empty or listed twice.
    """
    path = folder / "entities.tsv"
    if not path.exists():
        return None
    frame = read_header_table(path)
    if "entity" not in frame.columns:
        raise DataError(path, "has no column `entity`", "name the column of entity ids `entity`", 1)
    entities = frame["entity"]
    unnamed = (entities.str.strip_chars() == "").arg_true()
    if len(unnamed):
        raise DataError(path, "empty entity", "name it or delete the row", int(unnamed[0]) + 2)
    repeated = (~entities.is_first_distinct()).arg_true()
    if len(repeated):
        line = int(repeated[0])
        raise DataError(path, f"entity {entities[line]!r} is listed twice", "keep one row", line + 2)
    return frame
