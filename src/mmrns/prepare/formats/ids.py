"""Triples of ids beside lists of names: OpenKE folders, `entities.dict`, `entities.txt`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mmrns.data.tables import read_lines
from mmrns.errors import DataError, UsageError
from mmrns.prepare.formats.base import Layout
from mmrns.prepare.formats.contents import TRIPLE, Contents, existing, fit_names, split_files, text_splits

ENTITY_LISTS = ("entity2id.txt", "entities.dict", "entities.txt")
RELATION_LISTS = ("relation2id.txt", "relations.dict", "relations.txt")
_COUNT = re.compile(r"\s*[0-9]{1,18}\s*")
_TRIPLE_SUFFIXES = (".txt", ".tsv", ".del")


def list_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of the files that list the names of ids."""
    found = existing(folder, names, [""])
    return found[0] if found else None


def read_names(path: Path) -> pl.Series:
    """The name of each id of a list: `name id` (`*2id.txt`), `id name` (`.dict`), or names alone, the first being id 0.

    `*2id.txt` is separated by a tab or the last blank; its first line may hold the count. Other files hold the id
    first where every line has one, or last.

    Raises:
        DataError: no names, a wrong count, an id or name listed twice, an id without a name; by line.
    """
    lines = read_lines(path)
    count = None
    counted = path.name.endswith("2id.txt")
    if counted and len(lines) and _COUNT.fullmatch(lines[0]):
        count, lines = int(lines[0]), lines[1:]
    first_line = 1 + (count is not None)
    if lines.is_empty():
        raise DataError(path, "lists no name", "check the file")
    if count is not None and count != len(lines):
        message = f"counts {count:,} but {len(lines):,} lines follow"
        raise DataError(path, message, "mend the count or the list", 1)
    tabbed = bool(lines.str.contains("\t", literal=True).all())
    gap = r"\t" if tabbed else r"\s+"
    last = lines.str.extract_groups(rf"^(?<name>.*){gap}(?<id>[0-9]{{1,18}})\s*$").struct.unnest()
    first = lines.str.extract_groups(r"^(?<id>[0-9]{1,18})\t(?<name>.*)$").struct.unnest()
    if not counted and tabbed and first["id"].null_count() == 0:
        fields = first
    elif counted or (tabbed and last["id"].null_count() == 0):
        fields = last
    else:
        fields = pl.DataFrame({"name": lines, "id": pl.int_range(len(lines), eager=True).cast(pl.String)})
    bad = fields["id"].is_null().arg_true()
    if len(bad):
        line = int(bad[0]) + first_line
        raise DataError(path, "no name and id", "write `name TAB id`, one a line", line)
    fields = fields.select("name", pl.col("id").cast(pl.Int64))
    for column, what in (("id", "id"), ("name", "name")):
        repeated = (~fields[column].is_first_distinct()).arg_true()
        if len(repeated):
            row = int(repeated[0])
            raise DataError(path, f"{what} {fields[column][row]!r} is listed twice", "keep one", row + first_line)
    blank = (fields["name"].str.strip_chars() == "").arg_true()
    if len(blank):
        raise DataError(path, "empty name", "mend or delete the row", int(blank[0]) + first_line)
    ordered = fields.sort("id")
    gap = (ordered["id"] != pl.int_range(len(ordered), eager=True)).arg_true()
    if len(gap):
        message = f"ids are not 0 to {len(ordered) - 1:,}: {int(gap[0]):,} has no name"
        raise DataError(path, message, "number the names from 0 without gaps")
    return ordered["name"]


class OpenKE(Layout, name="openke"):
    """The folders of OpenKE: files that begin with a count, and triples of ids in the order head, tail, relation."""

    title = "entity2id.txt, relation2id.txt, train2id.txt ...: counted ids, head tail relation"
    takes = "folder"

    def recognises(self, path: Path) -> bool:
        return bool(existing(path, ["train2id"], [".txt"]))

    def read(self, source: Path, *, columns: Sequence[str] | None = None) -> Contents:
        """An OpenKE folder: `entity2id.txt`, `relation2id.txt`, and `train2id.txt`, `valid2id.txt`, `test2id.txt`.

        The first line of each file counts the rest; forks leave it out in the lists of names. Triples are ids in the
        order head, tail, relation (https://github.com/thunlp/OpenKE#data); `columns` says otherwise, by number.

        Raises:
            DataError: a missing or malformed file, a wrong count, an id out of range; by line.
        """
        lists = {name: source / f"{name}2id.txt" for name in ("entity", "relation")}
        entities, relations = (read_names(path) for path in lists.values())
        order = _numbers(columns) or [1, 3, 2]
        files = split_files(source, [".txt"], "2id")
        if not files:
            raise DataError(source, "holds no train2id.txt", "add it, or choose another --from")
        splits = {split: _read_ids(path, order, entities, relations, True) for split, path in files.items()}
        return Contents(source, splits, order=entities)

    def write(self, contents: Contents, folder: Path) -> None:
        """An OpenKE folder: names numbered by code point, count lines, triples as head, tail, relation."""
        lists = {"entity": contents.names(), "relation": contents.relation_names()}
        codes: dict[str, pl.Enum] = {}
        for what, names in lists.items():
            codes[what] = pl.Enum(names)
            rows = pl.DataFrame({"name": names}).with_row_index("id").select("name", "id")
            _write_counted(rows, folder / f"{what}2id.txt", "\t")
        for split, frame in contents.splits.items():
            ids = frame.select(
                pl.col("head").cast(codes["entity"]).to_physical(),
                pl.col("tail").cast(codes["entity"]).to_physical(),
                pl.col("relation").cast(codes["relation"]).to_physical(),
            )
            _write_counted(ids, folder / f"{split}2id.txt", " ")


