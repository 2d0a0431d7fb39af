"""`mmrns data convert`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmrns.cli.data import data_app
from mmrns.cli.show import Text, err, out, print_json, print_rows
from mmrns.errors import UsageError

if TYPE_CHECKING:
    from mmrns.prepare.formats import Converted


class ZeroRows(StrEnum):
    """What tokens of zeros only mean in a feature table."""

    missing = "missing"
    keep = "keep"


@data_app.command("convert", epilog="Example: mmrns data convert triples.csv people --columns subject,predicate,object")
def data_convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="File, folder, or name of a dataset.")],
    folder: Annotated[Path, typer.Argument(metavar="DST", help="New folder.")],
    layout: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="LAYOUT",
            help="tsv, csv, parquet, openke, ids, by-id, libkge, rdf, ntriples, wordnet, mmrns (the authors' files), "
            "pykeen (SRC is a name there), or package.module:Class [default: found by the files' names].",
        ),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="LAYOUT",
            help="tsv (a dataset folder), parquet, openke, pykeen, ntriples, or package.module:Class.",
        ),
    ] = "tsv",
    columns: Annotated[
        str | None,
        typer.Option(metavar="H,R,T", help="Columns of head, relation and tail: names, or numbers from 1."),
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between columns; \\t is a tab [default: found].")] = None,
    header: Annotated[
        bool | None, typer.Option("--header/--no-header", help="Whether a table's first line names the columns.")
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Feature table of a modality: .pth, .npy, .npz, .h5, .json; FILE:KEY for one of several arrays, "
            "FILE.json,CODEBOOK for token numbers; repeatable [default: found by the files' names].",
        ),
    ] = None,
    no_features: Annotated[bool, typer.Option("--no-features", help="Leave feature tables aside.")] = False,
    links: Annotated[
        Path | None, typer.Option(help="Other names of entities: ent_links or *SameAsLink* [default: found in SRC].")
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(help="Entities in the order of a feature table's rows: a name, or name and id, a line."),
    ] = None,
    entities: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Table of entities: .csv, .tsv, .parquet, .jsonl, .json; repeatable [default: found by content].",
        ),
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the entities in such a table.")] = None,
    name: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of their names.")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column of their texts; repeatable, several are joined in this order."),
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of their pictures: paths, or names of files.")
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of pictures called after entities, by id or name; repeatable [default: found by content].",
        ),
    ] = None,
    zeros: Annotated[ZeroRows, typer.Option(help="What tokens of zeros only mean.")] = ZeroRows.missing,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens an entity at most [default: all; 4 where their number differs].")
    ] = None,
    float32: Annotated[
        bool, typer.Option("--float32", help="Store single precision, even where half is enough.")
    ] = False,
    language: Annotated[str, typer.Option(help="Language of names and texts in RDF.")] = "en",
    skip_malformed: Annotated[
        bool,
        typer.Option(
            "--skip-malformed", help="Leave malformed statements of N-Triples and N-Quads out [default: refuse them]."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Bring triples, names, texts, pictures and features of another layout into a dataset folder, or back."""
    from mmrns.prepare.formats import Chosen, Source, convert

    if features and no_features:
        raise UsageError("give either --features or --no-features")
    given: dict[str, Source] | None = {} if no_features else None
    for assigned in features or []:
        modality, equals, file = assigned.partition("=")
        if not (modality and equals and file) or "/" in modality:
            raise UsageError(f"--features {assigned}: write NAME=FILE, such as image=visual.pth")
        given = {**(given or {}), modality: Source.parse(file)}
    with _progress() as advance:
        done = convert(
            source,
            folder,
            layout=layout,
            target=target,
            columns=None if columns is None else [column.strip() for column in columns.split(",")],
            delimiter=_delimiter(delimiter),
            header=header,
            features=given,
            links=links,
            ids=ids,
            entities=entities or (),
            chosen=Chosen(key, name, text or (), image),
            images=images or (),
            zeros=zeros.value,
            tokens=tokens,
            float32=float32,
            language=language,
            skip_malformed=skip_malformed,
            advance=advance,
        )
    if as_json:
        print_json(_as_json(done))
        return
    _print(done)


def _delimiter(text: str | None) -> str | None:
    if text is None:
        return None
    text = {"\\t": "\t", "tab": "\t"}.get(text, text)
    if len(text) != 1 or not text.isascii():
        raise UsageError(f"--delimiter {text!r}: give one character, or \\t for a tab")
    return text


def _as_json(done: Converted) -> dict[str, Any]:
    return {
        "folder": str(done.folder),
        "from": done.layout,
        "to": done.target,
        "triples": done.triples,
        "entities": done.entities,
        "relations": done.relations,
        "features": done.features,
        "pictures": None if done.pictures is None else dict(zip(("matched", "files"), done.pictures, strict=True)),
        "malformed": done.malformed,
        "left_out": done.left_out,
        "notes": done.notes,
    }


def _print(done: Converted) -> None:
    counts = ", ".join(f"{split} {rows:,}" for split, rows in done.triples.items())
    out.print(
        Text(f"{done.folder}: {done.entities:,} entities, {done.relations:,} relations; triples: {counts}"),
        soft_wrap=True,
    )
    if done.features:
        keys = ("entities", "of", "unmatched", "zero rows", "tokens", "width", "dtype")
        print_rows([{"modality": name, **{key: row[key] for key in keys}} for name, row in done.features.items()])
    for name, row in done.features.items():
        if row["unmatched"]:
            text = f"{name}: {row['unmatched']:,} names match no entity, first: {row['first unmatched']!r}"
            out.print(Text(f"note: {text}"), soft_wrap=True)
        if row["zero tokens"]:
            text = f"{name}: {row['zero tokens']:,} tokens are zeros only, in {row['zero rows']:,} rows all of them"
            out.print(Text(f"note: {text}"), soft_wrap=True)
        if row["repeated"]:
            out.print(
                Text(f"note: {name}: {row['repeated']:,} further rows of the same entities were left out"),
                soft_wrap=True,
            )
        if row["dtype"] == "float32" and row["largest"] > 65504:
            out.print(
                Text(f"note: {name}: values up to {row['largest']:.3g}, too large for half precision"), soft_wrap=True
            )
    if done.pictures is not None:
        matched, files = done.pictures
        out.print(f"{matched:,} of {files:,} pictures belong to an entity")
    for note in done.notes:
        out.print(Text(f"note: {note}"), soft_wrap=True)
    if done.target in ("tsv", "parquet"):
        missing = [split for split in ("valid", "test") if split not in done.triples]
        name = str(done.folder)
        if missing:
            out.print(
                Text(f"no {' and no '.join(missing)} triples: split them next, with mmrns data split {name} DST"),
                soft_wrap=True,
            )
        else:
            out.print(Text(f"next: mmrns data check {name}"), soft_wrap=True)


@contextmanager
def _progress() -> Generator[Callable[[str, int, int | None], None]]:
    """What is being done, silent where there is no terminal."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def advance(what: str, done: int, total: int | None) -> None:
            progress.update(
                task, description=what if total or not done else f"{what} {done:,}", completed=done, total=total
            )

        yield advance
