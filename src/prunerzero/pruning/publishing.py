"""A pruned checkpoint on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from prunerzero.errors import InputError
from prunerzero.pruning.card import CARD
from prunerzero.pruning.checkpoint import RECORD, read_record


def check_publishable(directory: str | Path) -> None:
    """Checks that a directory holds one of our checkpoints, whole and as it was written.

    Raises:
        InputError: It does not; the line says why.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise InputError(f"checkpoint {folder}: no such directory; give one that prune has written")
    if read_record(str(folder)) is None:
        raise InputError(f"checkpoint {folder}: holds no {RECORD}; give one that prune has written")
    missing = [name for name in ("config.json", CARD) if not (folder / name).is_file()]
    if missing or not any(folder.glob("*.safetensors")):
        raise InputError(f"checkpoint {folder}: {(missing or ['*.safetensors'])[0]} is missing")


def push_to_hub(
    directory: str | Path, repository: str, *, private: bool = False, token: str | None = None
) -> str:
    """Uploads a checkpoint that `prune` has written, with its card and its record, in one commit.

    Args:
        directory: the checkpoint.
        repository: hub id, ``owner/name``; made if it is not there.
        private: make a new repository private.
        token: of the hub; None takes the one that ``hf auth login`` has stored.

    Returns:
        The address of the commit.

    Raises:
        InputError: The directory is no checkpoint of ours, or the hub refuses.
    """
    check_publishable(directory)
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        found = api.upload_folder(
            repo_id=repository,
            folder_path=directory,
            commit_message="Pruned with prunerzero",
        )
    except Exception as error:  # the hub and its client fail in many ways, none of them ours
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise InputError(
            f"hub repository '{repository}': {reason}; `hf auth login` stores a token"
        ) from None
    return str(found.commit_url)
