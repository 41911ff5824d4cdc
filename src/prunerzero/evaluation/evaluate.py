"""`prunerzero.evaluate`: perplexity of a model on one or several texts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from prunerzero.data.sources import evaluation_documents, is_named, load_documents, text_name
from prunerzero.data.splits import Split
from prunerzero.data.windows import Windows, check_length, consecutive_windows, sample_windows
from prunerzero.errors import InputError
from prunerzero.evaluation.perplexity import TextLoss, measure_loss
from prunerzero.models.compute import compute_for
from prunerzero.models.loading import context_limit
from prunerzero.progress import Report, silent
from prunerzero.pruning.checkpoint import refuse_seen


@dataclass(frozen=True)
class Evaluation:
    """Perplexity by text, and what it was measured on.

    Attributes:
        losses: loss of every window, by the text's name.
        settings: sequence length, precision and the texts' windows.
    """

    losses: dict[str, TextLoss]
    settings: dict[str, Any]

    @property
    def perplexity(self) -> dict[str, float]:
        """Perplexity by the text's name."""
        return {name: loss.perplexity for name, loss in self.losses.items()}

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON-serialisable dictionary."""
        tokens = {name: loss.tokens for name, loss in self.losses.items()}
        return {"perplexity": self.perplexity, "tokens": tokens, "settings": self.settings}


def evaluate(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str] = ("wikipedia",),
    *,
    windows: int = 32,
    sequence_length: int = 512,
    seed: int = 0,
    dtype: str | None = None,
    seen: Collection[str] = (),
    report: Report = silent,
) -> Evaluation:
    """Perplexity as the pruning papers define it, on fixed token windows.

    Args:
        model: a causal LM.
        tokenizer: its tokenizer.
        texts: named sources (their held-out documents are used) or paths (used whole).
        windows: windows drawn from a named source; a file is cut into all that it holds.
        sequence_length: tokens in a window, the context of every prediction.
        seed: which windows are drawn from a named source.
        dtype: precision of the passes; None takes bfloat16 where the hardware has it.
        seen: hashes of documents that the model was calibrated or selected on; refused.
        report: called with a step's name, the windows done and their number.

    Raises:
        InputError: for an unusable text, a length above the model's limit, or a text whose
            documents the model was calibrated or selected on.
    """
    if tokenizer is None:
        raise InputError("evaluating on text needs a tokenizer: this model comes without one")
    model.eval()  # dropout has no place in a measurement
    compute = compute_for(model, dtype)
    check_length(sequence_length, context_limit(model))
    cuts: dict[str, Windows] = {}
    for text in texts:
        name = text_name(text)
        if name in cuts:
            raise InputError(f"text '{text}': a text called {name} is there already")
        cuts[name] = evaluation_windows(text, tokenizer, windows, sequence_length, seed, seen)
    losses = {
        name: measure_loss(model, cut, compute, partial(_advance, report, name, len(cut)))
        for name, cut in cuts.items()
    }
    settings = {
        "sequence_length": sequence_length,
        "seed": seed,
        "compute": str(compute),
        "texts": {
            name: {"windows": len(cut), "tokens_hash": cut.hash} for name, cut in cuts.items()
        },
    }
    return Evaluation(losses, settings)


def _advance(report: Report, step: str, total: int, done: int) -> None:
    report(step, done, total)


def evaluation_windows(
    text: str,
    tokenizer: Any,
    windows: int,
    sequence_length: int,
    seed: int,
    seen: Collection[str] = (),
) -> Windows:
    """Windows to evaluate on: of a named source's held-out documents, or of a whole file.

    Raises:
        InputError: if the text is unusable or overlaps documents in ``seen``.
    """
    refuse_seen(text, seen)
    if is_named(text):
        documents = load_documents(text)
        return sample_windows(documents, tokenizer, Split.HELDOUT, windows, sequence_length, seed)
    return consecutive_windows(evaluation_documents(text), tokenizer, sequence_length)
