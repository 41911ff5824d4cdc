"""What every command has beside its own options: examples in its help, and ``--verbose``."""

from __future__ import annotations

import logging
import os
import sys
from functools import lru_cache
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

LOGGER = "prunerzero"


def is_verbose() -> bool:
    """Whether ``--verbose`` was given."""
    return logging.getLogger(LOGGER).isEnabledFor(logging.INFO)


@lru_cache(maxsize=1)
def _verbose() -> Any:
    """The parsed form of the option, from a command that has nothing else."""

    def carrier(verbose: Verbose = False) -> None:
        pass

    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(carrier)
    return typer.main.get_command(app).params[0]


def _speak_up(wanted: bool) -> None:
    if not wanted:
        return
    os.environ["TRANSFORMERS_VERBOSITY"] = "info"
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)


Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        expose_value=False,
        callback=_speak_up,
        help="Tell more on stderr, and where errors come from.",
    ),
]


class _Parts:
    """Adds the option and the examples to a command or a group."""

    epilog: str | None

    def get_params(self, ctx: Any) -> Any:
        """The command's parameters and ours, before ``--help``."""
        *params, last = super().get_params(ctx)  # type: ignore[misc]
        return [*params, _verbose(), last]

    def format_epilog(self, _ctx: Any, formatter: Any) -> None:
        """Writes the examples, a line each, whatever the terminal's width."""
        mine = [line for line in (self.epilog or "").splitlines() if line]
        if mine:
            with formatter.section("Examples"):
                for line in mine:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")


class Command(_Parts, TyperCommand):
    """A command."""


class Group(_Parts, TyperGroup):
    """A command with subcommands."""


def for_command(examples: tuple[str, ...], path: str) -> str:
    """The examples of a command among those of its file, as an epilog."""
    words = f"{path} "
    return "\n".join(line for line in examples if f"{line} ".startswith(words))
