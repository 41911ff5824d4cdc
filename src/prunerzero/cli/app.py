"""Assembles the commands, and turns exceptions into exit codes.

A module of this package that has a ``command`` (a function, or a Typer app with subcommands) is
the command of its name; adding the file registers it. These modules are all imported for
``--help``, so they import torch and the like only inside the command.
"""

from __future__ import annotations

import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from prunerzero import __version__, cli
from prunerzero.cli.help import Command, Group, for_command, is_verbose
from prunerzero.cli.stopping import INTERRUPTED, stoppable, tell
from prunerzero.errors import PrunerZeroError
from prunerzero.openmp import wait_patiently
from prunerzero.suggestions import did_you_mean

_PROGRAM = "prunerzero"
_FRAMES = 6
_COMPLETION = f"_{_PROGRAM.upper()}_COMPLETE"  # set by the shell while it asks for completions
_EXAMPLES = (
    "prunerzero assets fetch",
    "prunerzero search smollm2 --pattern 50% --budget 2m --study s.db",
    "prunerzero prune smollm2 --recipe s.best.json --pattern 50% --output out",
    "prunerzero evaluate out --text openwebtext",
)


def build() -> typer.Typer:
    """The application with every command of this package."""
    app = typer.Typer(
        name=_PROGRAM,
        cls=Group,
        epilog="\n".join(_EXAMPLES),
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_options)
    for module in pkgutil.iter_modules(cli.__path__):
        if module.name == "app":
            continue
        found = import_module(f"{cli.__name__}.{module.name}")
        command = getattr(found, "command", None)
        examples = getattr(found, "EXAMPLES", ())
        path = f"{_PROGRAM} {module.name}"
        if isinstance(command, typer.Typer):
            for each in command.registered_commands:
                assert each.callback is not None
                each.cls, name = Command, each.name or each.callback.__name__
                each.epilog = for_command(examples, f"{path} {name}")
            app.add_typer(command, name=module.name, epilog="\n".join(examples))
        elif command is not None:
            app.command(module.name, cls=Command, epilog=for_command(examples, path))(command)
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
    if _COMPLETION in os.environ:
        build()(prog_name=_PROGRAM)  # answers the shell, and exits
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
    if is_verbose():
        traceback.print_exception(error)
    if isinstance(error, typer.TyperException):
        message = _with_hint(error.format_message().replace("Value error, ", "").rstrip("."))
        context = getattr(error, "ctx", None)
        if context is not None:
            message += f"; see '{context.command_path} --help'"
    print(f"{_PROGRAM}: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _with_hint(message: str) -> str:
    """Typer's message with the name that was probably meant, where it lists names."""
    choice = re.fullmatch(r"(.*'([^']*)' is not one of )('.*')", message)
    if choice:
        names = re.findall(r"'([^']*)'", choice[3])
        return message + did_you_mean(choice[2], names)
    option = re.fullmatch(r"(No such option: (\S+)) \(Possible options: (.*)\)", message)
    if option:
        return option[1] + (did_you_mean(option[2], option[3].split(", ")) or f" ({option[3]}?)")
    return re.sub(r"'\. Did you mean (.*)$", r"'; did you mean \1", message)


def _confess(error: Exception) -> int:
    lines = traceback.format_exception(error, limit=-_FRAMES)
    print("".join(lines).rstrip(), file=sys.stderr)
    print(
        f"{_PROGRAM}: this is a fault of ours, not of your input; "
        "please report it with the lines above",
        file=sys.stderr,
    )
    return 1
