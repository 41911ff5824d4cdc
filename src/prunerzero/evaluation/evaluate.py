"""`prunerzero.evaluate`: perplexity of a model on one or several texts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from prunerzero.data.sources import evaluation_documents, load_documents, text_name
from prunerzero.data.splits import Split
from prunerzero.data.windows import Windows, check_length, consecutive_windows, sample_windows
from prunerzero.errors import InputError
from prunerzero.evaluation.perplexity import (
    Interval,
    TextLoss,
    measure_loss,
    paired_interval,
    scored_bytes,
)
from prunerzero.evaluation.protocol import protocol_of
from prunerzero.models.compute import Compute, compute_for
from prunerzero.models.loading import context_limit
from prunerzero.notebook import Tabular
from prunerzero.progress import Report, advance_of, silent
from prunerzero.pruning.checkpoint import refuse_seen


@dataclass(frozen=True)
class Evaluation(Tabular):
    """Perplexity by text, and what it was measured on.

    Attributes:
        losses: loss of every window, by the text's name.
        bytes: UTF-8 bytes of the scored tokens' text, by the text's name.
        settings: sequence length, precision, the texts' windows and protocols.
        against: another model's losses on the same windows, where there is one.
    """

    losses: dict[str, TextLoss]
    bytes: dict[str, int]
    settings: dict[str, Any]
    against: dict[str, TextLoss] | None = None

    @property
    def perplexity(self) -> dict[str, float]:
        """Perplexity by the text's name."""
        return {name: loss.perplexity for name, loss in self.losses.items()}

    @property
    def bits_per_byte(self) -> dict[str, float]:
        """Bits a byte of text, by the text's name."""
        return {name: loss.bits_per_byte(self.bytes[name]) for name, loss in self.losses.items()}

    @property
    def change(self) -> dict[str, Interval]:
        """Perplexity relative to the other model's, by the text's name."""
        return {
            name: paired_interval(
                self.losses[name].losses, other.losses, seed=self.settings["seed"]
            )
            for name, other in (self.against or {}).items()
        }

    def _rows(self) -> list[dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {
            name: {"text": name, "perplexity": found, "bits_per_byte": self.bits_per_byte[name]}
            for name, found in self.perplexity.items()
        }
        for name, other in (self.against or {}).items():
            found = self.change[name]
            rows[name] |= {"dense_perplexity": other.perplexity, "change": found.change}
            rows[name] |= {"low": found.low, "high": found.high}
        return list(rows.values())

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON-serialisable dictionary."""
        document: dict[str, Any] = {
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "tokens": {name: loss.tokens for name, loss in self.losses.items()},
            "settings": self.settings,
        }
        if self.against is not None:
            document["dense_perplexity"] = {
                name: loss.perplexity for name, loss in self.against.items()
            }
            document["change"] = {name: found.to_json() for name, found in self.change.items()}
        return document


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
    against: nn.Module | None = None,
    report: Report = silent,
) -> Evaluation:
    """Perplexity as the pruning papers define it, on fixed token windows.

    Args:
        model: a causal LM.
        tokenizer: its tokenizer.
        texts: named sources (their held-out documents are used) or paths (used whole).
        windows: windows drawn from a named source. Files are cut into all that they hold, and so
            are the texts that papers publish perplexities on (`Protocol`).
        sequence_length: tokens in a window, the context of every prediction.
        seed: which windows are drawn from a named source; also the intervals' resampling.
        dtype: precision of the passes; None takes bfloat16 where the hardware has it.
        seen: hashes of documents that the model was calibrated or selected on; refused.
        against: a model of the same vocabulary that is measured on the same windows, say the
            dense one.
        report: called with a step's name, the windows done and their number.

    Raises:
        InputError: for an unusable text, a length above the model's limit, models of different
            vocabularies, or a text whose documents the model was calibrated or selected on.
    """
    cuts = cut_texts(
        model,
        tokenizer,
        texts,
        windows=windows,
        sequence_length=sequence_length,
        seed=seed,
        seen=seen,
    )
    others = None
    if against is not None:
        check_vocabularies(model, against)
        others = _losses(against, cuts, dtype, report, "dense: ")
    return Evaluation(
        losses=_losses(model, cuts, dtype, report),
        bytes={name: scored_bytes(cut, tokenizer) for name, cut in cuts.items()},
        settings=evaluation_settings(texts, cuts, sequence_length, seed, compute_for(model, dtype)),
        against=others,
    )


def cut_texts(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    windows: int,
    sequence_length: int,
    seed: int,
    seen: Collection[str] = (),
) -> dict[str, Windows]:
    """The windows of each text, by its name; arguments and errors as for `evaluate`."""
    if tokenizer is None:
        raise InputError(
            "evaluating on text needs a tokenizer: this model has none that can be read"
        )
    check_length(sequence_length, context_limit(model))
    cuts: dict[str, Windows] = {}
    for text in texts:
        name = text_name(text)
        if name in cuts:
            raise InputError(f"text '{text}': a text called {name} is there already")
        cuts[name] = evaluation_windows(text, tokenizer, windows, sequence_length, seed, seen)
    return cuts


def evaluation_settings(
    texts: Sequence[str],
    cuts: dict[str, Windows],
    sequence_length: int,
    seed: int,
    compute: Compute,
) -> dict[str, Any]:
    """What must be known to repeat the measurement."""
    return {
        "sequence_length": sequence_length,
        "seed": seed,
        "compute": str(compute),
        "texts": {
            name: {
                "windows": len(cut),
                "tokens_hash": cut.hash,
                "protocol": protocol_of(text, sequence_length).to_json(),
            }
            for text, (name, cut) in zip(texts, cuts.items(), strict=True)
        },
    }


def check_vocabularies(model: Any, other: Any) -> None:
    """Checks that two models read and predict the same number of tokens.

    Raises:
        InputError: They do not.
    """
    sizes = [each.get_input_embeddings().num_embeddings for each in (model, other)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"a model of {sizes[0]} tokens cannot be measured against one of {sizes[1]}: "
            "give the dense model that it was made from"
        )


def _losses(
    model: nn.Module, cuts: dict[str, Windows], dtype: str | None, report: Report, prefix: str = ""
) -> dict[str, TextLoss]:
    model.eval()  # dropout has no place in a measurement
    compute = compute_for(model, dtype)
    return {
        name: measure_loss(model, cut, compute, advance_of(report, prefix + name, len(cut)))
        for name, cut in cuts.items()
    }


def evaluation_windows(
    text: str,
    tokenizer: Any,
    windows: int,
    sequence_length: int,
    seed: int,
    seen: Collection[str] = (),
) -> Windows:
    """Windows to evaluate on, as the text's `Protocol` says.

    Raises:
        InputError: if the text is unusable or overlaps documents in ``seen``.
    """
    refuse_seen(text, seen)
    protocol = protocol_of(text, sequence_length)
    if protocol.windows == "drawn":
        documents = load_documents(text)
        return sample_windows(documents, tokenizer, Split.HELDOUT, windows, sequence_length, seed)
    return consecutive_windows(
        evaluation_documents(text),
        tokenizer,
        sequence_length,
        protocol.most_windows,
        separator=protocol.separator,
        special_tokens=protocol.special_tokens,
    )
