"""`mmrns data ...`: datasets."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from mmrns.cli.app import app
from mmrns.cli.show import Text, err, out, print_json, print_rows
from mmrns.errors import UsageError

data_app = typer.Typer(help="List, get, check, split datasets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@data_app.command("list", epilog="Example: mmrns data list")
def data_list(as_json: JsonOption = False) -> None:
    """The datasets that a name finds, and those that `mmrns data get` knows."""
    from dataclasses import asdict

    from mmrns.data.folders import EMBEDDED, dataset_folders
    from mmrns.prepare.catalogue import catalogue

    folders, known = dataset_folders(), catalogue()
    places = {name: "embedded" if name in EMBEDDED else str(folder) for name, folder in folders.items()}
    names = [*folders, *(name for name in known if name not in folders)]
    if as_json:
        print_json([{"name": n, "where": places.get(n), **(asdict(known[n]) if n in known else {})} for n in names])
        return
    counts = ("entities", "relations", "train", "valid", "test")
    print_rows(
        [
            {
                "name": name,
                **{count: getattr(known[name], count) if name in known else None for count in counts},
                "where": places.get(name),
            }
            for name in names
        ]
    )
    out.print("Those without a place: mmrns data get NAME.")
    for name in names:
        for defect in known[name].defects if name in known else ():
            out.print(Text(f"{name}: {defect}"), soft_wrap=True)


@data_app.command("describe", epilog="Example: mmrns data describe countries")
def data_describe(
    dataset: Annotated[str, typer.Argument(help="Dataset name or folder.")], as_json: JsonOption = False
) -> None:
    """Counts, coverage of the modalities, and what to know before training."""
    from mmrns.data.datasets import describe, load_dataset

    found = describe(load_dataset(dataset))
    if as_json:
        print_json(found)
        return
    out.print(Text(f"{found['name']}  ({found['folder']})"), soft_wrap=True)
    out.print(f"{found['entities']:,} entities, {found['relations']:,} relations")
    print_rows([{"split": split, **row} for split, row in found["triples"].items()])
    if found["features"]:
        print_rows([{"modality": name, **row} for name, row in found["features"].items()])
    else:
        out.print("no features")
    for note in found["notes"]:
        out.print(Text(f"note: {note}"), soft_wrap=True)


@data_app.command("check", epilog="Example: mmrns data check countries")
def data_check(
    dataset: Annotated[str, typer.Argument(help="Dataset name or folder.")],
    limit: Annotated[int, typer.Option(min=1, help="Problems of one kind in one file to list.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Everything that is wrong with a dataset, by file and line; exit code 1 where it is not fit to train on.

    Errors are what loading refuses, and rows of valid or test that are also rows of train. Warnings are probably
    mistakes. Notes are worth knowing.
    """
    from mmrns.data.folders import find_dataset
    from mmrns.prepare.check import check_dataset

    found = check_dataset(find_dataset(dataset), limit)
    if as_json:
        print_json(found)
    else:
        _print_check(found)
    if found["errors"]:
        raise typer.Exit(1)


def _print_check(found: dict[str, Any]) -> None:
    out.print(Text(f"{found['name']}  ({found['folder']})"), soft_wrap=True)
    out.print(f"{found['entities']:,} entities, {found['relations']:,} relations")
    print_rows([{"split": split, **row} for split, row in found["triples"].items()])
    if found["features"]:
        columns = ("rows", "tokens", "width", "entities", "coverage", "unmatched")
        print_rows([{"modality": name, **{c: row[c] for c in columns}} for name, row in found["features"].items()])
    styles = {"error": "bold red", "warning": "yellow", "note": "dim"}
    for severity, style in styles.items():
        rests = [rest for rest in found["more"] if rest["severity"] == severity]
        for problem in found["problems"]:
            if problem["severity"] != severity:
                continue
            place = problem["file"] + (f":{problem['line']}" if problem["line"] is not None else "")
            text = f"{place}: {problem['message']}; {problem['remedy']}"
            out.print(Text.assemble((severity, style), " ", text), soft_wrap=True)
        for rest in rests:
            text = f"{rest['file']}: {rest['count']:,} more of the kind `{rest['code']}`"
            out.print(Text.assemble((severity, style), " ", text), soft_wrap=True)
    errors = found["errors"]
    out.print(f"{errors:,} error{'s' * (errors != 1)}" if errors else "no errors")


