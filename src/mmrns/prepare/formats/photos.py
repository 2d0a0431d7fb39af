"""Pictures that lie beside the triples: which folders hold them, whose they are by their names, and copying them."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath, PureWindowsPath
from unicodedata import normalize
from urllib.parse import unquote

import polars as pl

from mmrns.data.names import names_of_ids
from mmrns.errors import DataError
from mmrns.prepare.folders import (
    PICTURE_SUFFIXES,
    is_address,
    is_picture,
    leads_out,
    lies_within,
    named_pictures,
    of_system,
    picture_format,
)
from mmrns.prepare.formats.contents import Contents, merged

USUAL = ("images", "pictures")
"""Folders that are one of pictures whatever they hold."""

_LOOKED_AT = 200
"""Files of a folder that are looked at to see whether it holds pictures."""


@dataclass
class Photos:
    """The pictures of a source.

    Attributes:
        source: the folder of the triples.
        folders: the folders of pictures by the name that they have in the new folder.
        files: the files of each, by the same, relative to the folder.
        alone: pictures that lie in the source folder itself.
        further: pictures elsewhere in the source that tables name, relative to it.
        links: how many pictures lie elsewhere, behind links.
    """

    source: Path
    folders: dict[str, Path] = field(default_factory=dict[str, Path])
    files: dict[str, list[Path]] = field(default_factory=dict[str, list[Path]])
    alone: list[Path] = field(default_factory=list[Path])
    further: set[str] = field(default_factory=set[str])
    links: int = 0

    @classmethod
    def find(cls, source: Path, given: Sequence[Path], *, search: bool = True) -> Photos:
        """The pictures of a folder, if it is to be searched, or those of the folders that are given instead.

        Raises:
            DataError: a folder that is none, or a link in it that is not followed, see `walk`.
        """
        found = cls(source)
        folders = list(given)
        if search and not given:
            children = sorted(child for child in source.iterdir() if not child.name.startswith((".", "_")))
            folders = [child for child in children if child.name != "features" and _holds_pictures(child)]
            found.alone = [
                child for child in children if child.is_file() and is_picture(child) and not of_system(child.name)
            ]
        for folder in folders:
            if not folder.is_dir():
                what = "is a link that leads nowhere or in a circle" if folder.is_symlink() else "is no folder"
                raise DataError(folder, what, "give the folder of the pictures itself")
            stem = Path(os.path.abspath(folder)).name or "images"
            names = (stem, *(f"{stem}-{i}" for i in range(2, 99)))
            name = next(n for n in names if n not in found.folders and n != "features")
            found.folders[name] = folder
            found.files[name] = list(walk(folder))
            found.links += sum(not lies_within(folder / path, os.path.realpath(folder)) for path in found.files[name])
        return found

    @property
    def pictures(self) -> list[str]:
        """The paths of all pictures in the new folder."""
        inside = [
            (f"{name}/{p.as_posix()}", self.folders[name] / p) for name, paths in self.files.items() for p in paths
        ]
        found = [path for path, real in inside if is_picture(real)] + [path.name for path in self.alone]
        return [*found, *sorted(self.further.difference(found))]

    def leave_strangers(self, contents: Contents) -> dict[Path, str]:
        """Leave folders of other names than `USUAL` aside none of whose pictures belongs to an entity; returns why.

        The folder may be a home with much else in it. So are pictures that lie alone and belong to none.
        """
        doubtful = {name for name in self.folders if name not in USUAL}
        pictures = [path for path in self.pictures if "/" not in path or path.partition("/")[0] in doubtful]
        if not pictures:
            return {}
        entities, mentioned = contents.entities, ""
        if entities is not None and "image" in entities.columns:
            mentioned = "\n" + "\n".join(entities["image"].unique()).replace("; ", "\n")
        known = set(match_pictures(pictures, contents.names(), _labels(contents)))
        known |= {path for path in pictures if f"\n{path}" in mentioned}
        self.alone = [path for path in self.alone if path.name in known]
        reasons: dict[Path, str] = {}
        for name in doubtful - {path.partition("/")[0] for path in known}:
            if f"\n{name}/" in mentioned:
                continue
            first = next((path for path in pictures if path.startswith(f"{name}/")), name)
            why = f"its pictures are called after no entity, first: {first}"
            folder = self.folders.pop(name)
            del self.files[name]
            reasons[folder] = f"{why}; --images {folder} takes it all the same"
        return reasons

    def copy(self, to: Path) -> None:
        """Copy the folders with all their files, and the pictures that lie alone.

        Raises:
            DataError: a file that cannot be copied.
        """
        for name, paths in self.files.items():
            (to / name).mkdir(parents=True, exist_ok=True)
            for path in paths:
                (to / name / path).parent.mkdir(parents=True, exist_ok=True)
                copy_file(self.folders[name] / path, to / name / path)
        for path in {*(path.name for path in self.alone), *self.further}:
            (to / path).parent.mkdir(parents=True, exist_ok=True)
            copy_file(self.source / path, to / path)


class Resolver:
    """The path within the new folder that a field of a table means: relative to the table, to a folder of pictures, an
    absolute one, or the name of a file alone, such as the end of a web address.

    Args:
        photos: the pictures; those that only a table names are added to its `further`.
    """

    def __init__(self, photos: Photos):
        self.photos, self.known = photos, set(photos.pictures)
        self.root = os.path.realpath(photos.source)
        counts = Counter(PurePosixPath(path).name.casefold() for path in self.known)
        self.by_name = {n: p for p in self.known if counts[n := PurePosixPath(p).name.casefold()] == 1}
        self.folders = {parent.as_posix() for path in self.known for parent in PurePosixPath(path).parents}

    def __call__(self, cell: str) -> str | None:
        """The path; None where it is right as it stands, or there is no picture of that name."""
        cell = cell.strip()
        if cell in self.known:
            return None
        address = is_address(cell)
        inner = [cell]
        if not address and Path(cell).is_absolute():
            inner = [Path(os.path.relpath(os.path.realpath(cell), self.root)).as_posix()]
        elif not address and not leads_out(cell):
            # Several, or spelt otherwise: it is found in the new folder as it is here.
            inner = [
                path.relative_to(self.photos.source).as_posix() for path in named_pictures(self.photos.source, cell)
            ]
        if not address and all(map(self._is_there, inner)):
            return None if len(inner) > 1 or not Path(cell).is_absolute() else inner[0]
        last = unquote(re.split(r"[?#]", cell)[0]) if address else cell
        return self.by_name.get(PureWindowsPath(last).name.casefold())

    def _is_there(self, path: str) -> bool:
        if path in self.known or path in self.folders:
            return True
        real = self.photos.source / path
        if leads_out(path) or not real.is_file() or not lies_within(real, self.root) or not is_picture(real):
            return False
        self.photos.further.add(path)
        return True


def _holds_pictures(folder: Path) -> bool:
    """Whether a folder is one of pictures: it is called so, or half of what is looked at are pictures."""
    if folder.name in USUAL and (folder.is_dir() or folder.is_symlink()):
        return True
    if not folder.is_dir():
        return False
    seen = list(islice(_first_files(folder), _LOOKED_AT))
    return bool(seen) and 2 * sum(map(is_picture, seen)) >= len(seen)


def _first_files(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not of_system(name))
        yield from (Path(root, name) for name in sorted(names) if not of_system(name))


def walk(folder: Path) -> Iterator[Path]:
    """The files of a folder, however deep, relative to it.

    Links to folders are followed within the folder, but in no circle. What a link to a file leads to may lie outside
    if it is a picture by its content: then it is what one wants, and no secret.

    Raises:
        DataError: another link that leads out of the folder, or one that leads nowhere or in a circle.
    """
    root = os.path.realpath(folder)
    yield from _walk(folder, Path(), root, (root,))


def _walk(folder: Path, inner: Path, root: str, above: tuple[str, ...]) -> Iterator[Path]:
    try:
        names = sorted(os.listdir(folder / inner))
    except OSError as error:
        raise DataError(folder / inner, f"cannot be listed ({error.strerror or error})", "check the folder") from error
    for name in names:
        path = folder / inner / name
        real = os.path.realpath(path)
        if not path.exists():
            raise DataError(path, "is a link that leads nowhere or in a circle", "put the file itself there")
        if path.is_dir():
            if path.is_symlink() and not lies_within(path, root):
                remedy = "put the folder itself there, or name it with --images"
                raise DataError(path, "is a link to a folder elsewhere", remedy)
            if real in above:
                raise DataError(path, "is a link to a folder that it lies in", "remove it")
            yield from _walk(folder, inner / name, root, (*above, real))
        elif lies_within(path, root) or picture_format(path) is not None:
            yield inner / name
        else:
            raise DataError(path, "is a link out of its folder", "put the file itself there")


def copy_file(path: Path, to: Path) -> None:
    """Copy a file, or what a link to one leads to.

    Raises:
        DataError: it cannot be copied.
    """
    try:
        shutil.copyfile(path.resolve(strict=True), to)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(path, f"cannot be copied ({reason})", "check the file and the disk") from error


def assign_pictures(contents: Contents, pictures: Sequence[str], made: Path) -> tuple[int, list[str]]:
    """Say in the entities' table which picture is whose; returns how many are of an entity, and the others.

    What the column `image` names is kept, if it is there; the pictures that it does not name belong to the entities
    that they are called after, see `match_pictures`, of those that have none.
    """
    entities = contents.entities
    named: set[str] = set()
    has: set[str] = set()
    if entities is not None and "image" in entities.columns:
        for entity, image in entities.select("entity", "image").filter(pl.col("image") != "").iter_rows():
            if leads_out(image) or is_address(image):
                continue
            paths = [path.relative_to(made).as_posix() for path in named_pictures(made, image)]
            there = [path for path in paths if (made / path).exists()]
            named.update(there)
            has |= {entity} if there else set()
    rest = [p for p in pictures if not {p, *(parent.as_posix() for parent in PurePosixPath(p).parents)} & named]
    found = match_pictures(rest, contents.names(), _labels(contents))
    of: dict[str, list[str]] = {}
    for entity, place in found.values():
        if entity not in has:
            of.setdefault(entity, []).append(place)
    if of:
        cells = {entity: _cell(list(dict.fromkeys(places))) for entity, places in sorted(of.items())}
        image = pl.DataFrame({"entity": list(cells), "image": list(cells.values())})
        if entities is not None and "image" in entities.columns:
            # Addresses and what is not there give way to what is.
            entities = entities.with_columns(
                pl.when(pl.col("entity").is_in(list(cells))).then(pl.lit("")).otherwise("image").alias("image")
            )
        contents.entities = merged(entities, image)
    lost = [path for path in rest if path not in found]
    return len(pictures) - len(lost), lost


def _labels(contents: Contents) -> dict[str, str]:
    """The readable name of each entity that has one."""
    if contents.entities is None or "name" not in contents.entities.columns:
        return {}
    return dict(contents.entities.select("entity", "name").filter(pl.col("name") != "").iter_rows())


def _cell(places: list[str]) -> str:
    """The field of one or several places."""
    if len(places) == 1 or any(mark in place for place in places for mark in ";|"):
        return places[0]
    return "; ".join(places)


def match_pictures(pictures: Sequence[str], names: pl.Series, labels: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """The entity that each picture is called after, and the path to name: its own, or the folder of several.

    A picture is called `ENTITY.png`, or lies in a folder `ENTITY/`; a slash in a name may be one of the path.
    The names are taken as they are or percent-decoded; then with anything but letters and digits, such as the `/` of
    `country/Kenya`, as one underscore, and without regard to case; then likewise the readable name of the entity, and
    the end of its id. What several entities could be called is none.

    Args:
        pictures: paths of which the first part, where there are several, is a folder of pictures.
        names: all entities.
        labels: their readable names.
    """
    exact = {normalize("NFC", name): name for name in names}
    called = [list(zip(names, names, strict=True)), [(label, name) for name, label in labels.items()]]
    called.append(list(zip(names_of_ids(names), names, strict=True)))
    # In the same case before in any.
    loose = [
        (fold, _unique((fold(_squashed(call)), name) for call, name in pairs))
        for fold in (str, str.casefold)
        for pairs in called
    ]

    def whose(text: str) -> str | None:
        texts = [normalize("NFC", one) for one in dict.fromkeys([text, unquote(text)])]
        if found := next((exact[one] for one in texts if one in exact), None):
            return found
        keys = [key for one in texts if (key := _squashed(one))]
        return next((index[fold(key)] for fold, index in loose for key in keys if fold(key) in index), None)

    whole: dict[str, tuple[str, str]] = {}
    by_folder: dict[str, tuple[str, str]] = {}
    by_file: dict[str, tuple[str, str]] = {}
    for path in pictures:
        top, _, inner = path.partition("/") if "/" in path else ("", "", path)
        stem = _without_suffix(inner)
        if (entity := whose(stem) or (whose(inner) if stem != inner else None)) is not None:
            whole[path] = entity, path
            continue
        place, _, file = inner.rpartition("/")
        if place and (entity := whose(place) or whose(place.rpartition("/")[2])) is not None:
            by_folder[path] = entity, f"{top}/{place}"
        if place and (entity := whose(_without_suffix(file))) is not None:
            by_file[path] = entity, path
    # A folder of a year holds pictures of many, one of an entity many of it: what tells more entities apart is meant.
    files, folders = ({entity for entity, _ in part.values()} for part in (by_file, by_folder))
    return whole | (by_folder | by_file if len(files) > len(folders) else by_file | by_folder)


def _unique(pairs: Iterator[tuple[str, str]]) -> dict[str, str]:
    """Who has each key alone."""
    found: dict[str, str] = {}
    twice: set[str] = set()
    for key, name in pairs:
        if found.setdefault(key, name) != name:
            twice.add(key)
    return {key: name for key, name in found.items() if key not in twice}


def _squashed(text: str) -> str:
    return re.sub(r"[\W_]+", "_", normalize("NFC", text)).strip("_")


def _without_suffix(path: str) -> str:
    """A picture's name without its suffix, if that is one of pictures."""
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in PICTURE_SUFFIXES else path
