"""`convert`: from any layout to any other. It reads triples, adds what lies beside them, and writes a new folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from mmrns.data.folders import find_dataset, read_entities
from mmrns.data.names import lookalikes
from mmrns.data.tables import read_header_table
from mmrns.errors import DataError
from mmrns.files import new_folder, refuse_taken, write_text
from mmrns.prepare.folders import lies_within
from mmrns.prepare.formats import features as feature_tables
from mmrns.prepare.formats.arrays import open_table
from mmrns.prepare.formats.base import LAYOUTS, Layout, find_layout, find_target, read_layout, sniff
from mmrns.prepare.formats.beside import CARRIED, say_beside_a_file, say_left_aside, take_tables
from mmrns.prepare.formats.columns import Chosen
from mmrns.prepare.formats.contents import Contents, merged, one_line, write_lines
from mmrns.prepare.formats.entities import refuse_outside
from mmrns.prepare.formats.features import Source, Zeros
from mmrns.prepare.formats.ids import read_names
from mmrns.prepare.formats.photos import Photos, Resolver, assign_pictures, copy_file


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
    entities: Sequence[Path] = (),
    chosen: Chosen | None = None,
    images: Sequence[Path] = (),
    zeros: Zeros = "missing",
    tokens: int | None = None,
    float32: bool = False,
    language: str = "en",
    skip_malformed: bool = False,
    advance: Callable[[str, int, int | None], None] | None = None,
) -> Converted:
    """Convert a knowledge graph and what belongs to it into a new folder.

    What is read are the triples; beside them tables about their entities or relations, whatever they are called, see
    `take_tables`; `numbers.tsv` and `texts.tsv`; folders of pictures; `features/`, README and licence; and feature
    tables whose names say their modality. What is not understood is named in a note. The folder is built under a
    temporary name beside its own and renamed at the end.

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
        entities: tables about entities, in place of those found by what they hold.
        chosen: columns of such tables, in place of those found.
        images: folders of pictures, in place of those found by what they hold.
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
    every = reader.features(beside) if features is None and beside is not None else dict(features or {})
    sources = _told_apart(contents, every) if features is None else every
    used = {source.path for source in every.values()} | ({links} if links is not None else set())
    if features is not None and beside is not None:  # Then others were left aside on purpose.
        used |= {path for path in beside.iterdir() if path.suffix in feature_tables.SUFFIXES and path.suffix != ".json"}
    at = source if beside is not None else source.parent
    with new_folder(folder) as made:
        done = Converted(folder, LAYOUTS.name_of(type(reader)), LAYOUTS.name_of(type(writer)))
        told("reading tables", 0, None)
        photos = Photos.find(at, images, search=beside is not None)
        found = take_tables(reader, contents, beside, entities, chosen or Chosen(), Resolver(photos), used)
        found.reasons |= {} if images else photos.leave_strangers(contents)
        done.pictures = _take_pictures(contents, photos, made, found.verbatim)
        verbatim = found.verbatim
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
        if contents.licence is not None and not list(made.glob("LICEN[CS]E*")):
            write_text(made / "LICENSE", contents.licence)
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
        if beside is not None:
            at_home = [*photos.folders.values(), *photos.alone, beside / "features"]
            found.used |= {*at_home, *(beside / path.split("/")[0] for path in photos.further)}
            say_left_aside(contents, beside, found)
        elif source.is_file():
            say_beside_a_file(contents, source, {path.resolve() for path in (*entities, *images, *used)})
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


def _told_apart(contents: Contents, every: Mapping[str, Source]) -> dict[str, Source]:
    """The feature tables of the source, without those whose rows cannot be told apart."""
    sources = dict(every)
    nameless = [name for name, s in sources.items() if contents.order is None and open_table(s.path).names is None]
    if nameless:
        files = ", ".join(sources.pop(name).path.name for name in nameless)
        contents.notes.append(f"{files}: rows without names, left out; --ids FILE says whose they are")
    return sources


def _take_pictures(contents: Contents, photos: Photos, made: Path, verbatim: dict[str, Path]) -> tuple[int, int] | None:
    """Copy the pictures, and say in the entities' table which is whose: how many are of an entity, and of how many."""
    photos.copy(made)
    pictures = photos.pictures
    if not pictures:
        return None
    for name, folder in photos.folders.items():
        if folder.is_symlink():
            contents.notes.append(f"{name}/ is a link to {folder.resolve()}; what lies there was copied")
    before = contents.entities
    of, lost = assign_pictures(contents, pictures, made)
    if contents.entities is not before:
        verbatim.pop("entities.tsv", None)
    if photos.links:
        contents.notes.append(f"{photos.links:,} pictures are links to other places; what they lead to was copied")
    if lost:
        said = f"{len(lost):,} of {len(pictures):,} pictures are called after no entity, or after several"
        said = f"{said}, first: {lost[0]}"
        contents.notes.append(f"{said}; call them ENTITY.png, or name them in a column `image` of a table of entities")
    return of, len(pictures)


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
    for pattern in CARRIED:
        for path in sorted(beside.glob(pattern)):
            _copy_within(path, made / path.name, beside)
    folder = beside / "features"
    if folder.is_dir():
        (made / "features").mkdir(exist_ok=True)
        kinds = ("*.safetensors", "*.entities", "*.tokens.jsonl")
        for path in sorted(path for kind in kinds for path in folder.glob(kind)):
            if path.name.removesuffix(".tokens.jsonl").removesuffix(path.suffix) not in sources:
                _copy_within(path, made / "features" / path.name, beside)
        if not any((made / "features").iterdir()):
            (made / "features").rmdir()


def _copy_within(path: Path, to: Path, inside: Path) -> None:
    """Copy a file that lies in a folder, not one that a link in it leads to elsewhere."""
    if path.is_symlink():
        if not path.exists():
            raise DataError(path, "is a link that leads nowhere or in a circle", "put the file itself there")
        if not lies_within(path, os.path.realpath(inside)):
            raise DataError(path, "is a link out of its folder", "put the file itself there")
    copy_file(path, to)
