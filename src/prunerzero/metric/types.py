"""The static type of an expression: its shape, and the range its values can take."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class Shape(StrEnum):
    """The shape of an expression's tensor; ``out`` and ``in`` are those of the weight matrix."""

    FULL = "full"  # [out, in]
    ROW = "row"  # [out, 1]: one value a row, an output neuron
    COLUMN = "column"  # [1, in]: one value a column, an input feature
    SCALAR = "scalar"  # [1, 1]

    @property
    def spans_rows(self) -> bool:
        """Whether the first dimension is ``out`` (not 1)."""
        return self in (Shape.FULL, Shape.ROW)

    @property
    def spans_columns(self) -> bool:
        """Whether the second dimension is ``in`` (not 1)."""
        return self in (Shape.FULL, Shape.COLUMN)

    @staticmethod
    def of(spans_rows: bool, spans_columns: bool) -> Shape:
        """The shape with these two dimensions."""
        if spans_rows:
            return Shape.FULL if spans_columns else Shape.ROW
        return Shape.COLUMN if spans_columns else Shape.SCALAR


def broadcast(*shapes: Shape) -> Shape:
    """The shape of an elementwise operation's result."""
    return Shape.of(
        any(shape.spans_rows for shape in shapes), any(shape.spans_columns for shape in shapes)
    )


class Sign(StrEnum):
    """What is known of the sign of an expression's values."""

    NON_NEGATIVE = "non-negative"
    ANY = "any"


class Bounds(NamedTuple):
    """A closed interval that holds every value of an expression (NaN aside)."""

    low: float = -math.inf
    high: float = math.inf

    @property
    def non_negative(self) -> bool:
        """Whether no value is below zero."""
        return self.low >= 0

    @property
    def magnitude(self) -> Bounds:
        """The bounds of the absolute value."""
        smallest = 0.0 if self.low <= 0 <= self.high else min(abs(self.low), abs(self.high))
        return Bounds(smallest, max(abs(self.low), abs(self.high)))

    def contains(self, other: Bounds) -> bool:
        """Whether ``other`` lies inside."""
        return self.low <= other.low and other.high <= self.high


ANYTHING = Bounds()
NON_NEGATIVE = Bounds(low=0.0)


def hull(values: Iterable[float]) -> Bounds:
    """The smallest interval around ``values``."""
    points = list(values)
    return Bounds(min(points), max(points))
