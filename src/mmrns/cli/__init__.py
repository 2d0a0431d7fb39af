"""The command line. Heavy imports happen inside the commands, so that `--help` is immediate."""

from __future__ import annotations

import sys
import traceback
import warnings
from typing import NoReturn

from mmrns.cli.app import app
from mmrns.cli.show import say, show_notes
from mmrns.errors import MmrnsError

# Importing a command's module registers it; the order is that of `mmrns --help`.
# isort: off
from mmrns.cli import train
from mmrns.cli import use
from mmrns.cli import compare
from mmrns.cli import inspect
from mmrns.cli import data
from mmrns.cli import convert
from mmrns.cli import encode
# isort: on

__all__ = ["app", "compare", "convert", "data", "encode", "inspect", "main", "train", "use"]


def main() -> NoReturn:
    """Run the command line; errors that a user can mend are one line, without a traceback unless `--debug`."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    try:
        with warnings.catch_warnings():
            show_notes()
            app(arguments, standalone_mode=True)
    except MmrnsError as error:
        if debug:
            traceback.print_exc()
        say(f"mmrns: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone, as with `| head`.
        sys.stderr.close()
        sys.exit(0)
    sys.exit(0)
