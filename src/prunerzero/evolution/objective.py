"""What a search minimises: one number from readings of one or several targets.

A target is a model under a pattern on a text. All here is pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from prunerzero.evolution.rungs import log_ratio, loss_change
from prunerzero.evolution.settings import FitnessKind, Objective

# A candidate's readings of single windows and the incumbent's: log ratio and standard error.
Compare = Callable[[Sequence[float], Sequence[float]], tuple[float, float]]
COMPARE: Mapping[FitnessKind, Compare] = {"kl": log_ratio, "loss": loss_change}
# Where a measurement's data keeps the readings of single windows.
READINGS: Mapping[FitnessKind, str] = {"kl": "kl", "loss": "losses"}


def combine(values: Sequence[float], objective: Objective) -> float:
    """One number of a value for each target, lower being better: their mean, or the worst."""
    return max(values) if objective == "worst" else math.fsum(values) / len(values)


def combined_ratio(
    levels: Sequence[float], ratios: Sequence[tuple[float, float]], objective: Objective
) -> tuple[float, float]:
    """How far a candidate is from the incumbent over all targets, and the standard error.

    Under ``worst`` both count by their own worst target, and the error is that of the candidate's.

    Args:
        levels: the incumbent's level on each target, relative to the first candidate's.
        ratios: the candidate's log ratio to the incumbent on each, with its standard error.
        objective: how targets are combined.
    """
    if objective == "worst":
        reached = [level + ratio for level, (ratio, _) in zip(levels, ratios, strict=True)]
        worst = max(range(len(reached)), key=reached.__getitem__)
        return reached[worst] - max(levels), ratios[worst][1]
    error = math.hypot(*(error for _, error in ratios)) / len(ratios)
    return combine([ratio for ratio, _ in ratios], objective), error
