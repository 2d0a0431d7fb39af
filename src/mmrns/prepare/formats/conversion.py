"""`convert`: from any layout to any other. It reads triples, adds what lies beside them, and writes a new folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl

from mmrns.data.folders import find_dataset, read_entities
from mmrns.data.names import lookalikes
from mmrns.data.tables import read_header_table
from mmrns.errors import DataError
from mmrns.files import new_folder, refuse_taken
from mmrns.prepare.folders import PICTURE_SUFFIXES, is_picture, leads_out, named_pictures
from mmrns.prepare.formats import features as feature_tables
from mmrns.prepare.formats.arrays import open_table
from mmrns.prepare.formats.base import LAYOUTS, Layout, find_layout, find_target, read_layout, sniff
from mmrns.prepare.formats.contents import (
    TABLE_COLUMNS,
    Contents,
    existing,
    merged,
    one_line,
    read_entity_table,
    read_relation_table,
    refuse_outside,
    write_lines,
)
from mmrns.prepare.formats.features import Source, Zeros
from mmrns.prepare.formats.ids import read_names

_CARRIED = ("README.md", "dataset.json", "LICENSE*", "LICENCE*")


@dataclass
class Converted:
    """What became of a conversion.

    Attributes:
        folder: what was written.
        layout, target: the names of the layouts that it was read and written as.
        triples: rows by split.
        entities, relations: how many.
        features: by modality, see `convert_features`.
        pictures: how many of the pictures belong to an entity, and of how many; None without pictures.
        malformed: statements that were left out since they are malformed.
        left_out: literals that were left out since they are neither numbers nor texts, by datatype.
        notes: what the user should know.
    """

    folder: Path
    layout: str
    target: str
    triples: dict[str, int] = field(default_factory=dict[str, int])
    entities: int = 0
    relations: int = 0
    features: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    pictures: tuple[int, int] | None = None
    malformed: int = 0
    left_out: dict[str, int] = field(default_factory=dict[str, int])
    notes: list[str] = field(default_factory=list[str])


def convert(
    source: str | Path,
    folder: str | Path,
    *,
    layout: str | type[Layout] | None = None,
    target: str | type[Layout] = "tsv",
    columns: Sequence[str] | None = None,
    delimiter: str | None = None,
    header: bool | None = None,
    features: Mapping[str, Source] | None = None,
    links: Path | None = None,
    ids: Path | None = None,
    zeros: Zeros = "missing",
    tokens: int | None = None,
    float32: bool = False,
    language: str = "en",
    skip_malformed: bool = False,
    advance: Callable[[str, int, int | None], None] | None = None,
) -> Converted:
    """Convert a knowledge graph and what belongs to it into a new folder.

    What is read are the triples; beside them `entities` and `descriptions` (`.tsv` or `.csv`), `relations.tsv`,
    `numbers.tsv`, `texts.tsv`, `images/` or `pictures/`, `features/`, README and licence; and feature tables whose
    names say their modality. The folder is built under a temporary name beside its own and renamed at the end.

    Args:
        source: a file, a folder, the name of a known dataset, or with `layout="pykeen"` of one of PyKEEN's.
        folder: what to write; must not exist.
        layout: the layout of the source: a name, an alias, `package.module:Class` or a subclass of `Layout`; None finds
            out by the names of the files.
        target: the layout to write, likewise; it must define `write`.
        columns, delimiter, header: of tables, see `Tsv.read`; `columns` also of ids, by number.
        features: feature tables by modality, in place of those found; empty for none.
        links: other names of entities, see `read_links`.
        ids: a list of names that gives the order of the rows of feature tables.
        zeros, tokens, float32: see `convert_features`.
        language: of RDF texts.
        skip_malformed: leave malformed statements of N-Triples and N-Quads out, and count them.
        advance: told what is being done, how much is done, and of how much.

    Raises:
        DataError: the source or the target is not fit.
        UsageError: an unknown layout, an option that does not fit, an extra that is not installed.
    """
    asked, writer = None if layout is None else find_layout(layout), find_target(target)()
    told = advance or _silent
    source, folder = find_source(source, asked), Path(folder)
    if os.path.lexists(folder):
        raise DataError(folder, "exists already", "choose another name or remove it")
    refuse_taken(folder)
    told("reading triples", 0, None)
    reader = (asked or sniff(source))()
    options = {"columns": columns, "delimiter": delimiter, "header": header, "language": language}
    options["skip_malformed"] = skip_malformed or None
    contents = read_layout(reader, source, {**options, "advance": _counted("reading statements", told)})
    if ids is not None:
        contents.order = read_names(ids)
    if not len(contents.splits.get("train", [])):
        raise DataError(source, "holds no training triple", "name the file of triples, or choose --from")
    beside = source if source.is_dir() else None
    if links is None and beside is not None:
        links = feature_tables.find_links(beside)
    link_table = None if links is None else feature_tables.read_links(links)
    sources = _features(reader, contents, beside) if features is None else dict(features)
    with new_folder(folder) as made:
        done = Converted(folder, LAYOUTS.name_of(type(reader)), LAYOUTS.name_of(type(writer)))
        told("reading tables", 0, None)
        verbatim = _take_tables(reader, contents, beside)
        if beside is not None:
            done.pictures = _take_pictures(contents, beside, made, verbatim)
        _list_silent_entities(contents, verbatim)
        if contents.entities is not None:
            refuse_outside(contents.entities, source)
        names = contents.names()
        relations = contents.relation_names()
        done.entities, done.relations = len(names), len(relations)
        _say_odd_names(contents.notes, "entities", names)
        _say_odd_names(contents.notes, "relations", relations)
        told("writing triples", 0, None)
        writer.write(contents, made)
        _write_tables(contents, made, verbatim)
        if done.target in ("tsv", "parquet"):
            _refuse_unloadable(made, folder)
        if beside is not None:
            _carry(beside, made, sources)
        if sources:
            done.features = feature_tables.convert_features(
                contents,
                names,
                sources,
                made,
                links=link_table,
                zeros=zeros,
                tokens=tokens,
                float32=float32,
                advance=told,
            )
        if done.relations > done.entities:
            contents.notes.append("there are more relations than entities; if columns are swapped, see --columns")
        done.triples = {split: len(frame) for split, frame in contents.splits.items()}
        done.malformed, done.left_out, done.notes = contents.malformed, contents.left_out, contents.notes
    return done


def _say_odd_names(notes: list[str], what: str, names: pl.Series) -> None:
    """Note names that look the same, and those whose quotes may be what another program put around them."""
    alike = lookalikes(names)
    if len(alike):
        first = f"{alike['name'][0]!r} and {alike['other'][0]!r}"
        said = f"{len(alike):,} {what} differ from another only in blanks or invisible characters"
        notes.append(f"{said}, first: {first}; write them alike if they are one")
    quoted = names.filter(names.str.contains(r"""^(".*"|'.*')$"""))
    if len(quoted):
        notes.append(f"{len(quoted):,} {what} are in quotes, which were kept, first: {quoted[0]}")


def _silent(what: str, done: int, total: int | None) -> None:
    """Do nothing: nobody wants to know."""


def _counted(what: str, told: Callable[[str, int, int | None], None]) -> Callable[[int], None]:
    """A function that a reader tells how many more statements it has done, and that passes the sum on."""
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        told(what, done, None)

    return advance


def find_source(source: str | Path, layout: type[Layout] | None) -> Path:
    """The file or folder that is meant: a path, or the name of a known dataset.

    Raises:
        UsageError: there is none.
        DataError: it is a link that leads nowhere.
    """
    path = Path(source)
    if layout is not None and layout.takes == "name":
        return path
    if path.exists():
        return path
    if path.is_symlink():
        raise DataError(path, "is a link that leads nowhere or in a circle", "name the file itself")
    return find_dataset(source)


def _features(reader: Layout, contents: Contents, beside: Path | None) -> dict[str, Source]:
    """The feature tables of the source, without those whose rows cannot be told apart."""
    if beside is None:
        return {}
    sources = reader.features(beside)
    nameless = [name for name, s in sources.items() if contents.order is None and open_table(s.path).names is None]
    if nameless:
        files = ", ".join(sources.pop(name).path.name for name in nameless)
        contents.notes.append(f"{files}: rows without names, left out; --ids FILE says whose they are")
    return sources


def _take_tables(reader: Layout, contents: Contents, beside: Path | None) -> dict[str, Path]:
    """Read the tables beside the triples into the contents; returns the files that can be copied as they are."""
    if beside is None:
        return {}
    others = reader.unread_tables(beside)
    verbatim: dict[str, Path] = {}
    said = contents.entities
    table: pl.DataFrame | None = None
    for stem in reader.entity_tables:
        for path in existing(beside, [stem], [".tsv", ".csv"]):
            if path in others or (stem == "texts" and path.suffix == ".tsv"):
                continue
            read = read_entity_table(path, contents.notes)
            table = merged(table, read)
            if path.name == "entities.tsv" and _loads_as(path, read):
                verbatim["entities.tsv"] = path
    contents.entities = merged(table, said)
    if "entities.tsv" in verbatim and not _same(contents.entities, read_entity_table(verbatim["entities.tsv"])):
        del verbatim["entities.tsv"]
    for path in existing(beside, ["relations"], [".tsv", ".csv"])[:1]:
        if path not in others:
            read = read_relation_table(path, contents.notes)
            contents.relations = _with_rows(read, contents.relations)
            if path.suffix == ".tsv" and _loads_as(path, read) and _same(contents.relations, read):
                verbatim[path.name] = path
    for name in ("numbers", "texts"):
        path = beside / f"{name}.tsv"
        if not existing(beside, [name], [".tsv"]):
            continue
        found = _headed(read_header_table(path), TABLE_COLUMNS[name])
        read = found.with_columns(pl.col(found.columns[0]).str.strip_chars())
        edged = int((read.to_series(0) != found.to_series(0)).sum())
        if edged:
            contents.notes.append(f"{path.name}: blanks around {edged:,} names of entities were taken off")
        more: pl.DataFrame | None = getattr(contents, name)
        both = _with_rows(read, more)
        setattr(contents, name, both)
        if _same(both, read.unique(maintain_order=True)) and _loads_as(path, read):
            verbatim[path.name] = path
    return verbatim


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


def _take_pictures(contents: Contents, beside: Path, made: Path, verbatim: dict[str, Path]) -> tuple[int, int] | None:
    """Copy `images/` or `pictures/` and say in the entities' table which picture is whose, by its file name."""
    for name in ("images", "pictures"):
        folder = beside / name
        if folder.is_dir() or folder.is_symlink():
            files = copy_tree(folder, made / name)
            break
    else:
        return None
    pictures = [path for path in files if is_picture(made / path)]
    if not pictures:
        return None
    entities = contents.entities
    if entities is not None and "image" in entities.columns and (entities["image"] != "").any():
        cells = [image for image in entities["image"].unique().to_list() if image and not leads_out(image)]
        listed = {path.relative_to(made).as_posix() for image in cells for path in named_pictures(made, image)}
        return sum(bool({path.as_posix(), path.parent.as_posix()} & listed) for path in pictures), len(pictures)
    # By entity name: `images/ENTITY.png`, or any number in `images/ENTITY/`; a slash in a name is a folder.
    paths = [path.relative_to(path.parts[0]) for path in pictures]
    table = pl.DataFrame(
        {
            "picture": [path.as_posix() for path in pictures],
            "file": [unquote(_without_suffix(path).as_posix()) for path in paths],
            "folder": [unquote(path.parent.as_posix()) for path in paths],
        }
    )
    names = contents.names().alias("entity").to_frame()
    of_file = table.join(names, left_on="file", right_on="entity").select(entity="file", image="picture")
    rest = table.join(names, left_on="file", right_on="entity", how="anti")
    of_folder = rest.join(names, left_on="folder", right_on="entity").select(
        entity="folder", image=pl.col("picture").str.replace(r"/[^/]*$", "")
    )
    found = pl.concat([of_file, of_folder])
    if len(found):
        first = found.sort("image").unique("entity", keep="first").select("entity", "image").sort("entity")
        contents.entities = merged(entities, first)
        verbatim.pop("entities.tsv", None)
    return len(found), len(pictures)


