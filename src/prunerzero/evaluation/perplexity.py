"""Perplexity as the pruning papers define it: fixed token windows, each scored on its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prunerzero.data.windows import Windows
from prunerzero.errors import InputError
from prunerzero.evaluation.batches import log_normaliser, next_token_logits, target_losses
from prunerzero.models.compute import Compute, compute_for
from prunerzero.progress import Advance, silent


@dataclass(frozen=True)
class TextLoss:
    """Mean loss of each window, from which perplexity and intervals follow.

    Attributes:
        losses: mean negative log-likelihood of each window's tokens after its first, nats a token.
        tokens: number of tokens scored in all windows together.
    """

    losses: tuple[float, ...]
    tokens: int

    @property
    def mean(self) -> float:
        """Mean loss over all windows, nats a token (windows have equal lengths)."""
        return math.fsum(self.losses) / len(self.losses)

    @property
    def perplexity(self) -> float:
        """``exp(mean loss)``; infinite where the model predicts impossible things."""
        return perplexity_of(self.mean)

    def bits_per_byte(self, scored_bytes: int) -> float:
        """Mean loss in bits a byte of text, comparable between models of different tokenizers.

        Args:
            scored_bytes: length of the scored tokens' text (`scored_bytes`).
        """
        return self.mean * self.tokens / (math.log(2) * scored_bytes)


def perplexity_of(loss: float) -> float:
    """``exp(loss)`` of a mean loss in nats; infinite where that is beyond numbers."""
    return math.exp(loss) if loss < 700 else math.inf


def scored_bytes(windows: Windows, tokenizer: Any) -> int:
    """UTF-8 bytes of the text of all tokens that are scored: those after each window's first.

    The first token's text is taken off the window's rather than left out before decoding, since
    some tokenizers drop a space at the start of what they decode. A character that a window's edge
    cuts counts as it decodes, which is off by a byte or two.
    """
    return sum(
        _bytes(tokenizer, window) - _bytes(tokenizer, window[:1])
        for window in windows.tokens.tolist()
    )


def _bytes(tokenizer: Any, ids: list[int]) -> int:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return len(text.encode("utf-8", "surrogatepass"))


def measure_loss(
    model: nn.Module,
    windows: Windows,
    compute: Compute | None = None,
    advance: Advance = silent,
) -> TextLoss:
    """Loss of a causal LM on token windows.

    Args:
        model: the causal LM, in evaluation mode.
        windows: token windows ``[count, length]``.
        compute: device and precision; None chooses for the model.
        advance: called with the number of windows done.

    Returns:
        The loss of every window.

    Raises:
        InputError: if the windows are too short to predict anything.
    """
    if windows.tokens.shape[1] < 2:
        raise InputError("windows of one token leave nothing to predict: use a length of 2 or more")
    compute = compute or compute_for(model)
    found: list[float] = []
    for logits, targets in next_token_logits(model, windows.tokens, compute, advance):
        losses = target_losses(logits, log_normaliser(logits), targets)
        found.extend(losses.mean(1).tolist())
    return TextLoss(tuple(found), windows.tokens.shape[0] * (windows.tokens.shape[1] - 1))


@dataclass(frozen=True)
class Interval:
    """Perplexity of one model relative to another's: ``ratio - 1`` with a 95 % interval."""

    change: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, float]:
        """The interval as a JSON-serialisable dictionary."""
        return asdict(self)


def paired_interval(
    losses: tuple[float, ...], baseline: tuple[float, ...], *, seed: int = 0, draws: int = 10_000
) -> Interval:
    """Paired bootstrap over windows of the relative change in perplexity.

    Args:
        losses: mean loss of each window under the model of interest.
        baseline: the same windows under the other model.
        seed: seed of the resampling.
        draws: number of resamples.

    Returns:
        ``exp(mean(losses - baseline)) - 1`` and its 2.5 % and 97.5 % quantiles.
    """
    differences = np.asarray(losses) - np.asarray(baseline)
    picks = _picks(len(differences), seed, draws)
    resampled = np.expm1(differences[picks].mean(1))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(np.expm1(differences.mean())), float(low), float(high))


def relative_change(difference: Estimate) -> Interval:
    """The change in perplexity that a mean difference of losses means."""
    return Interval(
        *(perplexity_of(value) - 1 for value in (difference.mean, difference.low, difference.high))
    )


@dataclass(frozen=True)
class Estimate:
    """A mean over tokens with its 95 % interval over windows."""

    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """The estimate as a JSON-serialisable dictionary."""
        return asdict(self)


def mean_estimate(
    totals: Sequence[float], counts: Sequence[float], *, seed: int = 0, draws: int = 10_000
) -> Estimate:
    """Mean over tokens, with a bootstrap over windows, which may hold different numbers of them.

    Args:
        totals: sum over the tokens of each window.
        counts: number of these tokens in each window; not all 0.
        seed: seed of the resampling.
        draws: number of resamples; those without a token are left out.

    Returns:
        ``sum(totals) / sum(counts)`` and its 2.5 % and 97.5 % quantiles.
    """
    sums, sizes = np.asarray(totals, float), np.asarray(counts, float)
    picks = _picks(len(sums), seed, draws)
    drawn, sizes_drawn = sums[picks].sum(1), sizes[picks].sum(1)
    resampled = drawn[sizes_drawn > 0] / sizes_drawn[sizes_drawn > 0]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(float(sums.sum() / sizes.sum()), float(low), float(high))


def _picks(windows: int, seed: int, draws: int) -> NDArray[np.int64]:
    """Window numbers ``[draws, windows]``, drawn with replacement."""
    return np.random.default_rng(seed).integers(windows, size=(draws, windows))
