import inspect
from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from prunerzero.cli.options import RunOptions, SelectionOptions, with_options
from prunerzero.models.selection import Selection


@dataclass(frozen=True)
class Colour:
    red: Annotated[int, typer.Option("--red", help="How red.")] = 3


def test_fields_become_options_and_come_back_as_objects():
    seen = []

    @with_options
    def command(*, name: str, colour: Colour, run: RunOptions, size: int = 2) -> None:
        """Does it."""
        seen.append((name, colour, run, size))

    assert list(inspect.signature(command).parameters) == [
        "name", "red", "seed", "device", "dtype", "allow_pickle", "size",
    ]  # fmt: skip
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, ["it", "--red", "7", "--seed", "5"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["that"])
    assert seen == [
        ("it", Colour(7), RunOptions(seed=5), 2),
        ("that", Colour(3), RunOptions(), 2),
    ]
    assert command.__doc__ == "Does it."


def test_lists_are_not_shared_between_calls():
    seen = []

    @with_options
    def command(*, selected: SelectionOptions) -> None:
        seen.append(selected.selection())

    app = typer.Typer()
    app.command()(command)
    for arguments in (["--include", "a", "--include", "b"], []):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert seen == [Selection("", ("a", "b"), (), 0.9), Selection("", (), (), 0.9)]
