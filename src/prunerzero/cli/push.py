"""``prunerzero push``: a pruned checkpoint to the Hugging Face hub."""

from __future__ import annotations

from typing import Annotated

import typer

from prunerzero.cli.common import Json, emit, note

EXAMPLES = ("prunerzero push out me/smollm2-pruned-50",)


def command(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="Checkpoint directory, as prune writes it.")
    ],
    repository: Annotated[
        str, typer.Argument(metavar="REPO", help="Hub id, owner/name; made if it is not there.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    json: Json = False,
) -> None:
    """Upload a pruned checkpoint with its card to the Hugging Face hub."""
    from prunerzero.pruning.publishing import check_publishable, push_to_hub

    check_publishable(directory)
    note(f"uploading {directory} to {repository}")
    address = push_to_hub(directory, repository, private=private)
    if json:
        emit({"repository": repository, "commit": address})
    else:
        print(address)
