"""From raw sums gathered during calibration to the terminals of the metric language.

Two raw sums serve all four data terminals of the language, so `W * A` and `W * sqrt(X)` share
one pass: the sum over tokens of each input feature's square, and the sum over sequences of each
weight's squared gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

# Reference factor on gradients before squaring (Pruner-Zero's public gradient script).
GRADIENT_SCALE = 100.0

ACTIVATION = "activation_square_sum"
GRADIENT = "gradient_square_sum"


@dataclass(frozen=True)
class Sample:
    """How much text the sums run over."""

    sequences: int
    tokens: int


@dataclass(frozen=True)
class Collector:
    """How one terminal follows from a raw sum.

    Attributes:
        raw: name of the raw sum (`ACTIVATION` ``[1, in]`` or `GRADIENT` ``[out, in]``).
        finish: turns the raw sum into the terminal.
    """

    raw: str
    finish: Callable[[Tensor, Sample], Tensor]


COLLECTORS: dict[str, Collector] = {
    # X_j = (1 / sequences) * sum_t x_tj^2: the reference's squared norm.
    "X": Collector(ACTIVATION, lambda total, sample: total / sample.sequences),
    # A_j = sqrt(mean_t x_tj^2): scale-free, Wanda is W * A.
    "A": Collector(ACTIVATION, lambda total, sample: (total / sample.tokens).sqrt()),
    # G = sqrt(sum_s (100 g_s)^2), one backward pass a sequence s, mean token loss.
    "G": Collector(GRADIENT, lambda total, _: total.sqrt() * GRADIENT_SCALE),
    # F = sqrt(mean_s g_s^2): F^2 is the diagonal of the empirical Fisher matrix.
    "F": Collector(GRADIENT, lambda total, sample: (total / sample.sequences).sqrt()),
}


def raw_sums(terminals: frozenset[str]) -> frozenset[str]:
    """The raw sums that these terminals need (none for ``W``)."""
    return frozenset(COLLECTORS[name].raw for name in terminals if name in COLLECTORS)


def terminals_of(terminals: frozenset[str], raw: frozenset[str]) -> frozenset[str]:
    """Those of ``terminals`` that follow from the raw sums in ``raw``."""
    return frozenset(
        name for name in terminals if name in COLLECTORS and COLLECTORS[name].raw in raw
    )


def finish(terminals: frozenset[str], raw: dict[str, Tensor], sample: Sample) -> dict[str, Tensor]:
    """Those terminals of one matrix that its raw sums determine."""
    return {
        name: COLLECTORS[name].finish(raw[COLLECTORS[name].raw], sample)
        for name in sorted(terminals_of(terminals, frozenset(raw)))
    }
