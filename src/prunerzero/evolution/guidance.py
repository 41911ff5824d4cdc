"""Where to go from a recipe: derivatives of the divergence from one backward pass.

A search that only measures candidates learns one number from each. One backward pass *at the pruned
model* costs as much as three such measurements and gives the derivative of the divergence with
respect to the sparsity of every matrix, and to the exponent of every factor of the formula in every
kind of matrix (`boundary`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunerzero.evaluation.batches import target_losses
from prunerzero.evaluation.divergence import DenseBatch, DenseReference, position_kl
from prunerzero.evolution.arena import Arena
from prunerzero.evolution.boundary import nm_slopes, unstructured_slopes
from prunerzero.evolution.genome import UPDATE_FACTORS, factors_of
from prunerzero.evolution.masking import Masker
from prunerzero.evolution.settings import FitnessKind
from prunerzero.metric.scoring import ColumnScorer
from prunerzero.models.blocks import Matrix
from prunerzero.models.passes import run_whole
from prunerzero.pruning.allocation import MatrixShape
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.statistics.hessian import inverse_factor
from prunerzero.threads import for_each
from prunerzero.updates.columnwise import BLOCK, as_chosen
from prunerzero.updates.columnwise import derivatives as updated_derivatives
from prunerzero.updates.names import VALUES

# Keeps the logarithm of a factor finite where the factor is zero.
SMALLEST_FACTOR = 1e-20


@dataclass(frozen=True)
class Guidance:
    """Derivatives of the divergence at one recipe.

    Attributes:
        divergence: what derivatives are divided by to be those of a logarithm: the mean KL
            divergence there, nats a token; 1 for losses, which are logarithms already; 0 where
            there is none to measure, as scores or predictions are not finite.
        costs: change for each further weight pruned, by matrix name; empty for N:M patterns.
        slopes: change for a unit of each factor's exponent, by kind of matrix and factor.
    """

    divergence: float
    costs: Mapping[str, float]
    slopes: Mapping[str, Mapping[str, float]]

    def to_json(self) -> dict[str, Any]:
        """As the study keeps it."""
        return {"divergence": self.divergence, "costs": self.costs, "slopes": self.slopes}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Guidance:
        """Inverse of `to_json`."""
        return cls(document["divergence"], document["costs"], document["slopes"])


# Measures the derivatives at a recipe.
Guide = Callable[[Recipe], Guidance]

# Derivatives of the fitness of a masker's model at a recipe, from the dense predictions.
MeasureGuidance = Callable[[Any, Recipe, DenseReference, FitnessKind], Guidance]


def guidance_on(
    arenas: Sequence[Arena], measure: MeasureGuidance, recipe: Recipe, index: int
) -> Guidance:
    """Derivatives at a recipe; of several targets their mean (`mean_guidance`).

    Args:
        arenas: one for each target; they give windows that no rung uses.
        measure: takes the derivatives of one target.
        recipe: where to take them.
        index: number of the windows.
    """
    found = []
    for arena in arenas:
        reference = arena.fresh_reference(index)
        found.append(measure(arena.masker, recipe, reference, arena.fitness))
    if len(found) == 1:
        return found[0]
    return mean_guidance(found, [[m.shape for m in arena.masker.matrices] for arena in arenas])


def measure_guidance(
    masker: Masker, recipe: Recipe, reference: DenseReference, fitness: FitnessKind = "kl"
) -> Guidance:
    """Derivatives of the divergence at a recipe; noisy, as they come from few tokens.

    They are all 0 where the recipe cannot rank weights: a descent may come past such a point.

    Args:
        masker: pruner of the model; the model is left pruned by ``recipe`` if that can be.
        recipe: where to take the derivatives.
        reference: the dense model's predictions on the windows to use.
        fitness: ``loss`` for the derivatives of the mean loss instead.
    """
    pattern = masker.pattern
    costs = {} if pattern.is_nm else {matrix.name: 0.0 for matrix in masker.matrices}
    factors = factors_of(recipe.update)
    slopes = {matrix.kind: dict.fromkeys(factors, 0.0) for matrix in masker.matrices}
    try:
        masker.apply(recipe)
    except UnusableScores:
        return Guidance(0.0, costs, slopes)
    value, gradients = _gradients(masker, reference, fitness)
    sparsities = masker.sparsities(recipe)
    found: dict[str, tuple[float, list[float]]] = {}

    def derive(matrix: Matrix) -> None:
        gradient = gradients.pop(matrix.name)
        found[matrix.name] = _slopes(masker, recipe, matrix, gradient, sparsities[matrix.name])

    for_each(derive, masker.matrices)
    for matrix in masker.matrices:
        cost, exponents = found[matrix.name]
        if not pattern.is_nm:
            costs[matrix.name] = finite_or_zero(cost)
        for name, slope in zip(factors, exponents, strict=True):
            slopes[matrix.kind][name] += finite_or_zero(slope)
    return Guidance(scale(value, fitness), costs, slopes)


def mean_guidance(found: Sequence[Guidance], shapes: Sequence[Sequence[MatrixShape]]) -> Guidance:
    """Derivatives for several targets at once: the means of each one's share of its divergence.

    Divergences of different targets have different sizes, so what is averaged is derivatives of
    their logarithms. Costs count relative to their own mean, and only where a pattern leaves
    sparsity free and that mean is positive (else it is noise); a target that could not be measured
    counts for nothing.

    Args:
        found: the derivatives on each target, at one recipe.
        shapes: each target's prunable matrices, of the same kinds everywhere.

    Returns:
        Costs are of the first target's matrices; those of another model are taken over by kind and
        relative depth.
    """
    divergence = math.fsum(one.divergence for one in found) / len(found)
    measured = [one for one in found if one.divergence]

    def mean_slope(kind: str, factor: str) -> float:
        shares = (one.slopes[kind][factor] / one.divergence for one in measured)
        return divergence * math.fsum(shares) / len(found)

    slopes = {
        kind: {factor: mean_slope(kind, factor) for factor in factors}
        for kind, factors in found[0].slopes.items()
    }
    relative = [
        at_depths(_relative(one.costs, own), own, shapes[0])
        for one, own in zip(found, shapes, strict=True)
        if one.costs
    ]
    costs = {
        shape.name: math.fsum(one[shape.name] for one in relative) / len(relative)
        for shape in (shapes[0] if relative else ())
    }
    return Guidance(divergence, costs, slopes)


def _relative(costs: Mapping[str, float], shapes: Sequence[MatrixShape]) -> dict[str, float]:
    """Costs as multiples of their mean over weights; all 0 if that is not positive."""
    sizes = [shape.rows * shape.columns for shape in shapes]
    total = math.fsum(n * costs[shape.name] for n, shape in zip(sizes, shapes, strict=True))
    scale = sum(sizes) / total if total > 0 else 0.0
    return {shape.name: scale * costs[shape.name] for shape in shapes}


def at_depths(
    values: Mapping[str, float], shapes: Sequence[MatrixShape], wanted: Sequence[MatrixShape]
) -> dict[str, float]:
    """Takes values of one model's matrices over to another's, by kind and relative depth.

    Matrices of one kind in one block (experts) share the mean of theirs; between blocks values are
    linear, as those of `CurvesAllocation` are.

    Args:
        values: by the matrix's name.
        shapes: the matrices that they are of.
        wanted: the matrices that values are wanted for; their kinds are among those of ``shapes``.
    """
    if [shape.name for shape in shapes] == [shape.name for shape in wanted]:
        return dict(values)
    cells: dict[str, dict[float, list[float]]] = {}
    for shape in shapes:
        of_kind = cells.setdefault(shape.kind, {})
        of_kind.setdefault(_depth(shape), []).append(values[shape.name])
    lines = {
        kind: (sorted(of_kind), [float(np.mean(of_kind[depth])) for depth in sorted(of_kind)])
        for kind, of_kind in cells.items()
    }
    return {shape.name: float(np.interp(_depth(shape), *lines[shape.kind])) for shape in wanted}


def _depth(shape: MatrixShape) -> float:
    return shape.block / max(1, shape.blocks - 1)


def derivatives(
    masker: Masker, recipe: Recipe, matrix: Matrix, benefit: Tensor, sparsity: Fraction
) -> tuple[float, list[float]]:
    """The cost of one more pruned weight (0 for N:M), and a slope for each of `FACTORS`."""
    pattern = masker.pattern
    scores = masker.scores(recipe, matrix)
    logs = [_log_factor(masker, matrix, name) for name in factors_of(recipe.update)]
    if pattern.is_nm:
        assert pattern.n is not None
        assert pattern.m is not None
        return 0.0, nm_slopes(scores, benefit, pattern.n, pattern.m, logs)
    if recipe.group == "matrix":
        logs = [log.expand_as(scores).reshape(1, -1) for log in logs]
        scores, benefit = scores.reshape(1, -1), benefit.reshape(1, -1)
    return unstructured_slopes(scores, benefit, int(sparsity * scores.shape[1]), logs)


def _slopes(
    masker: Masker, recipe: Recipe, matrix: Matrix, gradient: Tensor, sparsity: Fraction
) -> tuple[float, list[float]]:
    """`derivatives` from the gradient by the matrix as the recipe has pruned it."""
    if recipe.update not in VALUES:
        benefit = gradient.mul_(masker.dense.weights[matrix.name])
        return derivatives(masker, recipe, matrix, benefit, sparsity)
    statistics = masker.statistics(recipe, matrix)
    dense = masker.dense.weights[matrix.name]
    factor = inverse_factor(statistics["H"])
    mask = matrix.weight != 0
    values, benefit = updated_derivatives(dense, mask, gradient, factor)
    if recipe.update != "sparsegpt-adaptive":
        return derivatives(masker, recipe, matrix, benefit, sparsity)
    inputs = {name: value for name, value in statistics.items() if name != "H"}
    scorer = ColumnScorer(masker.metric(recipe, matrix).expression, inputs | {"W": dense.abs()})
    pattern = masker.pattern
    seen = as_chosen(values, mask, factor, pattern.m or BLOCK)
    scores = scorer.columns(slice(0, dense.shape[1]), seen).expand_as(values)
    logs = [_log_factor(masker, matrix, name) for name in UPDATE_FACTORS]
    if pattern.n is not None and pattern.m is not None:
        return 0.0, nm_slopes(scores, benefit, pattern.n, pattern.m, logs)
    cost, slopes = 0.0, [0.0] * len(logs)
    for start in range(0, dense.shape[1], BLOCK):
        block = slice(start, min(start + BLOCK, dense.shape[1]))

        def part(whole: Tensor, block: slice = block) -> Tensor:
            mine = whole[:, block]
            return mine if recipe.group == "row" else mine.expand(len(scores), -1).reshape(1, -1)

        share = part(scores)
        one, others = unstructured_slopes(
            share, part(benefit), int(sparsity * share.shape[1]), [part(log) for log in logs]
        )
        cost += one * (block.stop - start) / dense.shape[1]
        slopes = [total + slope for total, slope in zip(slopes, others, strict=True)]
    return cost, slopes


def _log_factor(masker: Masker, matrix: Matrix, name: str) -> Tensor:
    return masker.value(matrix, UPDATE_FACTORS[name]).clamp(min=SMALLEST_FACTOR).log()


def finite_or_zero(value: float) -> float:
    """A gradient that overflowed tells nothing of its matrix, and must not spoil the others."""
    return value if math.isfinite(value) else 0.0


def scale(value: float, fitness: FitnessKind) -> float:
    """`Guidance.divergence`, from the mean divergence or loss."""
    if fitness == "loss" and math.isfinite(value):
        return 1.0
    return finite_or_zero(value)


def mean_value(logits: Tensor, ids: Tensor, dense: DenseBatch, fitness: FitnessKind) -> Tensor:
    """What is minimised, as a mean over the positions of a batch.

    Args:
        logits: the pruned model's, float32 ``[batch, length - 1, vocabulary]``.
        ids: the batch's tokens ``[batch, length]``.
        dense: the dense model's record of it.
        fitness: divergence or loss.
    """
    normaliser = torch.logsumexp(logits, -1)
    if fitness == "loss":
        return target_losses(logits, normaliser, ids[:, 1:]).mean()
    return position_kl(logits, normaliser, dense).mean()


def _gradients(
    masker: Masker, reference: DenseReference, fitness: FitnessKind
) -> tuple[float, dict[str, Tensor]]:
    """The mean divergence or loss, and its gradient by every weight, pruned ones too."""
    total = 0.0
    parameters = dict.fromkeys(matrix.parameter for matrix in masker.matrices)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        for batch in reference.batches:
            ids = batch.tokens.to(reference.compute.device)
            with torch.enable_grad(), reference.compute.autocast():
                logits = run_whole(masker.model, ids)[:, :-1].float()
                value = mean_value(logits, ids, batch, fitness)
            share = value * len(ids) / len(reference.tokens)
            share.backward()
            total += share.item()
        found = {}
        for matrix in masker.matrices:
            gradient = matrix.parameter.grad
            # Experts that no token met have none.
            gradient = torch.zeros_like(matrix.parameter) if gradient is None else gradient
            found[matrix.name] = matrix.oriented(gradient).float()
        return total, found
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
