"""Gradient descent on the continuous part of a genome: exponents and the allocation.

Derivatives come from a thousand tokens and are noisy, so nothing is decided by one of them:
exponents move by Adam (Kingma & Ba, arXiv 1412.6980), the allocation by averaged and smoothed
costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from prunerzero.evolution.genome import DECIMALS, Genome, factors_of
from prunerzero.evolution.guidance import Guidance
from prunerzero.pruning.allocation import Allocation, CurvesAllocation, MatrixShape
from prunerzero.pruning.pattern import Pattern

Array = np.ndarray

RATE = 0.08  # step of an exponent whose derivative keeps its sign
MEMORY, SQUARE_MEMORY = 0.7, 0.95
# Derivatives of the log of the divergence below this are noise at any number of tokens used here.
NOISE = 1e-3
LARGEST_EXPONENT = 3.0

# Change of sparsity where pruning costs e times the mean.
ALLOCATION_RATE = 0.04
COST_MEMORY = 0.7
# Ratios to the mean cost that a step believes in.
CREDIBLE = (0.3, 4.0)
LARGEST_OFFSET = 0.4
# Costs of single matrices are smoothed over this share of the depth, and a little over kinds.
SMOOTHING = 1 / 15
OTHER_KINDS = 0.15

# Steps become shorter: after so many they have 0.7 of their first length.
SHORTENING = 10


class Descent:
    """Follows measured derivatives from a genome.

    Args:
        shapes: the model's prunable matrices.
        tied: all kinds of matrix have the same exponents, so that there is one formula.
        spread: the pattern whose sparsity the allocation spreads; None where that stays uniform.
    """

    def __init__(
        self, shapes: Sequence[MatrixShape], *, tied: bool, spread: Pattern | None
    ) -> None:
        self.tied = tied
        self._spread = spread
        self._kinds = list(dict.fromkeys(shape.kind for shape in shapes))
        self._shapes = list(shapes)
        sizes = np.array([shape.rows * shape.columns for shape in shapes], dtype=float)
        self._share = sizes / sizes.sum()
        self._kernel = smoothing_kernel(shapes, self._share)
        self._mean: Array | float = 0.0
        self._square: Array | float = 0.0
        self._costs: Array | None = None
        self._steps = 0

    def step(self, genome: Genome, guidance: Guidance) -> Genome:
        """One step from ``genome``, where ``guidance`` was measured."""
        self._steps += 1
        length = (1 + (self._steps - 1) / SHORTENING) ** -0.5
        moved = replace(genome, powers=self._exponents(genome, guidance, length))
        if self._spread is not None:
            offsets = self._offsets(genome.allocation, self._spread)
            curves = curves_of(self._shapes, self._moved(offsets, guidance, length))
            moved = replace(moved, allocation=curves)
        return moved

    def _exponents(
        self, genome: Genome, guidance: Guidance, length: float
    ) -> dict[str, dict[str, float]]:
        factors = factors_of(genome.update)
        slopes = np.array([[guidance.slopes[kind][f] for f in factors] for kind in self._kinds])
        slopes = slopes / guidance.divergence if guidance.divergence > 0 else np.zeros_like(slopes)
        if self.tied:
            slopes = np.broadcast_to(slopes.sum(0), slopes.shape)
        self._mean = MEMORY * self._mean + (1 - MEMORY) * slopes
        self._square = SQUARE_MEMORY * self._square + (1 - SQUARE_MEMORY) * slopes**2
        mean = self._mean / (1 - MEMORY**self._steps)
        square = self._square / (1 - SQUARE_MEMORY**self._steps)
        change = RATE * length * mean / (np.sqrt(square) + NOISE)
        return {
            kind: {
                factor: _clipped(genome.powers.get(kind, {}).get(factor, 0.0) - change[i, j])
                for j, factor in enumerate(factors)
            }
            for i, kind in enumerate(self._kinds)
        }

    def _offsets(self, allocation: Allocation, pattern: Pattern) -> Array:
        if isinstance(allocation, CurvesAllocation):
            return np.array([allocation.offset(shape) for shape in self._shapes])
        sparsities = allocation.sparsities(self._shapes, pattern)
        return np.array([float(sparsities[s.name] - pattern.sparsity) for s in self._shapes])

    def _moved(self, offsets: Array, guidance: Guidance, length: float) -> Array:
        """Offsets after a step that makes the marginal cost more equal over the matrices.

        At the best allocation, pruning one more weight costs the same everywhere.
        """
        latest = np.array([guidance.costs[shape.name] for shape in self._shapes])
        old = self._costs if self._costs is not None else latest
        self._costs = COST_MEMORY * old + (1 - COST_MEMORY) * latest
        mean = float(self._share @ self._costs)
        if np.isfinite(mean) and mean > 0:  # else noise exceeds the signal: no direction
            relative = self._kernel @ (self._costs / mean)
            offsets = offsets - ALLOCATION_RATE * length * np.log(np.clip(relative, *CREDIBLE))
        return np.clip(offsets - self._share @ offsets, -LARGEST_OFFSET, LARGEST_OFFSET)


def smoothing_kernel(shapes: Sequence[MatrixShape], share: Array) -> Array:
    """Weights ``[matrices, matrices]`` of a mean over neighbours in depth, each row adding to 1.

    Args:
        shapes: the matrices.
        share: how much each counts, ``[matrices]``.
    """
    depth = np.array([shape.block for shape in shapes], dtype=float)
    width = max(1.0, SMOOTHING * shapes[0].blocks)
    near = np.exp(-(((depth[:, None] - depth) / width) ** 2) / 2)
    kinds = np.array([shape.kind for shape in shapes])
    weights = near * ((kinds[:, None] == kinds) + OTHER_KINDS) * share
    normalised: Array = weights / weights.sum(1, keepdims=True)
    return normalised


def curves_of(shapes: Sequence[MatrixShape], offsets: Array) -> CurvesAllocation:
    """The allocation that has these offsets, ``[matrices]``: one number for each block and kind.

    Matrices of one kind in one block (experts) share the mean of theirs.
    """
    blocks = shapes[0].blocks
    cells: dict[str, list[list[float]]] = {}
    for shape, offset in zip(shapes, offsets, strict=True):
        of_kind = cells.setdefault(shape.kind, [[] for _ in range(blocks)])
        of_kind[shape.block].append(float(offset))
    return CurvesAllocation(
        curves={
            kind: tuple(round(sum(cell) / len(cell), DECIMALS + 1) if cell else 0.0 for cell in row)
            for kind, row in cells.items()
        }
    )


def _clipped(exponent: float) -> float:
    return round(min(max(exponent, -LARGEST_EXPONENT), LARGEST_EXPONENT), DECIMALS)