class Ids(Layout, name="ids"):
    """Lists of names beside the triples, as RotatE and DGL-KE have them."""

    title = "entities.dict, entities.txt or entity2id.txt beside train.txt ..., by name or by id"
    aliases = ("dict",)
    takes = "folder"
    entity_tables = ("descriptions", "texts")
    """`entities` is a list of ids here."""

    def recognises(self, path: Path) -> bool:
        return path.is_dir() and bool(text_splits(path)) and list_file(path, ENTITY_LISTS) is not None

    def read(self, source: Path, *, columns: Sequence[str] | None = None) -> Contents:
        """`entities.dict` (id TAB name), `entities.txt` or `entity2id.txt` beside `train.txt`, `valid.txt`, `test.txt`.

        The triples are head, relation, tail, by name or by id, whichever the list knows. By name is the layout of
        RotatE and DGL-KE, in which feature tables follow the ids.

        Raises:
            DataError: a missing or malformed file, a name or id that is not in the list; by line.
        """
        path = list_file(source, ENTITY_LISTS)
        if path is None:
            raise DataError(source, f"holds none of {', '.join(ENTITY_LISTS)}", "choose another --from")
        entities = read_names(path)
        relation_list = list_file(source, RELATION_LISTS)
        relations = None if relation_list is None else read_names(relation_list)
        order = _numbers(columns) or [1, 2, 3]
        files = split_files(source, _TRIPLE_SUFFIXES)
        if not files:
            raise DataError(source, "holds no train.txt", "add it, or choose another --from")
        contents = Contents(source, {}, order=entities)
        for split, file in files.items():
            frame = _cells(file, order)
            known = pl.concat([frame["head"], frame["tail"]]).cast(pl.Enum(entities), strict=False).is_not_null()
            if known.all():
                contents.splits[split] = fit_names(frame, file, 1, contents.notes)
            elif 2 * int(known.sum()) > len(known) or relations is None:
                row = int((~known).arg_true()[0]) % len(frame)
                names = [frame[c][row] for c in ("head", "tail")]
                absent = next(name for name in names if name not in set(entities))
                raise DataError(file, f"entity {absent!r} is not in {path.name}", "add it, or check --columns", row + 1)
            else:
                contents.splits[split] = _read_ids(file, order, entities, relations, False)
        return contents


def _numbers(columns: Sequence[str] | None) -> list[int] | None:
    if columns is None:
        return None
    if sorted(columns) != ["1", "2", "3"]:
        raise UsageError("--columns: give the numbers of head, relation and tail, such as 1,3,2; ids have no header")
    return [int(column) for column in columns]


def _cells(path: Path, order: Sequence[int], lines: pl.Series | None = None, first_line: int = 1) -> pl.DataFrame:
    """Three columns separated by tabs, else by blanks, as strings."""
    lines = read_lines(path) if lines is None else lines
    if lines.is_empty():
        return pl.DataFrame(schema=dict.fromkeys(TRIPLE, pl.String))
    tabs = lines.str.count_matches("\t", literal=True)
    pattern = r"^([^\t]+)\t([^\t]+)\t([^\t]+)$" if (tabs == 2).any() else r"^\s*(\S+)\s+(\S+)\s+(\S+)\s*$"
    fields = lines.str.extract_groups(pattern).struct.unnest()
    bad = fields.to_series(0).is_null().arg_true()
    if len(bad):
        row = int(bad[0])
        what = f"{int(tabs[row]) + 1} columns" if "\t" in pattern and lines[row].strip() else "no three columns"
        raise DataError(path, f"{what} where 3 are expected", "mend or delete the row", row + first_line)
    return fields.select(pl.nth(place - 1).alias(name) for place, name in zip(order, TRIPLE, strict=True))


def _read_ids(
    path: Path, order: Sequence[int], entities: pl.Series, relations: pl.Series, counted: bool
) -> pl.DataFrame:
    lines = read_lines(path)
    first_line = 1
    if counted:
        if lines.is_empty() or not _COUNT.fullmatch(lines[0]):
            raise DataError(path, "the first line is no count", "write the number of triples there", 1)
        count, lines, first_line = int(lines[0]), lines[1:], 2
        if count != len(lines):
            message = f"counts {count:,} but {len(lines):,} lines follow"
            raise DataError(path, message, "mend the count or the triples", 1)
    frame = _cells(path, order, lines, first_line)
    ids = frame.select(pl.all().cast(pl.Int64, strict=False))
    named: list[pl.Series] = []
    for column, names, what in (
        ("head", entities, "entity"),
        ("relation", relations, "relation"),
        ("tail", entities, "entity"),
    ):
        bad = (ids[column].is_null() | (ids[column] < 0) | (ids[column] >= len(names))).arg_true()
        if len(bad):
            row = int(bad[0])
            message = f"{column} {frame[column][row]!r} is no {what} id (0 to {len(names) - 1:,})"
            usual = "head tail relation" if counted else "head relation tail"
            remedy = f"read in the order {usual}; --columns gives the numbers of head, relation, tail otherwise"
            raise DataError(path, message, remedy, row + first_line)
        named.append(names.gather(ids[column]).alias(column))
    return pl.DataFrame(named)


def _write_counted(frame: pl.DataFrame, path: Path, separator: str) -> None:
    with path.open("wb") as file:
        file.write(f"{len(frame)}\n".encode())
        frame.write_csv(file, separator=separator, include_header=False, quote_style="never")
