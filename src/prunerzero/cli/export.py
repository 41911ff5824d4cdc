"""``prunerzero export``: a pruned checkpoint in fewer bytes, and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from prunerzero.cli import inputs
from prunerzero.cli.common import Json, Progress, emit, prepare_output, print_table
from prunerzero.errors import InputError

if TYPE_CHECKING:
    from prunerzero.packing.pack import Check

EXAMPLES = (
    "prunerzero export out --output packed",
    "prunerzero export packed --output dense --format dense",
)


def command(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="Checkpoint directory, as prune writes it.")
    ],
    output: Annotated[str, typer.Option("--output", help="Directory to make.")],
    format: Annotated[
        Literal["packed", "dense"],
        typer.Option("--format", help="packed, or dense again from a packed directory."),
    ] = "packed",
    json: Json = False,
) -> None:
    """Store a pruned checkpoint in fewer bytes, exactly, or restore it."""
    target = prepare_output(output)
    from prunerzero.packing.index import is_packed
    from prunerzero.packing.pack import pack
    from prunerzero.packing.unpack import unpack
    from prunerzero.pruning.checkpoint import read_record

    if not os.path.isdir(directory):
        raise InputError(f"checkpoint {directory}: no such directory")
    read_record(directory)  # raises if it was altered
    with Progress() as progress:
        if format == "dense":
            if is_packed(directory):  # else it says so itself
                _checked(directory)
            result = unpack(Path(directory), target, report=progress)
        else:
            check = None if is_packed(directory) else _checked(directory)
            result = pack(Path(directory), target, check=check, report=progress)
    document = {
        "format": format,
        "bytes": result.nbytes,
        "dense_bytes": result.dense_nbytes,
        "ratio": result.ratio,
        "tensors": result.tensors,
        "output": target,
    }
    if json:
        emit(document)
        return
    rows = [
        ("format", format),
        ("bytes", f"{result.nbytes:,}"),
        ("dense bytes", f"{result.dense_nbytes:,}"),
        ("ratio", f"{result.ratio:.2%}"),
        ("tensors", ", ".join(f"{count} {name}" for name, count in result.tensors.items())),
        ("saved in", target),
    ]
    print_table(("", ""), rows)


def _checked(directory: str) -> Check:
    """Compares a checkpoint with its configuration; gives what checks its values."""
    inputs.announce(directory)
    from prunerzero.streaming.opening import check_checkpoint
    from prunerzero.streaming.source import refuse_not_finite

    check_checkpoint(Path(directory))
    return refuse_not_finite
