"""What lies beside the triples in a source folder: tables are read, what is not understood is named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import polars as pl

from mmrns.data.tables import read_header_table
from mmrns.errors import DataError
from mmrns.prepare.folders import is_picture, of_system
from mmrns.prepare.formats.arrays import SUFFIXES as ARRAYS
from mmrns.prepare.formats.base import Layout
from mmrns.prepare.formats.columns import Chosen
from mmrns.prepare.formats.contents import TABLE_COLUMNS, Contents, existing, merged
from mmrns.prepare.formats.entities import EntityTable, NoTable, read_entity_table, read_relation_table
from mmrns.prepare.formats.records import JSON_SUFFIXES, TABLE_SUFFIXES

CARRIED = ("README.md", "dataset.json", "LICENSE*", "LICENCE*")
"""What goes along unread."""

_OF_NO_USE = (*CARRIED, "README*", "moved.tsv")
_LISTED = (".tsv", ".csv", ".parquet", *JSON_SUFFIXES)
_SHOWN = 5


@dataclass
class Beside:
    """What was found beside the triples.

    Attributes:
        verbatim: tables that can be copied as they are, by the name of the file.
        used: files and folders whose use is known.
        reasons: why a file is not understood.
    """

    verbatim: dict[str, Path] = field(default_factory=dict[str, Path])
    used: set[Path] = field(default_factory=set[Path])
    reasons: dict[Path, str] = field(default_factory=dict[Path, str])


def take_tables(
    reader: Layout,
    contents: Contents,
    folder: Path | None,
    given: Sequence[Path],
    chosen: Chosen,
    picture: Callable[[str], str | None],
    used: set[Path],
) -> Beside:
    """Read tables about entities and relations into the contents.

    That is the tables that are given; those with a usual name (`Layout.entity_tables`, `relations`); `numbers.tsv` and
    `texts.tsv`; and, unless tables are given, all that are seen to be about entities or relations of the triples.

    Args:
        reader: the layout that has read the triples.
        contents: to be added to.
        folder: of the triples; None where only what is given counts.
        given: tables of entities, by the user.
        chosen: columns of theirs, by the user.
        picture: see `read_entity_table`.
        used: what the triples and features were read from.

    Raises:
        DataError: a table that is given, or has a usual name, is not fit.
        UsageError: no table has a chosen column.
    """
    found = Beside(used=set(used))
    columns = [frame[column] for frame in contents.splits.values() for column in ("head", "tail")]
    parts = [column.unique().alias("entity") for column in columns]
    names = pl.concat([*parts, *([] if contents.order is None else [contents.order.alias("entity")])]).unique()
    tables: list[EntityTable] = []
    read_columns: list[tuple[Path, Sequence[str]]] = []
    if folder is not None:
        _take_facts(contents, folder, found)
    numbers = 0 if contents.numbers is None else len(contents.numbers)

    def take(path: Path, *, listed: bool = True, strict: bool = True) -> None:
        table = read_entity_table(
            path, names, chosen=chosen, listed=listed, strict=strict, relations=relations, picture=picture
        )
        contents.notes += table.notes
        if len(table.numbers):
            contents.numbers = _with_rows(table.numbers, contents.numbers)
        tables.append(table)
        read_columns.append((path, table.columns))
        found.used.add(path)
        if path.name == "entities.tsv" and _loads_as(path, table.entities):
            found.verbatim["entities.tsv"] = path

    relations = contents.relation_names()
    for path in given:
        take(path, strict=False)
    taken = {path.resolve() for path in given}
    if folder is not None:
        others = reader.unread_tables(folder)
        found.used |= {path for path in folder.iterdir() if path.resolve() in taken}
        for stem in reader.entity_tables:
            for path in existing(folder, [stem], _LISTED):
                if path not in others | found.used and not (stem == "texts" and path.suffix == ".tsv"):
                    take(path)
        _take_relations(contents, folder, found, others)
        own = reader.files(folder)
        for path in sorted(folder.iterdir()):
            if path in found.used | own | others or not _is_table(path) or given:
                continue
            try:
                take(path, listed=False)
            except NoTable as reason:
                _take_as_relations(contents, path, found, f"it {reason}")
            except DataError as error:
                line = "" if error.line is None else f" (line {error.line})"
                found.reasons[path] = f"{error.message}{line}; {error.remedy}"
        found.used |= own | others
    chosen.refuse_absent(read_columns)
    said = contents.entities
    table: pl.DataFrame | None = None
    for one in tables:
        table = merged(table, one.entities)
    contents.entities = merged(table, said)
    verbatim = found.verbatim.get("entities.tsv")
    if verbatim is not None:
        own_table = next(one.entities for one, (path, _) in zip(tables, read_columns, strict=True) if path == verbatim)
        if not _same(contents.entities, own_table):
            del found.verbatim["entities.tsv"]
    if contents.numbers is not None and len(contents.numbers) != numbers:
        found.verbatim.pop("numbers.tsv", None)
    return found


def _is_table(path: Path) -> bool:
    usual = path.name.endswith(TABLE_SUFFIXES) and not path.name.startswith(".") and path.is_file()
    return usual and not any(fnmatch(path.name, pattern) for pattern in _OF_NO_USE)


def _take_relations(contents: Contents, folder: Path, found: Beside, others: set[Path]) -> None:
    for path in existing(folder, ["relations"], [".tsv", ".csv"])[:1]:
        if path not in others:
            read = read_relation_table(path, contents.notes)
            contents.relations = _with_rows(read, contents.relations)
            found.used.add(path)
            if path.suffix == ".tsv" and _loads_as(path, read) and _same(contents.relations, read):
                found.verbatim[path.name] = path


def _take_as_relations(contents: Contents, path: Path, found: Beside, reason: str) -> None:
    """A table that is not about entities may be one about relations."""
    try:
        read = read_relation_table(path, names=contents.relation_names())
    except (NoTable, DataError):
        found.reasons[path] = reason
        return
    found.used.add(path)
    contents.relations = _with_rows(read, contents.relations)
    contents.notes.append(f"{path.name}: names {len(read):,} relations")


def _take_facts(contents: Contents, folder: Path, found: Beside) -> None:
    """`numbers.tsv` and `texts.tsv`."""
    for name in TABLE_COLUMNS:
        path = folder / f"{name}.tsv"
        if not existing(folder, [name], [".tsv"]):
            continue
        table = _headed(read_header_table(path), TABLE_COLUMNS[name])
        read = table.with_columns(pl.col(table.columns[0]).str.strip_chars())
        edged = int((read.to_series(0) != table.to_series(0)).sum())
        if edged:
            contents.notes.append(f"{path.name}: blanks around {edged:,} names of entities were taken off")
        more: pl.DataFrame | None = getattr(contents, name)
        both = _with_rows(read, more)
        setattr(contents, name, both)
        found.used.add(path)
        if _same(both, read.unique(maintain_order=True)) and _loads_as(path, read):
            found.verbatim[path.name] = path


def say_left_aside(contents: Contents, folder: Path, found: Beside) -> None:
    """Note what lies in the folder and was not understood, each with the option that maps it."""
    rest: list[str] = []
    lines: list[str] = []
    for path in sorted(folder.iterdir()):
        name = path.name
        if path in found.used or name.startswith(".") or of_system(name):
            continue
        if any(fnmatch(name, pattern) for pattern in _OF_NO_USE):
            continue
        if path.is_symlink() and not path.exists():
            lines.append(f"{name} is a link that leads nowhere or in a circle")
        elif path in found.reasons:
            lines.append(f"{name} is not read: {found.reasons[path]}")
        elif path.is_dir():
            lines.append(f"{name}/ is not read; --images {path} takes it for pictures, if it holds any")
        elif name.lower().endswith(ARRAYS) and not name.endswith(".json"):
            lines.append(f"{name} is not read; --features NAME={path} takes it for features")
        elif _is_table(path):
            lines.append(f"{name} is not read; --entities {path} takes it for a table of entities")
        else:
            rest.append(name)
    contents.notes += lines[:_SHOWN]
    rest = [line.split()[0] for line in lines[_SHOWN:]] + rest
    if rest:
        more = f" and {len(rest) - _SHOWN:,} more" if len(rest) > _SHOWN else ""
        contents.notes.append(f"not read: {', '.join(rest[:_SHOWN])}{more}")


def say_beside_a_file(contents: Contents, source: Path, given: set[Path]) -> None:
    """Note what lies beside a file that was named alone and looks like tables of entities or folders of pictures."""
    there: list[str] = []
    for path in sorted(source.parent.iterdir()):
        if path.resolve() in given or path.name.startswith((".", "_")) or path == source:
            continue
        if path.is_dir():
            first = next((inner for inner in sorted(path.iterdir()) if inner.is_file()), None)
            there += [f"{path.name}/"] if first is not None and is_picture(first) else []
        elif path.name.endswith((".csv", ".tsv", ".parquet", ".jsonl")):
            there.append(path.name)
    if there:
        more = f" and {len(there) - _SHOWN:,} more" if len(there) > _SHOWN else ""
        what = f"{source.name} alone was read; beside it lie {', '.join(there[:_SHOWN])}{more}"
        contents.notes.append(f"{what}: give the folder, or --entities FILE and --images FOLDER")


def _headed(table: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """A table of these columns whose header may be missing, so that its first row was taken for one."""
    if len(table.columns) != len(columns) or table.columns[0].strip().lower() in ("entity", "id", "name"):
        return table.rename(str.strip) if len({c.strip() for c in table.columns}) == table.width else table
    first = pl.DataFrame([table.columns], schema=dict.fromkeys(columns, pl.String), orient="row")
    return pl.concat([first, table.rename(dict(zip(table.columns, columns, strict=True)))])


def _loads_as(path: Path, table: pl.DataFrame) -> bool:
    """Whether a dataset folder may have a file as it is: with these columns, and the same names in the first."""
    try:
        found = read_header_table(path)
    except DataError:
        return False
    return found.columns == table.columns and found.to_series(0).equals(table.to_series(0))


def _with_rows(table: pl.DataFrame, more: pl.DataFrame | None) -> pl.DataFrame:
    """The distinct rows of two tables of the same columns; else the first."""
    if more is None or set(more.columns) != set(table.columns):
        return table
    return pl.concat([table, more.select(table.columns)]).unique(maintain_order=True)


def _same(one: pl.DataFrame | None, other: pl.DataFrame) -> bool:
    return one is not None and one.columns == other.columns and one.equals(other)
