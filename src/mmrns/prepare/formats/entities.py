"""Tables about entities or relations beside the triples: which column is what, and a row for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from mmrns.errors import DataError
from mmrns.prepare.formats.columns import Chosen, Roles, find_key, find_roles, joined, role_of
from mmrns.prepare.formats.contents import BREAKS, ENTITY, one_line
from mmrns.prepare.formats.records import read_records

_RELATION_COLUMNS = {
    "relation": "relation",
    "id": "relation",
    "uri": "relation",
    "iri": "relation",
    "property": "relation",
    "predicate": "relation",
    "name": "name",
    "label": "name",
    "title": "name",
}

_EMPTY = ("", "na", "n/a", "nan", "none", "null", "nil", "-", "?", "\\n")
"""What stands where a number is missing, in lower case."""

ENOUGH = 0.5
"""The share of a column's names that must be entities for the column to be taken for one of entities."""

ENOUGH_ENTITIES = 0.1
"""Or the share of the entities that it must name: a table may be of many more than the graph has."""

ONE_EACH = 0.9
"""Rows that a table must have an entity for, to be one about entities: others may repeat one that has several texts."""


@dataclass
class EntityTable:
    """What a table says about entities.

    Attributes:
        entities: a row for each, the columns entity, any of name, description, image, and others as they are called.
        numbers: rows entity, attribute, value.
        columns: how the columns of the file are called.
        notes: what was made of them.
    """

    entities: pl.DataFrame
    numbers: pl.DataFrame
    columns: list[str]
    notes: list[str] = field(default_factory=list[str])


class NoTable(Exception):
    """A file that is no table about entities, with the reason in a few words."""


def read_entity_table(
    path: Path,
    names: pl.Series | None = None,
    *,
    chosen: Chosen | None = None,
    listed: bool = True,
    strict: bool = True,
    relations: pl.Series | None = None,
    picture: Callable[[str], str | None] | None = None,
) -> EntityTable:
    """Names, descriptions, pictures and numbers of entities: any table one column of which names entities.

    That is the column chosen; else the one with the most names of entities of the triples; else one called `entity` or
    the like, or the first. What the other columns are says `find_roles`. The header may be missing where there are two
    columns: the second is then the description. An entity may have several rows where they do not contradict each
    other; its descriptions are joined.

    Args:
        path: the file, see `read_records`.
        names: the entities of the triples, distinct.
        chosen: columns that the user has chosen.
        listed: every row is one of an entity, whether the triples have it or not. Otherwise the table must be seen to
            be about entities of the triples, and others are left out.
        strict: rows of an entity that contradict each other are refused. Otherwise the first counts, which is noted.
        relations: of the triples, by which more of them are told from a table about entities.
        picture: gives the path within the dataset folder for what a field of pictures says, or None.

    Raises:
        DataError: malformed rows, an entity without a name, or listed twice with different names or pictures.
        NoTable: it is not `listed`, and no table about entities of the triples.
    """
    chosen = chosen or Chosen()
    names = pl.Series("entity", [], dtype=pl.String) if names is None else names
    notes: list[str] = []
    frame, first_line = read_records(path, _header_test(names, listed), notes)
    columns = frame.columns
    if not columns or frame.is_empty():
        raise NoTable("has no rows") if not listed else DataError(path, "has no rows", "check the file")
    if not listed and relations is not None and frame.width == 3 and find_key(frame, relations)[1] * 2 > len(relations):
        raise NoTable("seems to hold triples too; put all of them into one file")
    key, matched = _key(frame, names, chosen, listed)
    headless = first_line == 1
    if headless and frame.width == 2:
        frame = frame.rename({column: "entity" if column == key else "description" for column in columns})
        key = "entity"
    elif headless and not listed:
        raise NoTable("has no header line; name its columns in one")
    elif headless:
        raise DataError(path, f"{frame.width} columns without a header line", "name them: entity, description", 1)
    if not listed:
        filled = frame[key].str.strip_chars() != ""
        if not filled.all():
            notes.append(f"{path.name}: {int((~filled).sum()):,} rows without a `{key}` were left out")
        frame = frame.filter(filled)
    frame = _clean_key(frame, key, path, first_line, notes)
    if not listed:
        frame = _about(frame, key, matched, names, path, notes)
    roles = find_roles(frame.with_columns(_filled(c) for c in frame.columns if c != key), key, chosen)
    if path.name.startswith(("descriptions.", "texts.")) and len(roles.others) == 1 and frame.width == 2:
        roles.texts, roles.others = roles.others, []
    numbers = _numbers(frame, key, roles)
    usual = all(column in ENTITY for column in frame.columns) or (not roles.others and not roles.numbers)
    plain = listed and usual and all(role_of(column)[1] for column in frame.columns) and len(roles.texts) < 2
    if not plain:
        notes += _said(path, frame, key, roles, names, chosen)
    table = _named(frame, key, roles)
    if picture is not None and "image" in table.columns:
        cells = {cell: picture(cell) for cell in table["image"].unique() if cell}
        table = table.with_columns(pl.col("image").replace({old: new for old, new in cells.items() if new is not None}))
    refuse_outside(table, path, first_line if listed else None)
    if table["entity"].n_unique() < len(table):
        table = _one_row_each(table, path, first_line, listed and strict, notes)
    return EntityTable(table, numbers, columns, notes)


