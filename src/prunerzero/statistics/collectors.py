"""From raw sums gathered during calibration to the terminals of the metric language.

A few raw sums serve all data terminals, so `W * A` and `W * sqrt(X)` share one pass: sums over
tokens of each input feature's square, the number of these tokens, and the sum over sequences of
each weight's squared gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

# Reference factor on gradients before squaring (Pruner-Zero's public gradient script).
GRADIENT_SCALE = 100.0

ACTIVATION = "activation_square_sum"
ROUTED = "routed_activation_square_sum"
TOKENS = "tokens"
GRADIENT = "gradient_square_sum"

# The sums that come from forward passes alone.
FORWARD = frozenset({ACTIVATION, ROUTED, TOKENS})

Raw = Mapping[str, Tensor]


@dataclass(frozen=True)
class Sample:
    """How much text the sums run over."""

    sequences: int
    tokens: int


@dataclass(frozen=True)
class Collector:
    """How one terminal follows from raw sums.

    Attributes:
        raw: names of the sums: `ACTIVATION`, `ROUTED` ``[1, in]``, `TOKENS` ``[1, 1]`` (an
            expert's are those routed to it), `GRADIENT` ``[out, in]``.
        finish: turns them into the terminal.
    """

    raw: frozenset[str]
    finish: Callable[[Raw, Sample], Tensor]


COLLECTORS: dict[str, Collector] = {
    # X_j = (1 / sequences) * sum_t x_tj^2: the reference's squared norm.
    "X": Collector(frozenset({ACTIVATION}), lambda raw, sample: raw[ACTIVATION] / sample.sequences),
    # A_j = sqrt(mean_t x_tj^2): scale-free, Wanda is W * A.
    "A": Collector(
        frozenset({ACTIVATION, TOKENS}), lambda raw, _: (raw[ACTIVATION] / raw[TOKENS]).sqrt()
    ),
    # R_j = sqrt(mean_t (r_t x_tj)^2), r_t the router's weight: MoE-Pruner is W * R.
    "R": Collector(frozenset({ROUTED, TOKENS}), lambda raw, _: (raw[ROUTED] / raw[TOKENS]).sqrt()),
    # G = sqrt(sum_s (100 g_s)^2), one backward pass a sequence s, mean token loss.
    "G": Collector(frozenset({GRADIENT}), lambda raw, _: raw[GRADIENT].sqrt() * GRADIENT_SCALE),
    # F = sqrt(mean_s g_s^2): F^2 is the diagonal of the empirical Fisher matrix.
    "F": Collector(
        frozenset({GRADIENT}), lambda raw, sample: (raw[GRADIENT] / sample.sequences).sqrt()
    ),
}


def raw_sums(terminals: frozenset[str]) -> frozenset[str]:
    """The raw sums that these terminals need (none for ``W``)."""
    return frozenset().union(*(COLLECTORS[name].raw for name in terminals if name in COLLECTORS))


def terminals_of(terminals: frozenset[str], raw: frozenset[str]) -> frozenset[str]:
    """Those of ``terminals`` that follow from the raw sums in ``raw``."""
    return frozenset(
        name for name in terminals if name in COLLECTORS and COLLECTORS[name].raw <= raw
    )


def finish(terminals: frozenset[str], raw: Raw, sample: Sample) -> dict[str, Tensor]:
    """Those terminals of one matrix that its raw sums determine."""
    return {
        name: COLLECTORS[name].finish(raw, sample)
        for name in sorted(terminals_of(terminals, frozenset(raw)))
    }
