"""What preparing a dataset folder needs beside loading it: writing triples, finding pictures, collecting names."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING
from unicodedata import normalize
from urllib.parse import unquote

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

_MAGIC = re.compile(
    rb"(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<JPEG>\xff\xd8\xff)|(?P<GIF>GIF8[79]a)|(?P<WebP>RIFF.{4}WEBP)|(?P<BMP>BM.{4}\0{4})"
    rb"|(?P<TIFF>II[*+]\0|MM\0[*+])|(?P<AVIF>.{4}ftypavi[fs])|(?P<HEIC>.{4}ftyp(?:hei[cfmsx]|hev[cmsx]|mif1|msf1))"
    rb"|(?P<JPEG_XL>\xff\x0a|\0\0\0\x0cJXL )|(?P<JPEG_2000>\0\0\0\x0cjP  |\xff\x4f\xff\x51)|(?P<ICO>\0\0\1\0.\0)"
    rb"|(?P<PSD>8BPS\0)|(?P<SVG>\s*(?:<\?xml[^>]*>\s*|<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg[\s>])",
    re.DOTALL | re.IGNORECASE,
)
_OF_SYSTEMS = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", ".ds_store", ".localized", ".directory"),
    *(".git", ".gitkeep", ".gitignore", ".thumbnails", ".nomedia", ".picasa.ini", ".ipynb_checkpoints", ".trashes"),
}
"""What systems leave in folders, besides `._NAME`. A full stop alone says nothing: it may begin an entity's name."""

_ADDRESS = re.compile(r"^(?:https?|ftp)://", re.IGNORECASE)


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


def of_system(name: str) -> bool:
    """Whether a file or folder is one that systems leave behind, such as `.DS_Store` and `Thumbs.db`."""
    return name.lower() in _OF_SYSTEMS or name.startswith("._")


def picture_format(path: Path) -> str | None:
    """The format of a picture by its first bytes; None for what is no picture, or cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with path.open("rb") as file:
            found = _MAGIC.match(file.read(4096))
    except (OSError, ValueError):
        return None
    return None if found is None else str(found.lastgroup).replace("_", " ")


def is_picture(path: Path) -> bool:
    """Whether a file is meant as a picture: by its suffix, or whatever it is called by its first bytes."""
    return path.suffix.lower() in PICTURE_SUFFIXES or picture_format(path) is not None


def is_address(image: str) -> bool:
    """Whether a cell of the column `image` is a web address."""
    return _ADDRESS.match(image) is not None


def pictures_of(path: Path, root: str | None = None) -> list[Path]:
    """List the files below a folder, sorted by name, without those of systems.

    A link to a folder is entered where that lies within `root` (a path without links; None = the folder); one that
    leads out of it is listed as a file is.
    """
    return list(_below(path, root or os.path.realpath(path), ()))


def _below(place: Path, root: str, above: tuple[str, ...]) -> Iterator[Path]:
    real = os.path.realpath(place)
    try:
        names = sorted(name for name in os.listdir(place) if not of_system(name))
    except OSError as error:
        raise DataError(place, f"cannot be listed ({error.strerror or error})", "check the folder") from error
    folders: list[Path] = []
    for name in names:
        path = place / name
        # Also no folder: a link that leads nowhere or in a circle.
        if not os.path.isdir(path) or (os.path.islink(path) and not lies_within(path, root)):
            yield path
        elif os.path.realpath(path) not in (*above, real):  # No circle.
            folders.append(path)
    for path in folders:
        yield from _below(path, root, (*above, real))


def lies_within(path: Path, root: str) -> bool:
    """Whether a path, with its links followed, lies in a folder, which is given without links."""
    try:
        return os.path.commonpath([os.path.realpath(path), root]) == root
    except ValueError:  # Another drive, or no path at all.
        return False


def named_pictures(folder: Path, image: str) -> list[Path]:
    """The files or folders that a cell of the column `image` names, whether or not they are there.

    The path is taken as it stands, if something is there; else with backslashes as slashes, percent-decoded, and with
    letters of the other case or their accents written otherwise; else as several paths with a semicolon, bar or comma
    between.
    """
    image = image.strip()
    if is_address(image):
        return [folder / image]
    found = _existing(folder, image)
    if found is not None:
        return [found]
    for separator in ";|,":
        parts = [part.strip() for part in image.split(separator) if part.strip()]
        paths = [_existing(folder, part) for part in parts]
        if len(parts) > 1 and any(path is not None for path in paths):
            return [path or folder / part.replace("\\", "/") for path, part in zip(paths, parts, strict=True)]
    return [folder / image.replace("\\", "/")]


def _existing(folder: Path, image: str) -> Path | None:
    """The path in the notation in which it is there; None where it is in none, or leads out."""
    slashes = image.replace("\\", "/")
    names = [name for name in dict.fromkeys([image, slashes, unquote(image), unquote(slashes)]) if not leads_out(name)]
    try:
        there = (folder / name for name in names if os.path.lexists(folder / name))
        alike = (path for name in names if (path := _spelt_otherwise(folder, name)) is not None)
        return next(there, None) or next(alike, None)
    except (OSError, ValueError):  # A name that no file can have.
        return None


def _spelt_otherwise(folder: Path, name: str) -> Path | None:
    """The only path that differs in case or in the form of accents alone."""
    place = folder
    for part in PurePosixPath(name).parts:
        if not os.path.lexists(place / part):
            if not place.is_dir():
                return None
            alike = _spellings(place, os.stat(place).st_mtime_ns).get(_plain(part), [])
            if len(alike) != 1:
                return None
            place = place / alike[0]
        else:
            place = place / part
    return place


@lru_cache(maxsize=64)
def _spellings(folder: Path, changed: int) -> dict[str, list[str]]:
    """The names in a folder, as it was when it changed last, by what they are but for case and the form of accents."""
    found: dict[str, list[str]] = {}
    for name in os.listdir(folder):
        found.setdefault(_plain(name), []).append(name)
    return found


def _plain(name: str) -> str:
    return normalize("NFC", name).casefold()


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
