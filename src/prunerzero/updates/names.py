"""The updates by name, without torch: what a recipe may ask for, and the statistics it takes."""

from __future__ import annotations

from typing import Literal

Update = Literal["none", "sparsegpt", "sparsegpt-adaptive", "dsnot"]

# Those that give kept weights new values; the others choose among the dense ones.
VALUES: frozenset[Update] = frozenset({"sparsegpt", "sparsegpt-adaptive"})

# Beside those of the formula (`prunerzero.statistics.collectors`).
STATISTICS: dict[Update, frozenset[str]] = {
    "none": frozenset(),
    "sparsegpt": frozenset({"H"}),
    "sparsegpt-adaptive": frozenset({"H"}),
    "dsnot": frozenset({"Amean", "Avar"}),
}