def _without_suffix(path: Path) -> Path:
    """A picture's name without its suffix, if that is one of pictures."""
    return path.with_suffix("") if path.suffix.lower() in PICTURE_SUFFIXES else path


def _list_silent_entities(contents: Contents, verbatim: dict[str, Path]) -> None:
    """Entities that the ids know but no triple names go into the entities' table, so that they are kept."""
    if contents.order is None:
        return
    named = pl.concat([frame[column].unique() for frame in contents.splits.values() for column in ("head", "tail")])
    silent = contents.order.filter(contents.order.cast(pl.Enum(named.unique()), strict=False).is_null())
    if contents.entities is not None and len(silent):
        listed = contents.entities["entity"].unique()
        silent = silent.filter(silent.cast(pl.Enum(listed), strict=False).is_null())
    if len(silent):
        contents.entities = merged(contents.entities, silent.alias("entity").to_frame())
        verbatim.pop("entities.tsv", None)


def _write_tables(contents: Contents, made: Path, verbatim: Mapping[str, Path]) -> None:
    for name in ("entities", "relations", "numbers", "texts"):
        table: pl.DataFrame | None = getattr(contents, name)
        file = f"{name}.tsv"
        if file in verbatim:
            shutil.copyfile(verbatim[file], made / file)
        elif table is not None and len(table):
            write_lines(
                table.select(one_line(pl.col(c)) if c != "entity" else pl.col(c) for c in table.columns),
                made / file,
                header=True,
            )


