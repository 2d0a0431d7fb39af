"""What preparing a dataset folder needs beside loading it: writing triples, listing pictures, collecting names."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import polars as pl

from mmrns.data.folders import SPLITS, SUFFIXES, read_entities, read_triples
from mmrns.errors import DataError

if TYPE_CHECKING:
    from mmrns.data.vocabulary import Vocabulary

PICTURE_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".svg", ".svgz", ".ico", ".tga", ".psd"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
"""What the files of pictures end with, whether or not an encoder can read them."""


def write_triples(frame: pl.DataFrame, path: Path) -> None:
    """Write triples as head TAB relation TAB tail.

    Raises:
        DataError: a name holds a tab or a line end, which the format cannot say.
    """
    broken = frame.select(pl.any_horizontal(pl.all().str.contains(r"[\t\n\r]"))).to_series().arg_true()
    if len(broken):
        row = frame.row(int(broken[0]))
        raise DataError(path, f"cannot hold {row!r}: a name has a tab or a line end", "rename it, or write Parquet")
    frame.write_csv(path, separator="\t", include_header=False, quote_style="never")


def leads_out(path: str) -> bool:
    """Whether a path, read as POSIX or Windows would, leaves the folder that it is relative to."""
    if PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive or path.startswith("\\"):
        return True
    return os.path.normpath(path.replace("\\", "/")).startswith("..")


def pictures_of(path: Path) -> list[Path]:
    """List the files below a folder, sorted by name; links to folders are not entered."""
    return [Path(place, name) for place, _, names in sorted(os.walk(path)) for name in sorted(names)]


def read_vocabulary(folder: Path) -> Vocabulary:
    """Collect the entities of whichever splits and `entities.tsv` a folder has; features are not looked at.

    Raises:
        DataError: a malformed file, or none of them is there.
    """
    from mmrns.data.vocabulary import Vocabulary  # Here, since it brings torch.

    paths = [path for split in SPLITS for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").exists()]
    names = [frame[side].alias("entity") for frame in map(read_triples, paths) for side in ("head", "tail")]
    table = read_entities(folder)
    if table is not None:
        names.append(table["entity"])
    if not names:
        raise DataError(folder, "holds neither triples nor entities.tsv", "give the folder of a dataset")
    return Vocabulary(pl.concat(names))
