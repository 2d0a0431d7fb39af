"""The application that every command registers with."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

app = typer.Typer(
    name="mmrns",
    help="Complete multimodal knowledge graphs, trained with relation-enhanced negative sampling.",
    epilog="Start with: mmrns train --dataset countries",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> bool:
    if asked:
        from mmrns import __version__

        sys.stdout.write(f"mmrns {__version__}\n")
        raise typer.Exit
    return asked


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""
