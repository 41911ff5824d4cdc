"""``prunerzero export``: a pruned checkpoint in fewer bytes, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from prunerzero.cli import inputs
from prunerzero.cli.common import Json, Progress, emit, prepare_output, print_table

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

    read_record(directory)  # raises if it was altered
    with Progress() as progress:
        if format == "packed" and not is_packed(directory):
            inputs.announce(directory)
            from prunerzero.streaming.opening import check_checkpoint

            check_checkpoint(Path(directory), progress)
        run = pack if format == "packed" else unpack
        result = run(Path(directory), target, report=progress)
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
