"""`prunerzero.evaluation.deep`: does the pruned model still work, and where not?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from prunerzero.data.bundled import DOMAINS
from prunerzero.data.sources import is_named, load_documents
from prunerzero.data.splits import Split, documents_of
from prunerzero.data.windows import Windows
from prunerzero.errors import InputError
from prunerzero.evaluation.block_errors import BlockError, block_errors
from prunerzero.evaluation.evaluate import (
    Evaluation,
    check_vocabularies,
    cut_texts,
    evaluation_settings,
)
from prunerzero.evaluation.frequency import FrequencyBand, by_frequency, token_counts
from prunerzero.evaluation.generation import Continuation, continue_greedily
from prunerzero.evaluation.perplexity import Estimate, scored_bytes
from prunerzero.evaluation.tokens import TokenReadings, compare_predictions
from prunerzero.models.compute import compute_for
from prunerzero.progress import Report, silent

BLOCK_WINDOWS = 8
"""Windows of the first text that the blocks' errors are measured on."""
PROMPTS = 4
PROMPT_TOKENS = 32
WRITTEN_TOKENS = 40


@dataclass(frozen=True)
class Divergences:
    """How a model's predictions on one text differ from the dense model's.

    Attributes:
        kl: KL(dense || model) over the whole vocabulary, nats a token.
        agreement: share of positions at which both hold the same token for the likeliest.
    """

    kl: Estimate
    agreement: Estimate

    @classmethod
    def of(cls, readings: TokenReadings, seed: int) -> Divergences:
        """Of all positions in the readings."""
        return cls(readings.mean_kl(seed), readings.agreement(seed))

    def to_json(self) -> dict[str, Any]:
        """The divergences as a JSON-serialisable dictionary."""
        return {"kl": self.kl.to_json(), "agreement": self.agreement.to_json()}


@dataclass(frozen=True)
class DeepEvaluation:
    """A pruned model beside the dense one.

    Attributes:
        evaluation: perplexities of both by text.
        overall: divergences over the windows of all texts.
        texts: divergences by text.
        frequency: perplexities by how frequent the predicted token is.
        blocks: output errors by block; None where the model is no chain of blocks.
        blocks_left_out: why, then.
        continuations: what both write after prompts from the texts.
    """

    evaluation: Evaluation
    overall: Divergences
    texts: dict[str, Divergences]
    frequency: tuple[FrequencyBand, ...]
    blocks: tuple[BlockError, ...] | None
    blocks_left_out: str | None
    continuations: tuple[Continuation, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON-serialisable dictionary (docs/evaluation.md)."""
        return {
            **self.evaluation.to_json(),
            "deep": {
                "overall": self.overall.to_json(),
                "texts": {name: found.to_json() for name, found in self.texts.items()},
                "frequency": [band.to_json() for band in self.frequency],
                "blocks": self.blocks and [error.to_json() for error in self.blocks],
                "blocks_left_out": self.blocks_left_out,
                "continuations": [each.to_json() for each in self.continuations],
            },
        }


def evaluate_deep(
    model: nn.Module,
    dense: nn.Module,
    tokenizer: Any,
    texts: Sequence[str] = DOMAINS,
    *,
    counted: str = "wikipedia",
    windows: int = 8,
    sequence_length: int = 512,
    seed: int = 0,
    dtype: str | None = None,
    seen: Collection[str] = (),
    report: Report = silent,
) -> DeepEvaluation:
    """Compares a pruned model's predictions, blocks and writing with the dense model's.

    Args:
        model: the pruned causal LM.
        dense: the model that it was made from.
        tokenizer: the tokenizer of both.
        texts: named sources or paths, as for `prunerzero.evaluate`.
        counted: text in which token frequencies are counted: a named source's calibration
            documents, or a whole file.
        windows: windows drawn from each named source.
        sequence_length: tokens in a window.
        seed: which windows are drawn; also the intervals' resampling.
        dtype: precision of the passes; None takes bfloat16 where the hardware has it.
        seen: hashes of documents that the model was calibrated or selected on; refused.
        report: called with a step's name, the parts done and their number.

    Raises:
        InputError: as `prunerzero.evaluate`, or if the two models do not belong together.
    """
    check_vocabularies(model, dense)
    model.eval()
    dense.eval()
    computes = compute_for(model, dtype), compute_for(dense, dtype)
    # Before the passes, so that a text that cannot be counted costs nothing.
    split = Split.CALIBRATION if is_named(counted) else None
    documents = documents_of(load_documents(counted), split)
    cuts = cut_texts(
        model,
        tokenizer,
        texts,
        windows=windows,
        sequence_length=sequence_length,
        seed=seed,
        seen=seen,
    )
    readings = {
        name: compare_predictions(
            model,
            dense,
            cut.tokens,
            *computes,
            lambda done, name=name, cut=cut: report(name, done, len(cut)),  # type: ignore[misc]
        )
        for name, cut in cuts.items()
    }
    every = TokenReadings.join(list(readings.values()))
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    blocks, reason = None, None
    try:
        sample = next(iter(cuts.values())).tokens[:BLOCK_WINDOWS]
        blocks = block_errors(model, dense, sample, *computes, report)
    except InputError as error:
        reason = str(error)
    settings = evaluation_settings(texts, cuts, sequence_length, seed, computes[0])
    return DeepEvaluation(
        evaluation=Evaluation(
            losses={name: found.loss() for name, found in readings.items()},
            bytes={name: scored_bytes(cut, tokenizer) for name, cut in cuts.items()},
            settings=settings | {"frequencies": counted, "block_windows": len(sample)},
            against={name: found.dense_loss() for name, found in readings.items()},
        ),
        overall=Divergences.of(every, seed),
        texts={name: Divergences.of(found, seed) for name, found in readings.items()},
        frequency=by_frequency(every, token_counts(documents, tokenizer, vocabulary), seed),
        blocks=blocks,
        blocks_left_out=reason,
        continuations=_continuations(model, dense, tokenizer, cuts, computes, report),
    )


def _continuations(
    model: nn.Module,
    dense: nn.Module,
    tokenizer: Any,
    cuts: dict[str, Windows],
    computes: tuple[Any, Any],
    report: Report,
) -> tuple[Continuation, ...]:
    """Prompts are the starts of windows, from each text in turn."""
    most = max(len(cut) for cut in cuts.values())
    places = [
        (name, cut.tokens[number])
        for number in range(most)
        for name, cut in cuts.items()
        if number < len(cut)
    ]
    found = []
    chosen = places[:PROMPTS]
    for name, window in chosen:
        prompt = min(PROMPT_TOKENS, len(window) // 2)
        shown = window[: prompt + WRITTEN_TOKENS]
        found.append(continue_greedily(model, dense, tokenizer, name, shown, prompt, *computes))
        report("writing", len(found), len(chosen))
    return tuple(found)
