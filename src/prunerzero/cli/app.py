"""Assembles the commands, and turns exceptions into exit codes.

A module of this package that has a ``command`` (a function, or a Typer app with subcommands) is
the command of its name; adding the file registers it. These modules are all imported for
``--help``, so they import torch and the like only inside the command.
"""

from __future__ import annotations

import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from prunerzero import __version__, cli
from prunerzero.cli.stopping import INTERRUPTED, stoppable, tell
from prunerzero.errors import PrunerZeroError
from prunerzero.openmp import wait_patiently

_PROGRAM = "prunerzero"
_FRAMES = 6


def build() -> typer.Typer:
    """The application with every command of this package."""
    app = typer.Typer(
        name=_PROGRAM, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    app.callback()(_options)
    for module in pkgutil.iter_modules(cli.__path__):
        if module.name == "app":
            continue
        command = getattr(import_module(f"{cli.__name__}.{module.name}"), "command", None)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=module.name)
        elif command is not None:
            app.command(name=module.name)(command)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Without the program's name; None for those of the process.

    Returns:
        The exit code: 0 done, 1 a fault of ours, 2 wrong usage or input or a full disk,
        130 interrupted.
    """
    wait_patiently()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not sys.stderr.isatty():
        # tqdm reads this when it is imported. On a terminal a download of gigabytes should show.
        os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        # Without standalone mode typer leaves exceptions to us and returns an Exit's code.
        with stoppable(_PROGRAM, arguments):
            code = build()(args=arguments, prog_name=_PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except (PrunerZeroError, typer.TyperException) as error:
        return _refuse(error)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader left (`prunerzero metrics | head -1`); Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _confess(error)
    if code == INTERRUPTED:  # also what typer makes of a KeyboardInterrupt
        tell(_PROGRAM, arguments)
    return code if isinstance(code, int) else 0


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"{_PROGRAM} {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None:
    """Search, apply and compare pruning metrics of language models."""


def _refuse(error: PrunerZeroError | typer.TyperException) -> int:
    message = str(error)
    if isinstance(error, typer.TyperException):
        message = error.format_message().replace("Value error, ", "").rstrip(".")
        context = getattr(error, "ctx", None)
        if context is not None:
            message += f"; see '{context.command_path} --help'"
    print(f"{_PROGRAM}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _confess(error: Exception) -> int:
    lines = traceback.format_exception(error, limit=-_FRAMES)
    print("".join(lines).rstrip(), file=sys.stderr)
    print(
        f"{_PROGRAM}: this is a fault of ours, not of your input; "
        "please report it with the lines above",
        file=sys.stderr,
    )
    return 1
