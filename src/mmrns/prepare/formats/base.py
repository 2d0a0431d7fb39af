"""`Layout`: a way that triples lie in files; and how a layout is found by its name or by the files."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

from mmrns.data.folders import SPLITS
from mmrns.errors import DataError, UsageError, unknown
from mmrns.prepare.formats.contents import TRIPLE, Contents, fit_names
from mmrns.prepare.formats.features import Source, find_features
from mmrns.registry import Named, Registry

LAYOUTS: Registry[Layout] = Registry("layout", "mmrns.prepare.formats")

_ORDER = ("wordnet", "openke", "libkge", "ids", "by-id", "mmrns", "rdf", "ntriples", "parquet", "csv", "tsv", "pykeen")
"""In which order our layouts are asked whether they recognise a source: the most particular one first."""


class Layout(Named, ABC):
    """A way that triples lie in files. A subclass reads it, recognises it, and may write it.

    `read` may take keywords of its own among `columns`, `delimiter`, `header`, `language`, `skip_malformed` and
    `advance` (told of the statements that are done, now and then); `convert` passes those that the user has given, and
    refuses an option that the layout does not take.

    Attributes:
        title: what it is, in one line.
        aliases: other names for it.
        takes: what the source is: a file or folder (`path`), a `folder`, or a `name` that is not looked for on disk.
        entity_tables: how tables of names and descriptions may be called that lie beside the triples.
    """

    registry = LAYOUTS
    title: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[Literal["path", "folder", "name"]] = "path"
    entity_tables: ClassVar[tuple[str, ...]] = ("entities", "descriptions", "texts")

    def recognises(self, path: Path) -> bool:
        """Whether a file or folder is laid out in this way, by the names of files; never, if `--from` is to say so."""
        return False

    @abstractmethod
    def read(self, source: Path) -> Contents:
        """The triples of a source, by split, and what else it says of entities and relations.

        Raises:
            DataError: the source is not fit; the message names file, line and remedy.
        """

    def unread_tables(self, folder: Path) -> set[Path]:
        """Files beside the triples that are called like tables of entities or relations, and are something else."""
        return set()

    def files(self, folder: Path) -> set[Path]:
        """The files of a source folder that are the layout's own: all of them, unless a class knows better.

        What it does not claim is looked at: tables about entities are read, and what is not understood is named.
        """
        return {path for path in folder.iterdir() if not path.is_dir()}

    def write(self, contents: Contents, folder: Path) -> None:
        """Write the triples into an empty folder. Tables, features and pictures are written beside them afterwards."""
        raise UsageError(f"the layout {LAYOUTS.name_of(type(self))!r} is read only")

    def features(self, folder: Path) -> dict[str, Source]:
        """The feature tables that lie in a source folder, by modality."""
        return find_features(folder)


def writes(layout: type[Layout]) -> bool:
    """Whether a layout can be written."""
    return layout.write is not Layout.write


def find_layout(name: str | type[Layout]) -> type[Layout]:
    """The layout to read by name, alias, `package.module:Class` or class.

    Raises:
        UsageError: there is none; the message lists the known ones.
    """
    return LAYOUTS.get(_resolved(name, LAYOUTS.names()))


def find_target(name: str | type[Layout]) -> type[Layout]:
    """The layout to write, by the same.

    Raises:
        UsageError: there is none, or it is only read; the message lists those that are written.
    """
    known = [other for other in LAYOUTS.names() if writes(LAYOUTS.get(other))]
    name = _resolved(name, known)
    if isinstance(name, str) and ":" not in name and name not in known:
        raise unknown("layout to write", name, known)
    found = LAYOUTS.get(name)
    if not writes(found):
        raise UsageError(f"{LAYOUTS.name_of(found)} cannot be written: its class defines no `write`")
    return found


def _resolved(name: str | type[Layout], known: list[str]) -> str | type[Layout]:
    """The registered name of a name or alias in any case."""
    if not isinstance(name, str) or name in known or ":" in name:
        return name
    name = name.lower()
    if name in known:
        return name
    return next((other for other in known if name in LAYOUTS.get(other).aliases), name)


def sniff(source: Path) -> type[Layout]:
    """The layout of a file or folder, by the names of its files. Layouts from outside the package are asked first.

    Raises:
        DataError: none is recognised.
    """
    others = [name for name in LAYOUTS.names() if name not in _ORDER]
    for name in [*others, *_ORDER]:
        found = LAYOUTS.get(name)
        if found().recognises(source):
            return found
    remedy = "name the file of triples (and --entities, --images), or give --from"
    tables = "train.tsv, train.txt, train.csv, train.parquet, train2id.txt, *.nt, *.ttl, *.rdf ..."
    raise DataError(source, f"holds no triples that are recognised ({tables})", remedy)


def read_layout(layout: Layout, source: Path, options: dict[str, Any]) -> Contents:
    """Read a source with those of the options that are not None.

    Raises:
        UsageError: an option that the layout does not take, or frames without the columns of a triple.
        DataError: the source is not fit.
    """
    name = LAYOUTS.name_of(type(layout))
    taken = inspect.signature(layout.read).parameters
    given = {key: value for key, value in options.items() if value is not None}
    columns = given.get("columns")
    if columns is not None and len(columns) != 3:
        raise UsageError(f"--columns: give head, relation and tail, three of them, not {len(columns)}")
    if {"delimiter", "header"} & given.keys() - taken.keys():
        raise UsageError(f"--delimiter and --header are for tables, not for {name}")
    if columns is not None and "columns" not in taken:
        raise UsageError(f"--columns is for tables and ids, not for {name}")
    if "skip_malformed" in given and "skip_malformed" not in taken:
        raise UsageError(f"--skip-malformed is for statements of RDF, not for {name}")
    if layout.takes == "folder" and not source.is_dir():
        raise DataError(source, f"is no folder, as --from {name} needs", "give the folder of the files")
    read: Any = layout.read
    contents: Contents = read(source, **{key: value for key, value in given.items() if key in taken})
    for split, frame in contents.splits.items():
        if split not in SPLITS or not set(TRIPLE) <= set(frame.columns):
            found = f"{split!r} with the columns {', '.join(frame.columns)}"
            raise UsageError(f"the layout {name} read {found}; give train, valid, test with head, relation, tail")
        if not contents.fitted:
            contents.splits[split] = fit_names(frame, source, 1, contents.notes)
    return contents
