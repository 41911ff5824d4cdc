"""A pruned model on disk: a Hugging Face checkpoint, the record of how it was made, and a card."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunerzero import __version__
from prunerzero.data.sources import evaluation_documents
from prunerzero.errors import InputError, first_line
from prunerzero.files import atomic_directory, json_text, read_json, write_json
from prunerzero.packing.checkpoint import copy_others
from prunerzero.pruning.card import CARD, model_card
from prunerzero.pruning.shards import USUAL_SHARD, shard_as

if TYPE_CHECKING:
    from prunerzero.pruning.pruner import PruneResult

RECORD = "pruning.json"
FORMAT = 1
CHECKSUM = "sha256"  # of all else in the record


def save_checkpoint(
    model: Any, tokenizer: Any, result: PruneResult, directory: str | Path, source: str
) -> None:
    """Writes a pruned model, its tokenizer, ``pruning.json`` and a card, atomically.

    The checkpoint is dense: pruned weights are stored as ``+0.0``, which every engine loads. It is
    sharded as the model's own checkpoint, every tensor has its type there, whatever type the model
    was loaded in, and what else that holds (a licence, say) is copied.

    Args:
        model: the pruned model.
        tokenizer: its tokenizer, or None.
        result: what `prunerzero.prune` returned.
        directory: must not exist, or be empty.
        source: the model's name as the user gave it.

    Raises:
        InputError: if the directory cannot be written.
    """
    from safetensors import SafetensorError

    from prunerzero.models.hub import local_files

    files = local_files(source)
    try:
        with atomic_directory(directory) as temporary:
            if files is not None:
                copy_others(files, temporary)
            model.save_pretrained(temporary, max_shard_size=USUAL_SHARD)
            if files is not None:
                shard_as(files, temporary, types=True)
            if tokenizer is not None:
                tokenizer.save_pretrained(temporary)
            write_record(temporary, result, source)
    except SafetensorError as error:  # its way to say that the disk is full
        raise InputError(f"{directory}: cannot be written ({error})") from None
    except Exception as error:
        if "(os error " not in str(error):  # the same of the tokenizers' library
            raise
        raise InputError(f"{directory}: cannot be written ({error})") from None


def check_savable(model: Any) -> None:
    """Finds a configuration that transformers runs but would refuse to write at the very end.

    Raises:
        InputError: naming what it says.
    """
    try:
        model.config.validate()
    except Exception as error:  # of their validators' own kinds
        raise InputError(
            f"model '{model.name_or_path}': its config.json cannot be written again: "
            f"{first_line(error)}"
        ) from error


def write_record(directory: Path, result: PruneResult, source: str) -> None:
    """Writes ``pruning.json`` and the model card."""
    document = record(result, source)
    write_json(directory / RECORD, sealed(document))
    (directory / CARD).write_text(model_card(document), encoding="utf-8")


def write_finetuned_record(
    directory: Path, record: Mapping[str, Any], finetuning: Mapping[str, Any]
) -> None:
    """Writes the record and the card of a checkpoint that was fine-tuned after it was pruned.

    Args:
        directory: the fine-tuned checkpoint.
        record: what `read_record` gave of the pruned one.
        finetuning: what was done, with the hashes of the ``documents`` that it was trained on.
    """
    document = {**record, "finetuning": [*record.get("finetuning", []), finetuning]}
    write_json(directory / RECORD, sealed(document))
    (directory / CARD).write_text(model_card(document), encoding="utf-8")


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """A record with its checksum."""
    return document | {CHECKSUM: _digest(document)}


def record(result: PruneResult, source: str) -> dict[str, Any]:
    """The content of ``pruning.json``."""
    import torch
    import transformers

    return {
        "format": FORMAT,
        "model": source,
        "model_seen": sorted(seen_documents(source)),
        **result.to_json(),
        "versions": {
            "prunerzero": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def seen_documents(model: str) -> frozenset[str]:
    """Hashes of the documents that a checkpoint was calibrated, selected or fine-tuned on.

    Args:
        model: a model's name as a user gives it; anything but one of our checkpoints saw nothing
            that we know of.

    Raises:
        InputError: if the directory's ``pruning.json`` is not one of ours.
    """
    document = read_record(model)
    if document is None:
        return frozenset()
    try:
        settings = document["settings"]
        recipe = settings["recipe"]
        uses = [settings["calibration"], *recipe.get("provenance", {}).get("texts", [])]
        uses += document.get("finetuning", [])
        seen = frozenset(name for use in uses if use for name in use["documents"])
        return seen.union(document["model_seen"])
    except (KeyError, TypeError, AttributeError):
        raise _foreign(model) from None


def refuse_seen(text: str | Path, seen: Collection[str]) -> None:
    """Checks that a text can be evaluated on, and honestly.

    Args:
        text: a text source by name or path.
        seen: hashes of documents that the model was calibrated or selected on.

    Raises:
        InputError: if the text is unusable, or holds one of these documents.
    """
    overlap = sum(
        not frozenset(document.hashes).isdisjoint(seen) for document in evaluation_documents(text)
    )
    if overlap:
        raise InputError(
            f"text '{text}': the model was calibrated or selected on {overlap} of its documents, "
            "so its perplexity there would be flattering; evaluate on another text"
        )


def pruned_from(model: str) -> tuple[str, dict[str, Any]] | None:
    """The dense model that a checkpoint was pruned from, and the settings of that run.

    Args:
        model: a model's name as a user gives it.

    Returns:
        None for anything but one of our checkpoints.

    Raises:
        InputError: if the directory's ``pruning.json`` is not one of ours.
    """
    document = read_record(model)
    if document is None:
        return None
    try:
        return str(document["model"]), dict(document["settings"])
    except (KeyError, TypeError, ValueError):
        raise _foreign(model) from None


def read_record(model: str) -> dict[str, Any] | None:
    """The record of a checkpoint.

    Args:
        model: a model's name as a user gives it.

    Returns:
        None for anything but one of our checkpoints.

    Raises:
        InputError: if the directory's ``pruning.json`` is too large, altered, or not one of ours.
    """
    path = Path(model) / RECORD
    if not path.is_file():
        return None
    document = read_json(path, "pruning record")
    if not isinstance(document, dict) or document.pop(CHECKSUM, None) != _digest(document):
        raise _foreign(model)
    return document


def _digest(document: dict[str, Any]) -> str:
    plain = json.loads(json_text(document))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _foreign(model: str) -> InputError:
    path = Path(model) / RECORD
    return InputError(
        f"pruning record {path}: not written by prunerzero, or altered (its checksum differs); "
        "prune again"
    )