@data_app.command("split", epilog="Example: mmrns data split DB15K DB15K-clean --repair --valid 4000")
def data_split(
    source: Annotated[str, typer.Argument(help="Dataset name, folder, or a file of triples.")],
    target: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
    valid: Annotated[
        str | None,
        typer.Option(
            help="Rows for valid: a count, or a share below 1 [default: 0.1 or what can be; with --repair none]."
        ),
    ] = None,
    test: Annotated[
        str | None, typer.Option(help="Rows for test: a count, or a share below 1 [default: the same].")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the random order.")] = 0,
    random: Annotated[
        bool, typer.Option("--random", help="Draw rows uniformly, whatever train then gives away or lacks.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Keep test; drop rows of train and valid that leak; fill valid up to --valid from train."
        ),
    ] = False,
    core: Annotated[
        int,
        typer.Option("--k-core", min=0, metavar="K", help="First drop entities of fewer than K triples, repeatedly."),
    ] = 0,
    new_entities: Annotated[
        str | None,
        typer.Option(
            "--new-entities",
            metavar="N",
            help="Entities to hold back from train with all their triples, half for valid and half for test: a count, "
            "or a share below 1. --valid and --test are of the other triples.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Split a dataset anew, without leakage: triples of the same two entities stay together, train covers every name.

    Names, features and pictures come along; dataset.json records how the split was made.
    """
    from mmrns.data.folders import find_dataset
    from mmrns.prepare.split import split_dataset

    found = split_dataset(
        Path(source) if Path(source).is_file() else find_dataset(source),
        target,
        valid=_amount("--valid", valid),
        test=_amount("--test", test),
        seed=seed,
        leakage_free=not random,
        repair=repair,
        core=core,
        new_entities=_amount("--new-entities", new_entities, "entities") or 0,
    )
    if as_json:
        print_json(found)
        return
    for note in found["split"].get("notes", ()):
        out.print(Text(f"note: {note}"), soft_wrap=True)
    for change in found["split"].get("changes", ()):
        to = f"moved to {change['to']}" if change["to"] else "dropped"
        out.print(f"{change['rows']:,} rows of {change['from']} {to}: {change['reason']}")
    counts = ", ".join(f"{count:,} {what}" for what, count in found["counts"].items())
    out.print(Text(f"{target}: {counts}"), soft_wrap=True)
    if new := found["split"].get("new_entities"):
        out.print(f"train lacks {new['valid']:,} entities of valid and {new['test']:,} of test")
    if not found["counts"]["valid"]:
        remedy = "--valid N fills it from train" if repair else "--valid N gives it so many rows"
        err.print(f"valid is empty, and a model is selected on it: {remedy}")


def _amount(option: str, text: str | None, of: str = "rows") -> int | float | None:
    """A count, or a share below 1."""
    if text is None:
        return None
    try:
        amount = float(text) if "." in text else int(text)
    except ValueError:
        amount = -1
    if not (0 <= amount < 1 or (isinstance(amount, int) and amount >= 0)):
        raise UsageError(f"{option} {text}: give a number of {of}, such as 500, or a share below 1, such as 0.1")
    return amount


@data_app.command("get", epilog="Example: mmrns data get FB15k-237")
def data_get(
    name: Annotated[str, typer.Argument(help="Name of a dataset that `mmrns data list` knows.")],
    source: Annotated[
        str | None, typer.Option("--from", metavar="FILE|FOLDER|URL", help="Where to take it from instead.")
    ] = None,
) -> None:
    """Bring a named dataset into the cache, where its name finds it: download, check, unpack, count its rows.

    A download that broke off is continued. Datasets without a direct link say what to fetch by hand; --from then takes
    the archive or folder.
    """
    from mmrns.data.folders import dataset_folders
    from mmrns.prepare.catalogue import entry
    from mmrns.prepare.download import get_dataset, triples_digest

    wanted = entry(name)
    here = dataset_folders().get(name)
    if here is not None:
        err.print(Text(f"{name} is here already"), soft_wrap=True)
    else:
        with _download_bar(name) as progress:
            here = get_dataset(wanted, source, progress)
    out.print(Text(f"{here}"), soft_wrap=True)
    if wanted.triples is not None and triples_digest(here) != wanted.triples:
        message = f"{name}: its triples are not those that are known by this name, or their names are spelt otherwise"
        err.print(Text(message), soft_wrap=True)
    for defect in wanted.defects:
        err.print(Text(f"{name}: {defect}"), soft_wrap=True)


@contextmanager
def _download_bar(label: str) -> Generator[Callable[[int, int | None], None]]:
    """A progress bar in bytes on the terminal, silent elsewhere."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
