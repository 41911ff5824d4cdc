"""``prunerzero assets``: the demo model and texts."""

from __future__ import annotations

from typing import Annotated

import typer

from prunerzero.cli.common import DefaultGroup, Json, emit, note, print_table

EXAMPLES = (
    "prunerzero assets",
    "prunerzero assets fetch",
    "prunerzero assets fetch smollm2 wikipedia",
)


class _Group(DefaultGroup):
    default = "list"


command = typer.Typer(cls=_Group, help="List and fetch the demo model and texts.")


@command.command("list")
def list_assets(json: Json = False) -> None:
    """List the assets: what is there, licence, size (the default subcommand)."""
    from dataclasses import asdict

    from prunerzero.data import assets

    entries = assets.status()
    if json:
        emit([asdict(entry) for entry in entries])
        return
    print_table(
        ("name", "here", "MB", "licence", "from", "what"),
        [
            (
                entry.name,
                "yes" if entry.present else "no",
                round(entry.bytes / 1e6, 1),
                entry.licence,
                entry.origin,
                entry.description,
            )
            for entry in entries
        ],
    )
    if not all(entry.present for entry in entries):
        print(f"\nget what is missing with: {assets.FETCH_COMMAND}")


@command.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Which; default: all.")
    ] = None,
    json: Json = False,
) -> None:
    """Download what is missing, and check all."""
    from prunerzero.data import assets

    fetched = assets.fetch(names or None, progress=note)
    if json:
        emit({"fetched": fetched})
    else:
        note(f"{len(fetched)} assets fetched; all that were asked for are here")
