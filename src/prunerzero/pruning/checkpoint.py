"""A pruned model on disk: a Hugging Face checkpoint, the record of how it was made, and a card."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from prunerzero import __version__
from prunerzero.data.sources import evaluation_documents
from prunerzero.errors import InputError, first_line
from prunerzero.files import atomic_directory, json_text, read_json, require_space, write_json
from prunerzero.packing.checkpoint import SHARDED, SINGLE, DenseCheckpoint, copy_others
from prunerzero.packing.shards import write_weight_map, written
from prunerzero.packing.weightfile import TensorInfo
from prunerzero.progress import silent
from prunerzero.pruning.card import CARD, model_card

if TYPE_CHECKING:
    from prunerzero.pruning.pruner import PruneResult

RECORD = "pruning.json"
FORMAT = 1
CHECKSUM = "sha256"  # of all else in the record
USUAL_SHARD = 5 * 10**9  # bytes


def save_checkpoint(
    model: Any, tokenizer: Any, result: PruneResult, directory: str | Path, source: str
) -> None:
    """Writes a pruned model, its tokenizer, ``pruning.json`` and a card, atomically.

    The checkpoint is dense: pruned weights are stored as ``+0.0``, which every engine loads. It is
    sharded as the model's own checkpoint, and what else that holds (a licence, say) is copied.

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
                shard_as(files, temporary)
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


def require_room(model: Any, directory: str | Path, source: str | Path) -> None:
    """Makes sure that a model can be saved, before anything is done for it.

    Args:
        model: the causal LM, in memory.
        directory: to be made.
        source: what it was loaded from; its tensors will go into files like those there, for which
            they are copied once (`shard_as`).

    Raises:
        InputError: too little disk space.
    """
    from prunerzero.models.hub import local_files

    weights = sum(parameter.nbytes for parameter in model.parameters())
    files = local_files(str(source))
    held = _files_of(files) if files is not None else None
    copied = held is not None and (held != {SINGLE} or weights > USUAL_SHARD)
    require_space(directory, weights, weights if copied else 0)


def _files_of(source: Path) -> set[str] | None:
    """Names of a checkpoint's weight files; None where they are packed, or pickle files."""
    try:
        return {file.path.name for file in DenseCheckpoint.open(source).tensors.values()}
    except InputError:
        return None


def shard_as(source: Path, directory: Path) -> None:
    """Puts the tensors of a saved checkpoint into the files that they were in before.

    Transformers spreads the tensors of a model that it has loaded in another order.

    Args:
        source: the checkpoint that the model was loaded from.
        directory: the one that was saved.
    """
    try:
        before = DenseCheckpoint.open(source)
    except InputError:  # packed, or pickle files
        return
    saved = DenseCheckpoint.open(directory)
    places = {info.name: file.path.name for info, file in before.tensors.items()}
    files: defaultdict[str, list[TensorInfo]] = defaultdict(list)
    place = next(iter(places.values()))
    for info in saved.tensors:
        place = places.get(info.name, place)  # one that is new stays with its neighbour
        files[place].append(info)
    olds = {file.path for file in saved.tensors.values()}
    if {path.name for path in olds} == {SINGLE} == files.keys():
        return
    with TemporaryDirectory(prefix=".shards-", dir=directory) as scratch:
        for writer, info in written(Path(scratch), files, ("",), silent):
            writer.add(info.name, info.dtype, info.shape, saved.read(info))
        for path in olds:
            path.unlink()
        for name in files:
            os.replace(Path(scratch) / name, directory / name)
    (directory / SHARDED).unlink(missing_ok=True)
    if files.keys() != {SINGLE}:
        write_weight_map(directory, files)


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
