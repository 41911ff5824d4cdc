"""From raw sums gathered during calibration to the terminals of the metric language.

A few raw sums serve all data terminals, so `W * A` and `W * sqrt(X)` share one pass: sums over
tokens of each input feature, its square and its products with the others, the number of these
tokens, and the sums over sequences of each weight's gradient, its absolute value and its square.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunerzero.statistics.hessian import inverse_factor

# Reference factor on gradients before squaring (Pruner-Zero's public gradient script).
GRADIENT_SCALE = 100.0

ACTIVATION = "activation_square_sum"
ROUTED = "routed_activation_square_sum"
INPUT = "activation_sum"
GRAM = "gram"
TOKENS = "tokens"
GRADIENT = "gradient_square_sum"
SIGNED_GRADIENT = "gradient_sum"
ABSOLUTE_GRADIENT = "gradient_absolute_sum"
REGIONAL = "regional_gradient_square_sum"

# The sums that take a backward pass through the model; see `forward` for those that take none.
BACKWARD = frozenset({GRADIENT, SIGNED_GRADIENT, ABSOLUTE_GRADIENT})
# Those of a pass inside every block; what `BACKWARD` names comes from the model's loss.
INSIDE = frozenset({REGIONAL})

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
        raw: names of the sums: `ACTIVATION`, `ROUTED`, `INPUT` ``[1, in]``, `GRAM` ``[in, in]``,
            `TOKENS` ``[1, 1]`` (an expert's are those routed to it), `GRADIENT`,
            `SIGNED_GRADIENT`, `ABSOLUTE_GRADIENT`, `REGIONAL` ``[out, in]``, or a `TokenSum`'s.
        finish: turns them into the terminal.
    """

    raw: frozenset[str]
    finish: Callable[[Raw, Sample], Tensor]


@dataclass(frozen=True)
class TokenSum:
    """What is gathered over all tokens for a terminal of one's own.

    Attributes:
        name: its key in what the terminal is finished from.
        reduce: what some tokens give: float32 inputs ``[tokens, in]`` to ``[1, in]``. It is called
            for a batch of tokens at a time.
        combine: how the results of two batches become one, such as `torch.add` or `torch.maximum`.
    """

    name: str
    reduce: Callable[[Tensor], Tensor]
    combine: Callable[[Tensor, Tensor], Tensor] = torch.add


# Sums that users have added, by name.
TOKEN_SUMS: dict[str, TokenSum] = {}

COLLECTORS: dict[str, Collector] = {
    # X_j = (1 / sequences) * sum_t x_tj^2: the reference's squared norm.
    "X": Collector(frozenset({ACTIVATION}), lambda raw, sample: raw[ACTIVATION] / sample.sequences),
    # A_j = sqrt(mean_t x_tj^2): scale-free, Wanda is W * A.
    "A": Collector(
        frozenset({ACTIVATION, TOKENS}), lambda raw, _: (raw[ACTIVATION] / raw[TOKENS]).sqrt()
    ),
    # R_j = sqrt(mean_t (r_t x_tj)^2), r_t the router's weight: MoE-Pruner is W * R.
    "R": Collector(frozenset({ROUTED, TOKENS}), lambda raw, _: (raw[ROUTED] / raw[TOKENS]).sqrt()),
    # The mean and the variance of an input feature over tokens.
    "Amean": Collector(frozenset({INPUT, TOKENS}), lambda raw, _: raw[INPUT] / raw[TOKENS]),
    "Avar": Collector(frozenset({ACTIVATION, INPUT, TOKENS}), lambda raw, _: _variance(raw)),
    # The Gram matrix X^T X itself, for updates; no terminal of the language.
    "H": Collector(frozenset({GRAM}), lambda raw, _: raw[GRAM]),
    # The diagonal of the inverse of X^T X / tokens, damped: OBS is W**2 / Hinv.
    "Hinv": Collector(
        frozenset({GRAM, TOKENS}),
        lambda raw, _: inverse_factor(raw[GRAM]).diagonal[None] * raw[TOKENS],
    ),
    # The same for each feature without the features before it: SparseGPT is W**2 / Hfree.
    "Hfree": Collector(
        frozenset({GRAM, TOKENS}),
        lambda raw, _: inverse_factor(raw[GRAM]).free[None] * raw[TOKENS],
    ),
    # G = sqrt(sum_s (100 g_s)^2), one backward pass a sequence s, mean token loss.
    "G": Collector(frozenset({GRADIENT}), lambda raw, _: raw[GRADIENT].sqrt() * GRADIENT_SCALE),
    # F = sqrt(mean_s g_s^2): F^2 is the diagonal of the empirical Fisher matrix.
    "F": Collector(
        frozenset({GRADIENT}), lambda raw, sample: (raw[GRADIENT] / sample.sequences).sqrt()
    ),
    # Gmean = mean_s g_s, the gradient of the mean loss: LLM-Pruner is W * abs(Gmean).
    "Gmean": Collector(
        frozenset({SIGNED_GRADIENT}), lambda raw, sample: raw[SIGNED_GRADIENT] / sample.sequences
    ),
    # G1 = sum_s |100 g_s|: GBLM's other norm.
    "G1": Collector(
        frozenset({ABSOLUTE_GRADIENT}), lambda raw, _: raw[ABSOLUTE_GRADIENT] * GRADIENT_SCALE
    ),
    # B = sqrt(mean_s b_s^2), b_s the gradient of the l2 norm of the block's output: Wanda++.
    "B": Collector(
        frozenset({REGIONAL}), lambda raw, sample: (raw[REGIONAL] / sample.sequences).sqrt()
    ),
}


def _variance(raw: Raw) -> Tensor:
    mean = raw[INPUT] / raw[TOKENS]
    return (raw[ACTIVATION] / raw[TOKENS] - mean.square()).clamp_(min=0.0)


def raw_sums(terminals: frozenset[str]) -> frozenset[str]:
    """The raw sums that these terminals need (none for ``W``)."""
    return frozenset().union(*(COLLECTORS[name].raw for name in terminals if name in COLLECTORS))


def forward(raw: frozenset[str]) -> frozenset[str]:
    """Those raw sums that come from forward passes alone."""
    return raw - BACKWARD - INSIDE


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
