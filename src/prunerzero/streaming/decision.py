"""Whether a model is streamed where the user leaves that open; decided without torch."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from prunerzero.evolution.settings import STREAMED
from prunerzero.models.names import converted_directory, gguf_file
from prunerzero.streaming.journal import Journal, work_directory
from prunerzero.streaming.memory import available_memory
from prunerzero.study import Study

# Pruning in memory takes the weights and about as much again for scores, statistics and states; a
# search a dense copy more, and statistics of all matrices at once.
_PORTIONS = {2: "half", 4: "a quarter"}


def reason_to_stream(model: str, output: Path) -> str | None:
    """Why a run should be streamed, in one line; None if it should not be.

    Args:
        model: the model's name, checked.
        output: the directory to make.
    """
    work = work_directory(output)
    if Journal(work).exists():
        return f"streaming: going on with {work}"
    return _short_memory(model, 2)


def reason_to_search_streamed(model: str, study: Path) -> str | None:
    """Why a search should be streamed, in one line; None if it should not be.

    Args:
        model: the model's name, checked.
        study: the study's file; one that exists goes on as it was begun.
    """
    if not os.path.exists(study):  # `Path` raises for names that are too long
        return _short_memory(model, 4)
    with Study.open(study) as opened:
        streamed = str(opened.settings.get("compute", "")).endswith(STREAMED)
    return f"streaming: going on with {study}" if streamed else None


def _short_memory(model: str, portion: int) -> str | None:
    """Says if the weights are more than a half (2), a third (3)... of the free memory."""
    free, weights = available_memory(), weight_bytes(model)
    if free is None or weights is None or weights * portion <= free:
        return None
    return (
        f"streaming: the weights are {weights / 1e9:.1f} GB, more than {_PORTIONS[portion]} of the "
        f"{free / 1e9:.1f} GB of free memory; --no-stream loads them whole"
    )


def weight_bytes(model: str) -> int | None:
    """Bytes of a model's safetensors files, or None where that is not known at once."""
    gguf = gguf_file(model)
    directory = converted_directory(gguf) if gguf is not None else Path(model)
    if not directory.is_dir():
        if gguf is not None:
            return None  # converting it loads it whole in any case
        cached = _cached(model)
        if cached is None:
            return _on_hub(model)
        directory = cached
    return sum(file.stat().st_size for file in directory.glob("*.safetensors")) or None


def _cached(model: str) -> Path | None:
    from huggingface_hub import snapshot_download

    with suppress(Exception):  # as many kinds as there are ways of not having it
        found = Path(snapshot_download(model, local_files_only=True))
        if any(found.glob("*.safetensors")):
            return found
    return None


def _on_hub(model: str) -> int | None:
    from huggingface_hub import HfApi

    from prunerzero.models.hub import TIMEOUT

    with suppress(Exception):  # loading will say what is wrong
        files = HfApi().model_info(model, timeout=TIMEOUT, files_metadata=True).siblings or []
        sizes = [file.size or 0 for file in files if file.rfilename.endswith(".safetensors")]
        return sum(sizes) or None
    return None
