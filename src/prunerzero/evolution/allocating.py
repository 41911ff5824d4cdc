"""How allocations change: random steps, crossover, and steps down a measured gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

import numpy as np

from prunerzero.pruning.allocation import DepthKindAllocation, MatrixShape, UniformAllocation

Parameters = dict[str, float]

STEP = 0.03
LARGEST_OFFSET = 0.5
# Ratio of the least and the largest marginal cost that a step believes in, against noise.
CREDIBLE = (0.3, 4.0)
RIDGE = 1e-3


def parameters_of(
    allocation: UniformAllocation | DepthKindAllocation, shapes: Sequence[MatrixShape]
) -> Parameters:
    """All numbers of an allocation for a model: an offset for each of its kinds, and the rest."""
    zero = DepthKindAllocation(kinds={shape.kind: 0.0 for shape in shapes}).parameters()
    if isinstance(allocation, DepthKindAllocation):
        return zero | allocation.parameters()
    return zero


def allocation_from(parameters: Mapping[str, float]) -> DepthKindAllocation:
    """The allocation with these numbers, clipped and rounded to four digits."""
    clipped = {
        name: round(min(max(value, -LARGEST_OFFSET), LARGEST_OFFSET), 4)
        for name, value in parameters.items()
    }
    return DepthKindAllocation.from_parameters(clipped)


def random_step(parameters: Parameters, random: Random) -> Parameters:
    """Moves about a third of the numbers by a normal step."""
    names = sorted(parameters)
    chosen = [name for name in names if random.random() < 1 / 3] or [random.choice(names)]
    return parameters | {name: parameters[name] + random.gauss(0.0, STEP) for name in chosen}


def blend(first: Parameters, second: Parameters, random: Random) -> Parameters:
    """A random point on, or a little past, the segment between two allocations."""
    share = random.uniform(-0.25, 1.25)
    return {name: value + share * (second[name] - value) for name, value in first.items()}


def descend(
    parameters: Parameters,
    marginal_costs: Mapping[str, float],
    shapes: Sequence[MatrixShape],
    step: float,
) -> Parameters:
    """A step that makes the marginal cost of sparsity more equal over the matrices.

    At the best allocation, pruning one more weight costs the same everywhere. Costs of single
    matrices are noisy, so they are first fitted by the allocation's own features (kinds, depth,
    ends); the logarithm of the fit then says how much sparser each should be.

    Args:
        parameters: numbers of the present allocation.
        marginal_costs: increase in divergence for each further weight pruned, by matrix name.
        shapes: all prunable matrices.
        step: change of sparsity where the fitted cost is e times the mean cost.

    Returns:
        The new numbers.
    """
    names = sorted(parameters)
    features = np.array([_features(shape, names) for shape in shapes])
    weights = np.array([shape.rows * shape.columns for shape in shapes], dtype=float)
    weights /= weights.sum()
    costs = np.array([marginal_costs[shape.name] for shape in shapes])
    mean = float(weights @ costs)
    if not np.isfinite(mean) or mean <= 0:
        # Noise exceeds the signal: no direction to be had from these tokens.
        return dict(parameters)
    relative = 1 + features @ _ridge(features, weights, costs / mean - 1)
    direction = _ridge(features, weights, np.log(np.clip(relative, *CREDIBLE)))
    return {
        name: parameters[name] - step * float(change)
        for name, change in zip(names, direction, strict=True)
    }


def _features(shape: MatrixShape, names: Sequence[str]) -> list[float]:
    """Derivative of the matrix's offset with respect to each number: offsets are linear in them."""
    unit = dict.fromkeys(names, 0.0)
    return [DepthKindAllocation.from_parameters(unit | {name: 1.0}).offset(shape) for name in names]


def _ridge(features: np.ndarray, weights: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Weighted least squares with a small penalty, which settles directions that do not matter."""
    weighted = features.T * weights
    penalty = RIDGE * np.eye(features.shape[1])
    return np.linalg.solve(weighted @ features + penalty, weighted @ targets)
