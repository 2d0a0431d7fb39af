"""Triples of ids beside lists of names: OpenKE, `entities.dict`, `entities.txt`, DGL-KE's and LibKGE's files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from mmrns.data.tables import read_lines, read_text
from mmrns.errors import DataError, UsageError
from mmrns.prepare.folders import leads_out
from mmrns.prepare.formats.base import Layout
from mmrns.prepare.formats.contents import TRIPLE, Contents, existing, fit_names, one_line, split_files, text_splits

ENTITY_LISTS = ("entity2id.txt", "entities.dict", "entities.txt")
RELATION_LISTS = ("relation2id.txt", "relations.dict", "relations.txt")
_COUNT = re.compile(r"\s*[0-9]{1,18}\s*")
_TRIPLE_SUFFIXES = (".txt", ".tsv", ".del")
_ID_TABLES = {"entity": "entities.tsv", "relation": "relations.tsv"}
"""How DGL-KE calls its lists, id TAB name; a dataset folder has tables of these names too."""

_SIDES = {"head": "entity", "relation": "relation", "tail": "entity"}


def list_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of the files that list the names of ids."""
    found = existing(folder, names, [""])
    return found[0] if found else None


def read_names(path: Path, *, id_first: bool | None = None) -> pl.Series:
    """The name of each id of a list: `name id` (`*2id.txt`), `id name` (`.dict`), or names alone, the first being id 0.

    `*2id.txt` is separated by a tab or the last blank; its first line may hold the count. Other files hold the id
    first where every line has one, or last; `id_first` says that they do, whatever the names are.

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
    readings = [first] if tabbed and not counted and first["id"].null_count() == 0 else []
    readings += [last] if counted or (tabbed and last["id"].null_count() == 0) else []
    readings += [first] if counted and tabbed else []
    if id_first:
        readings = [first]
    if readings:
        # Where both columns are numbers, ids are the one that counts from 0.
        fields = next((fields for fields in readings if _counts(fields["id"])), readings[0])
    else:
        fields = pl.DataFrame({"name": lines, "id": pl.int_range(len(lines), eager=True).cast(pl.String)})
    bad = fields["id"].is_null().arg_true()
    if len(bad):
        line = int(bad[0]) + first_line
        raise DataError(path, "no name and id", "write `name TAB id`, one a line", line)
    fields = fields.select(pl.col("name").str.strip_chars(), pl.col("id").cast(pl.Int64))
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


def _own_files(folder: Path) -> set[Path]:
    """The files of a folder but for those that no layout of ids has: tables of other formats."""
    others = (".csv", ".parquet", ".jsonl", ".ndjson", ".json")
    return {path for path in folder.iterdir() if not path.is_dir() and path.suffix not in others}


class OpenKE(Layout, name="openke"):
    """The folders of OpenKE: files that begin with a count, and triples of ids in the order head, tail, relation."""

    title = "entity2id.txt, relation2id.txt, train2id.txt ...: counted ids, head tail relation"
    takes = "folder"

    def files(self, folder: Path) -> set[Path]:
        return _own_files(folder)

    def recognises(self, path: Path) -> bool:
        return bool(existing(path, ["train2id"], [".txt"]))

    def read(self, source: Path, *, columns: Sequence[str] | None = None) -> Contents:
        """An OpenKE folder: `entity2id.txt`, `relation2id.txt`, and `train2id.txt`, `valid2id.txt`, `test2id.txt`.

        The first line of each file counts the rest; forks leave it out in the lists of names. Triples are ids in the
        order head, tail, relation (https://github.com/thunlp/OpenKE#data); `columns` says otherwise, by number.

        Raises:
            DataError: a missing or malformed file, a wrong count, an id out of range; by line.
        """
        paths = {what: source / f"{what}2id.txt" for what in ("entity", "relation")}
        lists = {what: _List(path, read_names(path)) for what, path in paths.items()}
        order = _numbers(columns) or [1, 3, 2]
        files = split_files(source, [".txt"], "2id")
        if not files:
            raise DataError(source, "holds no train2id.txt", "add it, or choose another --from")
        splits = {split: _read_counted(path, order, lists) for split, path in files.items()}
        return Contents(source, splits, order=lists["entity"].names)

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


@dataclass(frozen=True)
class _List:
    """A list of names: its file, and the name of each id."""

    path: Path
    names: pl.Series

    def holds(self, cells: pl.Series) -> pl.Series:
        """Which cells are names of the list."""
        return cells.str.strip_chars().cast(pl.Enum(self.names), strict=False).is_not_null()

    def numbers(self, cells: pl.Series) -> pl.Series:
        """Which cells are ids of the list."""
        ids = _ids(cells)
        return (ids >= 0).fill_null(False) & (ids < len(self.names)).fill_null(False)


def _ids(cells: pl.Series) -> pl.Series:
    return cells.str.strip_chars().cast(pl.Int64, strict=False)


class Ids(Layout, name="ids"):
    """Lists of names beside the triples, as RotatE and DGL-KE have them."""

    title = "entities.dict, entities.txt, entity2id.txt or DGL-KE's entities.tsv beside train.txt ..., by name or by id"
    aliases = ("dict",)
    takes = "folder"
    entity_tables = ("descriptions", "texts")
    """`entities` is a list of ids here."""

    by_id: ClassVar[bool | None] = None
    """Whether the triples are ids; None finds out."""

    def files(self, folder: Path) -> set[Path]:
        return _own_files(folder)

    def recognises(self, path: Path) -> bool:
        return path.is_dir() and bool(text_splits(path)) and entity_list(path) is not None

    def lists(self, folder: Path) -> dict[str, Path]:
        """The files that list the names of entities and relations; the latter may be missing."""
        found = {"entity": entity_list(folder), "relation": list_file(folder, RELATION_LISTS)}
        if found["relation"] is None and is_id_table(folder / _ID_TABLES["relation"]):
            found["relation"] = folder / _ID_TABLES["relation"]
        return {what: path for what, path in found.items() if path is not None}

    def unread_tables(self, folder: Path) -> set[Path]:
        """The lists, which may be called like the tables beside triples."""
        return set(self.lists(folder).values())

    def read(self, source: Path, *, columns: Sequence[str] | None = None) -> Contents:
        """`entities.dict` (id TAB name), `entities.txt` or `entity2id.txt` beside `train.txt`, `valid.txt`, `test.txt`.

        DGL-KE's `entities.tsv` and `relations.tsv` (id TAB name, without a header) are such lists too. The triples are
        head, relation, tail, by name or by id, whichever the lists hold throughout. Where they hold both, since names
        are small numbers themselves, they are read by name and that is said: by name is the layout of RotatE and
        DGL-KE; `by-id` reads the other way. Feature tables follow the ids.

        Raises:
            DataError: a missing or malformed file, a name or id that is not in the list; by line.
        """
        paths = self.lists(source)
        if "entity" not in paths:
            raise DataError(source, f"holds none of {', '.join(ENTITY_LISTS)}", "choose another --from")
        lists = {what: _List(path, read_names(path)) for what, path in paths.items()}
        order = _numbers(columns) or [1, 2, 3]
        files = split_files(source, _TRIPLE_SUFFIXES)
        if not files:
            raise DataError(source, "holds no train.txt", "add it, or choose another --from")
        contents = Contents(source, {}, order=lists["entity"].names)
        frames = {split: _cells(file, order) for split, file in files.items()}
        by_id = self.by_id if self.by_id is not None else _are_ids(frames, lists, contents.notes)
        for split, frame in frames.items():
            if by_id:
                contents.splits[split] = _named(frame, lists, files[split], 1, "head relation tail")
            else:
                _refuse_unlisted(frame, lists, files[split])
                contents.splits[split] = fit_names(frame, files[split], 1, contents.notes)
        return contents


class ById(Ids, name="by-id"):
    """The same, where triples are ids even if names are small numbers too."""

    title = "the same, where triples are ids whatever the names are"
    aliases = ()
    by_id = True

    def recognises(self, path: Path) -> bool:
        return False


class LibKge(Layout, name="libkge"):
    """The folders that LibKGE makes: triples of ids in `.del` files beside lists of ids."""

    title = "LibKGE: train.del ... of ids beside entity_ids.del, relation_ids.del; strings become names"
    takes = "folder"

    def files(self, folder: Path) -> set[Path]:
        return _own_files(folder)

    def recognises(self, path: Path) -> bool:
        return path.is_dir() and (path / "entity_ids.del").is_file() and bool(split_files(path, [".del"]))

    def read(self, source: Path) -> Contents:
        """`train.del`, `valid.del`, `test.del` (ids of head, relation, tail), `entity_ids.del`, `relation_ids.del`.

        `entity_strings.del` and `relation_strings.del` (id or name, TAB, string), where they are there, become names.
        Files are called so unless `dataset.yaml` says otherwise (https://github.com/uma-pi1/kge).

        Raises:
            DataError: a missing or malformed file, an id out of range; by line.
        """
        called = _dataset_yaml(source / "dataset.yaml")
        lists: dict[str, _List] = {}
        for what in ("entity", "relation"):
            path = source / called.get(f"{what}_ids", f"{what}_ids.del")
            lists[what] = _List(path, read_names(path, id_first=True))
        files = {split: source / called.get(split, f"{split}.del") for split in ("train", "valid", "test")}
        files = {split: file for split, file in files.items() if file.is_file() or split in called}
        if "train" not in files:
            raise DataError(source, "holds no train.del", "add it, or choose another --from")
        contents = Contents(source, {}, order=lists["entity"].names)
        for split, file in files.items():
            contents.splits[split] = _named(_cells(file, [1, 2, 3]), lists, file, 1, "head relation tail")
        for what, listed in lists.items():
            path = source / called.get(f"{what}_strings", f"{what}_strings.del")
            if path.is_file():
                table = _strings(path, listed, what)
                setattr(contents, "entities" if what == "entity" else "relations", table)
        return contents


def entity_list(folder: Path) -> Path | None:
    """The file that lists the names of entities."""
    found = list_file(folder, ENTITY_LISTS)
    table = folder / _ID_TABLES["entity"]
    return table if found is None and is_id_table(table) else found


def is_id_table(path: Path) -> bool:
    """Whether each line of a table is id TAB name, and the ids are 0, 1, 2 ... in any order, as in DGL-KE."""
    if not path.is_file():
        return False
    try:
        return _counts(read_lines(path).str.extract(r"^([0-9]{1,18})\t[^\t]*\S[^\t]*$"))
    except DataError:  # Whoever reads it as a table says so.
        return False


def _counts(ids: pl.Series) -> bool:
    """Whether ids are 0, 1, 2 ... in any order."""
    ordered = ids.cast(pl.Int64).sort()
    return len(ordered) > 0 and bool((ordered == pl.int_range(len(ordered), eager=True)).fill_null(False).all())


def _are_ids(frames: Mapping[str, pl.DataFrame], lists: Mapping[str, _List], notes: list[str]) -> bool:
    """Whether triples are ids rather than names: what the lists hold throughout, else what they hold more of."""
    named = numbered = total = 0
    for frame in frames.values():
        for side, what in _SIDES.items():
            if what in lists:
                named += int(lists[what].holds(frame[side]).sum())
                numbered += int(lists[what].numbers(frame[side]).sum())
                total += len(frame)
    if named < total or numbered < total:
        return numbered > named
    same = all(
        (listed.names == pl.int_range(len(listed.names), eager=True).cast(pl.String)).all() for listed in lists.values()
    )
    if total and not same:
        files = " and ".join(listed.path.name for listed in lists.values())
        notes.append(
            f"the triples were read by name; the ids of {files} fit them as well, since names are small numbers there: "
            "--from by-id reads them so"
        )
    return False


def _refuse_unlisted(frame: pl.DataFrame, lists: Mapping[str, _List], file: Path) -> None:
    """Refuse triples with a name that its list lacks, by line."""
    for side, what in _SIDES.items():
        if what not in lists:
            continue
        absent = (~lists[what].holds(frame[side])).arg_true()
        if len(absent):
            row = int(absent[0])
            message = f"{what} {frame[side][row]!r} is not in {lists[what].path.name}"
            raise DataError(file, message, "add it, or check --columns", row + 1)


def _strings(path: Path, listed: _List, what: str) -> pl.DataFrame:
    """A table of what entities or relations are called: each line is the name or, where no key is a name, the id."""
    keys = read_lines(path).str.split_exact("\t", 1).struct.rename_fields(["key", "name"]).struct.unnest()
    bad = keys["name"].is_null().arg_true()
    if len(bad):
        raise DataError(path, "1 column where 2 are expected", "write `id TAB string`, one a line", int(bad[0]) + 1)
    by_name = listed.holds(keys["key"])
    by_id = listed.numbers(keys["key"])
    if int(by_id.sum()) > int(by_name.sum()):
        by_name, names = by_id, listed.names.gather(_ids(keys["key"]).clip(0, len(listed.names) - 1).fill_null(0))
    else:
        names = keys["key"].str.strip_chars()
    table = pl.DataFrame({what: names, "name": keys["name"]}).filter(by_name & (keys["name"].str.strip_chars() != ""))
    return table.unique(what, keep="first", maintain_order=True).with_columns(one_line(pl.col("name")))


_FILE = re.compile(r"^\s*files\.(\w+)\.filename:[ \t]*([^#\n]*)", re.MULTILINE)


def _dataset_yaml(path: Path) -> dict[str, str]:
    """The names of the files that LibKGE's `dataset.yaml` gives, by key; none where there is no such file.

    Raises:
        DataError: it cannot be read, or a name leads out of the folder.
    """
    called = dict(_FILE.findall(read_text(path))) if path.is_file() else {}
    called = {key: name.strip().strip("'\"") for key, name in called.items()}
    for name in called.values():
        if leads_out(name):
            raise DataError(path, f"{name!r} lies outside the folder", "give the name of a file in it")
    return called


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


def _read_counted(path: Path, order: Sequence[int], lists: Mapping[str, _List]) -> pl.DataFrame:
    """Triples of ids in a file whose first line counts them."""
    lines = read_lines(path)
    if lines.is_empty() or not _COUNT.fullmatch(lines[0]):
        raise DataError(path, "the first line is no count", "write the number of triples there", 1)
    count, lines, first_line = int(lines[0]), lines[1:], 2
    if count != len(lines):
        message = f"counts {count:,} but {len(lines):,} lines follow"
        raise DataError(path, message, "mend the count or the triples", 1)
    return _named(_cells(path, order, lines, first_line), lists, path, first_line, "head tail relation")


def _named(frame: pl.DataFrame, lists: Mapping[str, _List], path: Path, first_line: int, usual: str) -> pl.DataFrame:
    """Triples of ids by name; what has no list stays.

    Raises:
        DataError: an id that its list lacks, by line.
    """
    named: list[pl.Series] = []
    for column, what in _SIDES.items():
        if what not in lists:
            named.append(frame[column])
            continue
        names = lists[what].names
        bad = (~lists[what].numbers(frame[column])).arg_true()
        if len(bad):
            row = int(bad[0])
            message = f"{column} {frame[column][row]!r} is no {what} id (0 to {len(names) - 1:,})"
            remedy = f"read in the order {usual}; --columns gives the numbers of head, relation, tail otherwise"
            raise DataError(path, message, remedy, row + first_line)
        named.append(names.gather(_ids(frame[column])).alias(column))
    return pl.DataFrame(named)


def _write_counted(frame: pl.DataFrame, path: Path, separator: str) -> None:
    with path.open("wb") as file:
        file.write(f"{len(frame)}\n".encode())
        frame.write_csv(file, separator=separator, include_header=False, quote_style="never")
