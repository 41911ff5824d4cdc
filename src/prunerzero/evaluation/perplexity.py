"""Perplexity as the pruning papers define it: fixed token windows, each scored on its own."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
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
        return math.exp(self.mean) if self.mean < 700 else math.inf


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
    picks = np.random.default_rng(seed).integers(len(differences), size=(draws, len(differences)))
    resampled = np.expm1(differences[picks].mean(1))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(np.expm1(differences.mean())), float(low), float(high))