def _header_test(names: pl.Series, listed: bool) -> Callable[[Sequence[str]], bool]:
    """Whether a first line names columns: it has a word for one, or at least no entity."""

    def named(cells: Sequence[str]) -> bool:
        roles = [role_of(cell) for cell in cells]
        if any(whole for _, whole in roles):
            return True
        if names.is_in([cell.strip() for cell in cells]).any():
            return False
        short = any(role is not None and len(cell) <= 32 for (role, _), cell in zip(roles, cells, strict=True))
        return not listed or len(cells) > 2 or short

    return named


def _key(frame: pl.DataFrame, names: pl.Series, chosen: Chosen, listed: bool) -> tuple[str, int]:
    """The column of entities, and how many of the triples' entities it names."""
    candidates = frame.select(chosen.key) if chosen.key in frame.columns else frame
    key, matched = find_key(candidates, names)
    if key is None and chosen.key in frame.columns:
        key = chosen.key
    if key is None and not listed:
        raise NoTable(
            "has no column whose names are entities of the triples; --entities FILE and --key COLUMN say which"
        )
    if key is None:
        # `id, name, description` and `name, description` alike: the key is the first of them.
        called = [column for column in frame.columns if role_of(column)[0] == "entity"]
        key = called[0] if called else frame.columns[0]
    return key, matched


def _clean_key(frame: pl.DataFrame, key: str, path: Path, first_line: int, notes: list[str]) -> pl.DataFrame:
    """With names of entities that can stand in a line of their own.

    Raises:
        DataError: an entity without a name.
    """
    broken = int(frame[key].str.contains(BREAKS).sum())
    if broken:
        frame = frame.with_columns(pl.col(key).str.replace_all(BREAKS, " "))
        notes.append(f"{path.name}: tabs, line breaks and NULs within {broken:,} names became blanks")
    given = frame[key].fill_null("")
    frame = frame.with_columns(pl.col(key).str.strip_chars())
    unnamed = (frame[key].fill_null("") == "").arg_true()
    if len(unnamed):
        raise DataError(path, f"empty {key}", "name it or delete the row", int(unnamed[0]) + first_line)
    edged = int((frame[key] != given).sum())
    if edged:
        notes.append(f"{path.name}: blanks around {edged:,} names of the column `{key}` were taken off")
    return frame


def _about(frame: pl.DataFrame, key: str, matched: int, names: pl.Series, path: Path, notes: list[str]) -> pl.DataFrame:
    """The rows about entities of the triples, if the table is about them.

    Raises:
        NoTable: too few of its names are entities, or an entity has many rows.
    """
    distinct = frame[key].n_unique()
    if matched < ENOUGH * distinct and matched < ENOUGH_ENTITIES * len(names):
        message = f"has no column of entities: of `{key}` {matched:,} of {distinct:,} names are one"
        raise NoTable(f"{message}; --entities FILE takes it for one")
    if distinct < ONE_EACH * len(frame) and frame.width > 2:
        raise NoTable(f"has several rows for an entity, by its column `{key}`; --entities FILE joins them")
    known = frame[key].is_in(names.implode())
    if not known.all():
        others = frame[key].filter(~known)
        said = f"{path.name}: {len(others):,} rows are of no entity of the triples and were left out"
        notes.append(f"{said}, first: {others[0]!r}; --entities {path.name} makes entities of them")
    return frame.filter(known)


