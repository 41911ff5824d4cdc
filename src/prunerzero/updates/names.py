"""The updates by name, without torch: what a recipe may ask for, and the statistics it takes."""

from __future__ import annotations

from typing import Literal, get_args

Update = Literal["none", "sparsegpt", "sparsegpt-adaptive", "dsnot"]

UPDATES: tuple[Update, ...] = get_args(Update)

# Beside those of the formula (`prunerzero.statistics.collectors`).
STATISTICS: dict[Update, frozenset[str]] = {
    "none": frozenset(),
    "sparsegpt": frozenset({"H"}),
    "sparsegpt-adaptive": frozenset({"H"}),
    "dsnot": frozenset({"Amean", "Avar"}),
}