def _refuse_unloadable(made: Path, folder: Path) -> None:
    """Read the tables that were written as a dataset's are read.

    Raises:
        DataError: one of them cannot be loaded.
    """
    try:
        read_entities(made)
        for name in ("relations", "numbers", "texts"):
            if (made / f"{name}.tsv").exists():
                read_header_table(made / f"{name}.tsv")
    except DataError as error:
        where = folder / error.where.name
        raise DataError(where, f"would not load: {error.message}", "mend the source", error.line) from error


def _carry(beside: Path, made: Path, sources: Mapping[str, Source]) -> None:
    """Copy what goes along unread: feature files of the dataset layout, README, licence."""
    for pattern in _CARRIED:
        for path in sorted(beside.glob(pattern)):
            _copy_file(path, made / path.name, beside)
    folder = beside / "features"
    if folder.is_dir():
        (made / "features").mkdir(exist_ok=True)
        kinds = ("*.safetensors", "*.entities", "*.tokens.jsonl")
        for path in sorted(path for kind in kinds for path in folder.glob(kind)):
            if path.name.removesuffix(".tokens.jsonl").removesuffix(path.suffix) not in sources:
                _copy_file(path, made / "features" / path.name, beside)
        if not any((made / "features").iterdir()):
            (made / "features").rmdir()


