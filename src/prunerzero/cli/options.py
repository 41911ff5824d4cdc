"""Options that several commands share, as dataclasses that a command takes whole.

A command says ``model_options: ModelOptions`` and is decorated with `with_options`; on the command
line each field is an option of its own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

from prunerzero.cli import inputs
from prunerzero.cli.common import (
    AllowPickle,
    Blocks,
    Device,
    Dtype,
    Exclude,
    Include,
    MinCoverage,
    Samples,
    Seed,
    SequenceLength,
)
from prunerzero.models.selection import MIN_COVERAGE, Selection

AllocationBudget = Annotated[
    str,
    typer.Option(
        "--allocation-budget", metavar="TIME", help="To evolve an allocation in: 90s, 10m."
    ),
]


@dataclass(frozen=True)
class RunOptions:
    """How a model is loaded and computed with, and the seed."""

    seed: Seed = 0
    device: Device = None
    dtype: Dtype = None
    allow_pickle: AllowPickle = False

    def source(self, name: str) -> str:
        """The model to load: the one named, or the conversion of its pickle files if allowed.

        Raises:
            InputError: these are damaged, or hold more than tensors.
        """
        return inputs.loadable(name, self.allow_pickle)

    def load(self, name: str) -> tuple[Any, Any]:
        """Loads a model and its tokenizer, with one line on the console.

        Raises:
            InputError: there is no such model, or it cannot be read.
        """
        return inputs.load_quietly(self.source(name), self.device, self.dtype)


@dataclass(frozen=True)
class SelectionOptions:
    """Which blocks and matrices are pruned."""

    blocks: Blocks = ""
    include: Include = field(default_factory=list)
    exclude: Exclude = field(default_factory=list)
    min_coverage: MinCoverage = MIN_COVERAGE

    def selection(self) -> Selection:
        """For the library."""
        return Selection(self.blocks, tuple(self.include), tuple(self.exclude), self.min_coverage)


@dataclass(frozen=True)
class WindowOptions:
    """How much text statistics are gathered on."""

    samples: Samples = 16
    sequence_length: SequenceLength = 512


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command, in place of each parameter that is a dataclass, its fields.

    Args:
        command: takes them by keyword.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    flat: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if not is_dataclass(kind):
            flat.append(parameter.replace(annotation=kind, kind=parameter.KEYWORD_ONLY))
            continue
        groups[name] = kind
        inner = get_type_hints(kind, include_extras=True)
        for one in fields(kind):
            default = one.default if one.default_factory is MISSING else one.default_factory()
            flat.append(
                inspect.Parameter(
                    one.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=default,
                    annotation=inner[one.name],
                )
            )

    @functools.wraps(command)
    def flattened(**given: Any) -> None:
        joined = {
            name: kind(**{one.name: given.pop(one.name) for one in fields(kind)})
            for name, kind in groups.items()
        }
        command(**given, **joined)

    del flattened.__wrapped__  # or its signature would be taken
    flattened.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    flattened.__annotations__ = {one.name: one.annotation for one in flat}
    return flattened