def _filled(column: str) -> pl.Expr:
    """A column with nothing in the place of words such as `N/A`."""
    missing = pl.col(column).str.strip_chars().str.to_lowercase().is_in(_EMPTY)
    return pl.when(missing).then(pl.lit("")).otherwise(pl.col(column)).alias(column)


def _numbers(frame: pl.DataFrame, key: str, roles: Roles) -> pl.DataFrame:
    """Rows entity, attribute, value of the columns of numbers."""
    parts = [
        frame.select(pl.col(key).alias("entity"), attribute=pl.lit(column), value=_filled(column).str.strip_chars())
        for column in roles.numbers
    ]
    none = pl.DataFrame(schema={"entity": pl.String, "attribute": pl.String, "value": pl.String})
    found = pl.concat([none, *parts]).filter(pl.col("value") != "")
    return found.with_columns(one_line(pl.col("attribute"))).unique(maintain_order=True)


def _named(frame: pl.DataFrame, key: str, roles: Roles) -> pl.DataFrame:
    """The columns by what they are, in their order; texts are joined in the place of the first."""
    frame = frame.with_columns(_filled(column) for column in roles.texts)
    columns = [pl.col(key).alias("entity")]
    done = {"entity", *(["name"] if roles.name else []), *(["image"] if roles.image else [])}
    done |= {"description"} if roles.texts else set()
    for column in frame.columns:
        if column == roles.name:
            columns.append(one_line(pl.col(column)).alias("name"))
        elif column == roles.image:
            columns.append(one_line(_filled(column)).alias("image"))
        elif column in roles.texts:
            if column == min(roles.texts, key=frame.columns.index):
                columns.append(one_line(joined(roles.texts)).alias("description"))
        elif column in roles.others:
            called = " ".join(column.split()) or "unnamed"
            called = next(c for c in (called, *(f"{called} ({i})" for i in range(2, 999))) if c not in done)
            done.add(called)
            columns.append(one_line(pl.col(column)).alias(called))
    return frame.select(columns)


def _said(path: Path, frame: pl.DataFrame, key: str, roles: Roles, names: pl.Series, chosen: Chosen) -> list[str]:
    """What was made of the columns."""
    there = int(frame[key].unique().is_in(names.implode()).sum())
    parts = [f"name from `{roles.name}`"] if roles.name else []
    if roles.texts:
        several = " and ".join(f"`{column}`" for column in roles.texts)
        parts.append(f"description from {several}" + (", joined" if len(roles.texts) > 1 else ""))
    parts += [f"picture from `{roles.image}`"] if roles.image else []
    if roles.numbers:
        parts.append(f"numbers from {', '.join(f'`{c}`' for c in roles.numbers)} (numbers.tsv, for encode --numbers)")
    made = f": {'; '.join(parts)}" if parts else ""
    notes = [f"{path.name}: `{key}` names {there:,} of {len(names):,} entities{made}"]
    if len(roles.texts) > 1 and not chosen.text:
        notes[0] += "; --text COLUMN takes one alone"
    if roles.others:
        kept = ", ".join(f"`{column}`" for column in roles.others)
        what = "is a column" if len(roles.others) == 1 else "are columns"
        notes.append(
            f"{path.name}: {kept} {what} of entities.tsv that nothing reads; --name, --text or --image COLUMN maps one"
        )
    return notes


