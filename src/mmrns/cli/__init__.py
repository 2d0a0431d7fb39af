"""The command line. Heavy imports happen inside the commands, so that `--help` is immediate."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import NoReturn

from mmrns.cli.app import app
from mmrns.cli.show import say, show_notes
from mmrns.errors import MmrnsError, UsageError, memory_told
from mmrns.launch import launched

# Importing a command's module registers it; the order is that of `mmrns --help`.
# isort: off
from mmrns.cli import train
from mmrns.cli import use
from mmrns.cli import sees
from mmrns.cli import calibrate
from mmrns.cli import export
from mmrns.cli import push
from mmrns.cli import compare
from mmrns.cli import inspect
from mmrns.cli import explain
from mmrns.cli import serve
from mmrns.cli import data
from mmrns.cli import convert
from mmrns.cli import encode
# isort: on

PARTED = ("train", "evaluate", "predict")
"""The commands that several processes run together, each with some of the entities."""

__all__ = [
    "app",
    "calibrate",
    "compare",
    "convert",
    "data",
    "encode",
    "explain",
    "export",
    "inspect",
    "main",
    "push",
    "sees",
    "serve",
    "train",
    "use",
]


def main() -> NoReturn:
    """Run the command line; errors that a user can mend are one line, without a traceback unless `--debug`."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Left alone where it is ignored, as under nohup.
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        with warnings.catch_warnings(), _little_garbage(), memory_told():
            show_notes()
            _refuse_several(arguments)
            app(arguments, standalone_mode=True)
    except MmrnsError as error:
        if debug:
            traceback.print_exc()
        if str(error) and (error.rank is not None or launched()[0] == 0):
            say(f"mmrns: {error}")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone, as with `| head`.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        # What no command has a word for; an error without a number and a place is one of ours.
        if error.errno is None:
            raise
        if debug:
            traceback.print_exc()
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        say(f"mmrns: {place}{os.strerror(error.errno)}; --debug shows where")
        sys.exit(1)
    sys.exit(0)


def _refuse_several(arguments: list[str]) -> None:
    """Refuse to run a command by several processes that they would each run alone.

    Raises:
        UsageError: `torchrun` has started several of them.
    """
    command = next((word for word in arguments if not word.startswith("-")), None)
    if launched()[1] > 1 and command is not None and command not in PARTED:
        commands = ", ".join(PARTED)
        raise UsageError(f"{command} is not for several processes, as {commands} are; start it once, without torchrun")


@contextmanager
def _little_garbage() -> Generator[None]:
    """Inside, and when the program ends, garbage is looked for less often.

    What importing torch makes stays, and to look for garbage among it takes a third of a second of a short command.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, *before[1:])
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _end(number: int, frame: object) -> NoReturn:
    """End by a signal as by an error, so that nothing is left behind."""
    if launched()[0] == 0:  # What ends one of several processes ends all of them.
        os.write(2, f"mmrns: ended by {signal.Signals(number).name}\n".encode())
    sys.exit(128 + number)
