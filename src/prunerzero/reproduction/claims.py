"""What the numbers say of the paper's claims, in the analysis's words (`Principle`)."""

from __future__ import annotations

from collections.abc import Sequence

from prunerzero.analysis.records import Principle
from prunerzero.evaluation.perplexity import Interval

CONFIRMED, REFUTED, OPEN = "confirmed", "refuted", "not decided"
SEEDS_FOR_HIGH, SEEDS_FOR_MODERATE = 3, 2


def judge(
    statement: str,
    difference: Interval | None,
    by_seed: Sequence[float],
    evidence: Sequence[str],
    *,
    negative_confirms: bool = True,
) -> Principle:
    """A claim's verdict: its interval must leave out zero, and no seed may say the opposite.

    Confidence is *high* if three seeds or more agree, *moderate* for two, else *low*.

    Args:
        statement: the claim, one sentence.
        difference: what decides, with its 95 % interval; None where nothing was measured.
        by_seed: the same of each seed.
        evidence: the numbers, a line each.
        negative_confirms: a difference below zero is in the claim's favour, else one above.
    """
    verdict = OPEN
    if difference is not None and difference.significant:
        sign = 1 if difference.change > 0 else -1
        if all(one * sign > 0 for one in by_seed):
            verdict = CONFIRMED if (sign < 0) == negative_confirms else REFUTED
    confidence = "low"
    if verdict != OPEN and len(by_seed) >= SEEDS_FOR_MODERATE:
        confidence = "high" if len(by_seed) >= SEEDS_FOR_HIGH else "moderate"
    return Principle(statement, "paper", verdict, confidence, tuple(evidence))


def percent(change: Interval) -> str:
    """A relative change with its interval."""
    return f"{change.change:+.1%} ({change.low:+.1%} to {change.high:+.1%})"