def _one_row_each(frame: pl.DataFrame, path: Path, first_line: int, strict: bool, notes: list[str]) -> pl.DataFrame:
    """Join the rows of each entity: its distinct descriptions, and what else is said of it where that is one thing.

    Where it is not, it is refused if this is `strict`; otherwise what comes first is kept, and that is noted.
    """
    others = [column for column in frame.columns if column not in ("entity", "description")]
    filled = frame.with_columns(pl.when(pl.col(c) != "").then(pl.col(c)).alias(c) for c in frame.columns)
    several = pl.any_horizontal(pl.lit(False), *(pl.col(c).drop_nulls().n_unique().over("entity") > 1 for c in others))
    bad = filled.select(several & ~pl.col("entity").is_first_distinct()).to_series().arg_true()
    if len(bad) and not strict:
        notes.append(f"{path.name}: {len(bad):,} rows contradict another of the same entity, of which the first counts")
    if len(bad) and strict:
        row = int(bad[0])
        raise DataError(path, f"entity {frame['entity'][row]!r} is listed twice", "keep one row", row + first_line)
    joined = filled.group_by("entity", maintain_order=True).agg(
        pl.col(c).drop_nulls().unique(maintain_order=True).str.join(" ")
        if c == "description"
        else pl.col(c).drop_nulls().first()
        for c in frame.columns
        if c != "entity"
    )
    notes.append(f"{path.name}: {len(frame) - len(joined):,} further rows of entities were joined to their first")
    return joined.with_columns(pl.all().fill_null("")).select(frame.columns)


def refuse_outside(entities: pl.DataFrame, where: Path, first_line: int | None = None) -> None:
    """Refuse pictures whose path leaves the folder: absolute, or through `..`; web addresses may stay.

    Raises:
        DataError: by line, or by entity where lines are not known.
    """
    if "image" not in entities.columns:
        return
    path = entities["image"].fill_null("").str.replace_all("\\", "/", literal=True)
    bad = (path.str.contains(r"(^|/)\.\.(/|$)") | path.str.contains(r"^(/|[A-Za-z]:/|file:)")).arg_true()
    if len(bad):
        row = int(bad[0])
        message = f"picture {entities['image'][row]!r} of {entities['entity'][row]!r} lies outside the folder"
        line = None if first_line is None else row + first_line
        raise DataError(where, message, "give a path within the folder", line)


def read_relation_table(path: Path, notes: list[str] | None = None, names: pl.Series | None = None) -> pl.DataFrame:
    """Names of relations: a table of which a column names relations, by default the first or `relation`, and others.

    The second of two columns is the name where there is no header.

    Args:
        path: the file, see `read_records`.
        notes: where to what was done is added.
        names: the relations of the triples: the table must be seen to be about them, and its other rows are left out.

    Raises:
        DataError: malformed rows, several columns of the same meaning, a relation that is empty or listed twice.
        NoTable: with `names`, it is none about relations.
    """

    def named(cells: Sequence[str]) -> bool:
        known = [cell.strip().lower() in _RELATION_COLUMNS for cell in cells]
        if names is not None:
            return not names.is_in([cell.strip() for cell in cells]).any()
        # A relation may well be called `name` or `title`.
        return all(known) or cells[0].strip().lower() == "relation"

    said: list[str] = [] if notes is None else notes
    frame, first_line = read_records(path, named, said)
    key = None
    if names is not None:
        key, matched = find_key(frame, names) if frame.width else (None, 0)
        if key is None or frame.width < 2 or matched < ENOUGH * frame[key].n_unique():
            raise NoTable("names no relations")
    if first_line == 1:
        if frame.width != 2:
            raise DataError(path, f"{frame.width} columns without a header line", "name them: relation, name", 1)
        frame.columns = ["relation", "name"]
    else:
        called = {
            c: "relation" if c == key else _RELATION_COLUMNS.get(c.strip().lower(), c.strip()) for c in frame.columns
        }
        if key is not None:  # Only one column is the relation, and one its name.
            called = {c: n if n != "relation" else c.strip() for c, n in called.items()} | {key: "relation"}
            named_so = [c for c, n in called.items() if n == "name"]
            called |= {c: c.strip() for c in named_so[1:]}
        if "relation" not in called.values():
            called[frame.columns[0]] = "relation"
        if len(set(called.values())) < len(called):
            raise DataError(path, f"columns {', '.join(frame.columns)} mean the same", "keep one of each", 1)
        frame = frame.rename(called)
    frame = _clean_key(frame, "relation", path, first_line, said)
    if names is not None:
        frame = frame.filter(pl.col("relation").is_in(names.implode())).unique(
            "relation", keep="first", maintain_order=True
        )
    frame = frame.select("relation", *(one_line(pl.col(column)) for column in frame.columns if column != "relation"))
    repeated = (~frame["relation"].is_first_distinct()).arg_true()
    if len(repeated):
        row = int(repeated[0])
        raise DataError(path, f"relation {frame['relation'][row]!r} is listed twice", "keep one row", row + first_line)
    return frame
