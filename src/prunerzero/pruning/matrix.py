"""What a recipe does to one matrix whose statistics are known: score, select, update, write."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from prunerzero.errors import UnusableScores
from prunerzero.models.matrices import Matrix, apply_mask
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.statistics.hessian import inverse_factor
from prunerzero.updates.adaptive import adaptively_pruned
from prunerzero.updates.columnwise import updated
from prunerzero.updates.swapping import dsnot


@torch.no_grad()
def prune_matrix(
    recipe: Recipe,
    matrix: Matrix,
    statistics: dict[str, Tensor],
    pattern: Pattern,
    sparsity: Fraction,
) -> None:
    """Prunes one matrix in place, and does to what is kept what the recipe's update says.

    Args:
        recipe: the recipe.
        matrix: the matrix, holding its dense weight.
        statistics: what `Recipe.terminals` asks for, by name.
        pattern: the run's pattern.
        sparsity: this matrix's share of it (ignored for N:M).

    Raises:
        UnusableScores: if the scores are not finite.
    """
    metric = recipe.metric_for(matrix.kind, matrix.family)
    own = {name: statistics[name] for name in metric.terminals if name in statistics}
    if not pattern.is_nm and sparsity == 0:
        return
    wanted = pattern if pattern.is_nm else Pattern.unstructured(sparsity)
    if recipe.update == "sparsegpt-adaptive":
        factor = inverse_factor(statistics["H"])
        weight = adaptively_pruned(
            matrix.weight, factor, metric, own, wanted, recipe.group, name=matrix.name
        )
        matrix.weight.copy_(weight)
        return
    mask = matrix_mask(recipe, matrix, own, pattern, sparsity)
    if recipe.update == "sparsegpt":
        matrix.weight.copy_(updated(matrix.weight, mask, inverse_factor(statistics["H"])))
        return
    if recipe.update == "dsnot":
        mask = dsnot(matrix.weight, mask, statistics["Amean"], statistics["Avar"], wanted)
    apply_mask(matrix, mask)


def matrix_mask(
    recipe: Recipe,
    matrix: Matrix,
    terminals: dict[str, Tensor],
    pattern: Pattern,
    sparsity: Fraction,
) -> Tensor:
    """The mask ``[out, in]`` (True = kept) that a recipe gives one matrix.

    Args:
        recipe: the recipe.
        matrix: the matrix, holding its dense weight.
        terminals: its data terminals by name.
        pattern: the run's pattern.
        sparsity: this matrix's share of it, above 0 (ignored for N:M).

    Raises:
        UnusableScores: if the scores are not finite.
    """
    scores = matrix_scores(recipe, matrix, terminals)
    if pattern.is_nm:
        return pattern.mask(scores)
    return Pattern.unstructured(sparsity).mask(scores, group=recipe.group)


def matrix_scores(recipe: Recipe, matrix: Matrix, terminals: dict[str, Tensor]) -> Tensor:
    """The scores ``[out, in]`` that a recipe gives one matrix.

    Args:
        recipe: the recipe.
        matrix: the matrix, holding its dense weight.
        terminals: its data terminals by name.

    Raises:
        UnusableScores: if the scores are not finite.
    """
    metric = recipe.metric_for(matrix.kind, matrix.family)
    scores = metric.score(W=matrix.weight, **terminals)
    if not torch.isfinite(scores).all():
        raise UnusableScores(
            f"metric '{metric}': scores of {matrix.name} are not finite, so they rank nothing"
        )
    return scores
