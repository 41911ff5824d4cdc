"""The token windows a pruning run is calibrated on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from prunerzero.data import written
from prunerzero.data.sources import is_named, load_documents
from prunerzero.data.splits import Split
from prunerzero.data.windows import Windows, check_length, sample_windows
from prunerzero.errors import InputError
from prunerzero.models.compute import compute_for
from prunerzero.models.loading import context_limit
from prunerzero.progress import Report, silent
from prunerzero.statistics.writing import written_texts


def calibration_windows(
    model: nn.Module,
    tokenizer: Any,
    calibration: str | Path | Tensor | Windows,
    samples: int,
    sequence_length: int,
    seed: int,
    report: Report = silent,
) -> Windows:
    """Calibration windows from token ids or from a text source.

    A named source gives its calibration documents only, so that its other splits stay unseen; a
    text the user has on disk is used whole.

    Args:
        model: the causal LM, for the longest sequence it can read.
        tokenizer: its tokenizer; may be None for token ids.
        calibration: token ids ``[windows, length]``, windows drawn already, or a source's name or
            path.
        samples: windows to draw from a text source.
        sequence_length: tokens in each.
        seed: which windows are drawn, and what the model writes where the source is ``self``.
        report: told of the writing, which takes a while.

    Raises:
        InputError: if the text is unusable, or a window longer than the model can read.
    """
    limit = context_limit(model)
    if isinstance(calibration, (Tensor, Windows)):
        windows = Windows(calibration) if isinstance(calibration, Tensor) else calibration
        windows.require(Split.CALIBRATION)
        check_length(windows.length, limit)
        vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        if not 0 <= int(windows.tokens.min()) <= int(windows.tokens.max()) < vocabulary:
            raise InputError(f"calibration: token ids must lie between 0 and {vocabulary - 1}")
        return windows
    if tokenizer is None:
        raise InputError(
            "calibration on text needs a tokenizer: this model has none that can be read"
        )
    check_length(sequence_length, limit)
    split = Split.CALIBRATION if is_named(str(calibration)) else None

    def write() -> list[str]:
        compute = compute_for(model)
        return written_texts(
            model, tokenizer, samples, sequence_length, compute, seed, report=report
        )

    with written.lend(write):
        documents = load_documents(calibration)
    return sample_windows(documents, tokenizer, split, samples, sequence_length, seed)


def describe(windows: Windows) -> dict[str, Any]:
    """What must be known to repeat the draw, and to keep its documents out of evaluations."""
    return {
        "source": windows.source,
        "split": str(windows.split) if windows.split else None,
        "windows": len(windows),
        "sequence_length": windows.length,
        "tokens_hash": windows.hash,
        "documents": list(windows.documents),
    }
