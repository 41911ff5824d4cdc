"""Allocation: how much sparsity each matrix of a model gets.

Every allocation spends the same total as the pattern it is given, to within one weight a row.
A new one is a model with a `name` of its own, added to `Allocation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from prunerzero.errors import InputError
from prunerzero.pruning.pattern import Pattern

LOWEST, HIGHEST = Fraction(5, 100), Fraction(95, 100)  # widened to contain the pattern's sparsity
MOST_KNOTS = 1024  # points of a curve

# Shares of 1, so anything beyond a few is meant as a bound; larger ones would overflow.
Offset = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]


class MatrixShape(NamedTuple):
    """A prunable matrix as an allocation sees it.

    Attributes:
        name: Unique in the model.
        kind: What it does in its block, such as `q_proj`.
        block: Index of its block, from 0.
        blocks: Number of blocks of the model.
        rows: Output features.
        columns: Input features.
    """

    name: str
    kind: str
    block: int
    blocks: int
    rows: int
    columns: int


class _Allocation(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class UniformAllocation(_Allocation):
    """Every matrix gets the pattern's own sparsity."""

    name: Literal["uniform"] = "uniform"

    def sparsities(self, matrices: Sequence[MatrixShape], pattern: Pattern) -> dict[str, Fraction]:
        """The pattern's sparsity for every matrix, by name."""
        return {matrix.name: pattern.sparsity for matrix in matrices}

    def key(self) -> str:
        """Text that is equal for equivalent allocations."""
        return self.name


class CurvesAllocation(_Allocation):
    """Sparsity by kind of matrix and depth: a curve over the blocks for each kind.

    A matrix's sparsity is the pattern's plus its kind's curve at its block; clipped, and shifted
    so that the total is right. Offsets are shares of 1: 0.1 prunes ten percentage points more.

    Attributes:
        curves: By kind, offsets at evenly spaced depths from the first block to the last, linear
            in between; one number is a constant, two are a line, as many as there are blocks give
            each block its own. A kind that is not named has 0.
    """

    name: Literal["curves"] = "curves"
    curves: dict[str, Annotated[tuple[Offset, ...], Field(min_length=1, max_length=MOST_KNOTS)]]

    def sparsities(self, matrices: Sequence[MatrixShape], pattern: Pattern) -> dict[str, Fraction]:
        """Each matrix's sparsity, by name.

        Returns:
            Fractions of which the product with the number of columns is whole, so that rows and
            the whole matrix lose exactly that share. The total is as near below the pattern's
            share of all weights as whole weights a row allow.

        Raises:
            InputError: The pattern is N:M, which fixes every matrix's sparsity.
        """
        if pattern.is_nm:
            raise InputError(
                f"allocation '{self.name}': {pattern} fixes every matrix's sparsity, "
                "so only 'uniform' goes with it"
            )
        return spend(matrices, [self.offset(matrix) for matrix in matrices], pattern)

    def offset(self, matrix: MatrixShape) -> float:
        """What is added to the pattern's sparsity before clipping and shifting."""
        knots = self.curves.get(matrix.kind, (0.0,))
        place = matrix.block / max(1, matrix.blocks - 1) * (len(knots) - 1)
        left = min(int(place), len(knots) - 1)
        right = min(left + 1, len(knots) - 1)
        return knots[left] + (place - left) * (knots[right] - knots[left])

    def key(self) -> str:
        """Text that is equal for equivalent allocations: offsets to four decimals, none if 0."""
        curves = [
            (kind, " ".join([f"{offset:.4f}" for offset in knots]))
            for kind, knots in sorted(self.curves.items())
        ]
        listed = "; ".join(f"{kind}: {knots}" for kind, knots in curves if knots.strip("-0. "))
        return f"{self.name}({listed})" if listed else "uniform"


class OwlAllocation(_Allocation):
    """OWL's (`prunerzero.pruning.owl`): curves that follow from the model's own statistics.

    Attributes:
        outlier: A score this many times its block's mean is an outlier.
        spread: Half the range of the sparsities before they are centred.
    """

    name: Literal["owl"] = "owl"
    outlier: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    spread: Annotated[float, Field(ge=0, le=1)] = 0.08

    def sparsities(self, _: Sequence[MatrixShape], __: Pattern) -> dict[str, Fraction]:
        """Has none to give yet.

        Raises:
            InputError: Always; `prunerzero.pruning.planning.planned` makes curves of it.
        """
        raise InputError(
            f"allocation '{self.name}': follows from the whole dense model's statistics, which "
            "only pruning in memory has (--no-stream), and no search"
        )

    def key(self) -> str:
        """Text that is equal for equivalent allocations."""
        return f"{self.name}({self.outlier:.4f} {self.spread:.4f})"


Allocation = Annotated[
    UniformAllocation | CurvesAllocation | OwlAllocation, Field(discriminator="name")
]


def spend(
    matrices: Sequence[MatrixShape], offsets: Sequence[float], pattern: Pattern
) -> dict[str, Fraction]:
    """Shifts and clips sparsities so that the whole model loses exactly the pattern's share.

    Args:
        matrices: The prunable matrices.
        offsets: One a matrix, added to the pattern's sparsity.
        pattern: Unstructured; its sparsity is the target.

    Returns:
        By name, sparsities in [5 %, 95 %] (widened to contain the pattern's), each a whole number
        of weights a row. The total falls short of the target by less than the rows of one matrix
        where the bounds allow, and always by less than one weight a row.
    """
    target = sum(matrix.rows * matrix.columns for matrix in matrices) * pattern.sparsity
    bounds = [_bounds(matrix.columns, pattern) for matrix in matrices]
    base = float(pattern.sparsity)

    def wanted(shift: float) -> list[float]:
        """Pruned weights a row of each matrix, not yet whole."""
        return [
            min(max((base + offset + shift) * matrix.columns, low), high)
            for matrix, offset, (low, high) in zip(matrices, offsets, bounds, strict=True)
        ]

    def total(counts: Sequence[float]) -> float:
        return sum(matrix.rows * count for matrix, count in zip(matrices, counts, strict=True))

    reach = 1 + max(map(abs, offsets), default=0.0)  # either end pushes all against their bounds
    real = wanted(_bisect(lambda shift: total(wanted(shift)) <= target, -reach, reach))
    counts = [math.floor(count) for count in real]
    left = int(target) - total(counts)
    # Largest remainders first, as seats are given in an election.
    for i in sorted(range(len(counts)), key=lambda i: counts[i] - real[i]):
        if counts[i] < bounds[i][1] and matrices[i].rows <= left:
            counts[i] += 1
            left -= matrices[i].rows
    return {
        # Columns too few for one pruned weight lose none at the pattern's own sparsity either.
        matrix.name: Fraction(count, matrix.columns) if count else pattern.sparsity
        for matrix, count in zip(matrices, counts, strict=True)
    }


def _bounds(columns: int, pattern: Pattern) -> tuple[int, int]:
    """Fewest and most pruned weights a row."""
    uniform = pattern.count(columns)
    return (
        min(math.ceil(columns * LOWEST), uniform),
        max(math.floor(columns * HIGHEST), uniform),
    )


def _bisect(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest number between the ends for which `holds`, true up to there, is true."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