def copy_tree(folder: Path, to: Path) -> list[Path]:
    """Copy the files of a folder, however deep; their paths from the parent of `to`.

    Raises:
        DataError: a symbolic link that leads nowhere, in a circle, or out of the folder.
    """
    if folder.is_symlink() and not folder.exists():
        raise DataError(folder, "is a link that leads nowhere or in a circle", "put the folder itself there")
    files: list[Path] = []
    for root, folders, names in os.walk(folder):
        for name in folders:
            if (link := Path(root, name)).is_symlink():
                raise DataError(link, "is a link to a folder", "put the folder itself there")
        at = to / Path(root).relative_to(folder)
        at.mkdir(parents=True, exist_ok=True)
        for name in sorted(names):
            _copy_file(Path(root, name), at / name, folder)
            files.append((at / name).relative_to(to.parent))
    return files


def _copy_file(path: Path, to: Path, inside: Path) -> None:
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise DataError(path, "is a link that leads nowhere or in a circle", "put the file itself there") from error
    if path.is_symlink() and not real.is_relative_to(inside.resolve()):
        raise DataError(path, "is a link out of its folder", "put the file itself there")
    try:
        shutil.copyfile(real, to)
    except OSError as error:
        raise DataError(path, f"cannot be copied ({error.strerror or error})", "check the file and the disk") from error
