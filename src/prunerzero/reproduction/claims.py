"""What the numbers say of the paper's claims, in the analysis's words (`Principle`)."""

from __future__ import annotations

from collections.abc import Sequence

from prunerzero.analysis.records import Principle
from prunerzero.evaluation.perplexity import Interval

CONFIRMED, REFUTED, OPEN = "confirmed", "refuted", "not decided"
# Seeds that must agree for moderate and for high confidence: where the seed only draws the
# calibration windows, and where what is compared is itself drawn, as searches are. Of six draws
# without a preference all agree one time in 32.
CALIBRATIONS, SEARCHES = (2, 3), (6, 10)


def judge(
    statement: str,
    difference: Interval | None,
    by_seed: Sequence[float],
    evidence: Sequence[str],
    *,
    negative_confirms: bool = True,
    seeds_for: tuple[int, int] = CALIBRATIONS,
) -> Principle:
    """A claim's verdict: its interval must leave out zero, and no seed may say the opposite.

    Args:
        statement: the claim, one sentence.
        difference: what decides, with its 95 % interval; None where nothing was measured.
        by_seed: the same of each seed.
        evidence: the numbers, a line each.
        negative_confirms: a difference below zero is in the claim's favour, else one above.
        seeds_for: how many seeds moderate and high confidence want; *low* below.
    """
    verdict = OPEN
    if difference is not None and difference.significant:
        sign = 1 if difference.change > 0 else -1
        if all(one * sign > 0 for one in by_seed):
            verdict = CONFIRMED if (sign < 0) == negative_confirms else REFUTED
    confidence = "low"
    if verdict != OPEN and len(by_seed) >= seeds_for[0]:
        confidence = "high" if len(by_seed) >= seeds_for[1] else "moderate"
    return Principle(statement, "paper", verdict, confidence, tuple(evidence))


def percent(change: Interval) -> str:
    """A relative change with its interval."""
    return f"{change.change:+.1%} ({change.low:+.1%} to {change.high:+.1%})"
