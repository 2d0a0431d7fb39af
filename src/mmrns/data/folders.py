"""Dataset folders: where they are found, and how their tables are read. This module loads no torch."""

from __future__ import annotations

import os
import tomllib
from functools import cache
from pathlib import Path

import polars as pl

from mmrns.data.tables import read_columns, read_header_table
from mmrns.errors import DataError, UsageError, nearest

COLUMNS = ["head", "relation", "tail"]
SPLITS = ("train", "valid", "test")
SUFFIXES = (".tsv", ".txt", ".tsv.gz", ".parquet")
EMBEDDED = {"countries": Path(__file__).parent / "countries"}
CATALOGUE = Path(__file__).with_name("catalogue.toml")


def find_dataset(name_or_folder: str | Path) -> Path:
    """Find the folder of a dataset by its name or path.

    Raises:
        UsageError: there is none; the message lists the known names.
    """
    name = str(name_or_folder)
    known = dataset_folders()
    if name in known:
        return known[name]
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    if name in published():
        raise UsageError(f"dataset {name!r} is not on this machine; `mmrns data get {name}` brings it or says how")
    hint = nearest(name, [*known, *published()]) or ";"
    place = "" if "MMRNS_DATA" in os.environ else " ($MMRNS_DATA is not set)"
    raise UsageError(f"no dataset or folder {name!r}{hint} known: {', '.join(known)}{place}")


def dataset_folders() -> dict[str, Path]:
    """The folder of each name: embedded datasets come first, then those under `$MMRNS_DATA`, then the cache."""
    folders = dict(EMBEDDED)
    roots = [Path(os.environ["MMRNS_DATA"])] if "MMRNS_DATA" in os.environ else []
    for root in [*roots, cache_folder()]:
        if root.is_dir():
            for folder in sorted(root.iterdir()):
                if not folder.name.startswith(".") and any((folder / f"train{end}").exists() for end in SUFFIXES):
                    folders.setdefault(folder.name, folder)
    return folders


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


def split_file(folder: Path, split: str) -> Path:
    """Find the file of a split.

    Raises:
        DataError: there is none, or two.
    """
    found = find_table(folder, split)
    if found is None:
        raise DataError(folder, f"split {split!r} is missing", f"add {split}.tsv (head TAB relation TAB tail)")
    return found


def read_triples(path: Path) -> pl.DataFrame:
    """Read a table of triples in any of the formats of a split, as strings in the columns head, relation, tail.

    Raises:
        DataError: unreadable, or the first malformed row, by line.
    """
    if path.suffix != ".parquet":
        return read_columns(path, COLUMNS)
    frame = read_parquet(path)
    bad = frame.select(pl.any_horizontal(pl.all().fill_null("") == "")).to_series().arg_true()
    if len(bad):
        raise DataError(path, "empty field", "mend or delete the row", int(bad[0]) + 1)
    return frame


def read_parquet(path: Path) -> pl.DataFrame:
    """Read the three columns of a Parquet file as head, relation, tail; a field may be null.

    Raises:
        DataError: unreadable, or another number of columns.
    """
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(path, f"is not a readable Parquet file ({error})", "write it again") from error
    if len(frame.columns) != 3:
        raise DataError(path, f"{len(frame.columns)} columns where 3 are expected", "keep head, relation, tail")
    return frame.rename(dict(zip(frame.columns, COLUMNS, strict=True))).cast(pl.String)


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
