"""Allocations that follow from the dense model's statistics: OWL's, and a ranking of all weights.

They become curves (`CurvesAllocation`) before anything is pruned, so a run's record says what each
matrix got, and repeating it needs no statistics for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prunerzero.errors import InputError
from prunerzero.pruning.allocation import (
    HIGHEST,
    LOWEST,
    CurvesAllocation,
    OwlAllocation,
    UniformAllocation,
)
from prunerzero.pruning.matrix import matrix_scores
from prunerzero.pruning.owl import owl_allocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.statistics.collectors import raw_sums

if TYPE_CHECKING:
    from prunerzero.models.blocks import Block
    from prunerzero.pruning.shared import SharedData
    from prunerzero.statistics.cache import DenseStatistics

BINS = 1 << 16  # of each pass over all scores


def plan_terminals(recipe: Recipe, pattern: Pattern) -> frozenset[str]:
    """The statistics of the dense model that the allocation itself takes."""
    if pattern.is_nm:
        return frozenset()
    owl = frozenset({"A"}) if isinstance(recipe.allocation, OwlAllocation) else frozenset[str]()
    return owl | (formula_terminals(recipe) if recipe.group == "model" else frozenset())


def needs_data(recipe: Recipe, pattern: Pattern) -> bool:
    """Whether pruning by the recipe takes calibration text."""
    return bool(raw_sums(recipe.terminals | plan_terminals(recipe, pattern)))


def settled(recipe: Recipe, pattern: Pattern) -> Recipe:
    """The recipe as it will be planned, for checks: an allocation yet unknown is uniform.

    Raises:
        InputError: the allocation cannot be had under this pattern, or there are two.
    """
    owl = isinstance(recipe.allocation, OwlAllocation)
    if pattern.is_nm:
        if owl:
            raise InputError(f"allocation 'owl': {pattern} fixes every matrix's sparsity")
        return recipe
    if recipe.group != "model":
        return recipe.with_allocation(UniformAllocation()) if owl else recipe
    if not isinstance(recipe.allocation, UniformAllocation):
        raise InputError(
            f"group 'model': sets every matrix's sparsity, and so does allocation "
            f"'{recipe.allocation.name}'; give one of the two"
        )
    return recipe.with_group("matrix")


def planned(
    recipe: Recipe, pattern: Pattern, blocks: list[Block], shared: SharedData | None
) -> Recipe:
    """The recipe with an allocation that says what every matrix gets.

    Args:
        recipe: any recipe.
        pattern: the run's pattern.
        blocks: of the dense model.
        shared: its statistics; None where ``recipe`` needs none.

    Raises:
        InputError: as `settled`, or for scores that are not finite.
    """
    plain = settled(recipe, pattern)
    if plain == recipe:
        return recipe
    terminals = plan_terminals(recipe, pattern)
    statistics = shared.dense(terminals) if shared is not None and terminals else None
    if isinstance(recipe.allocation, OwlAllocation):
        assert statistics is not None
        found = owl_allocation(
            blocks,
            statistics,
            pattern,
            outlier=recipe.allocation.outlier,
            spread=recipe.allocation.spread,
        )
    else:
        found = ranked_allocation(plain, pattern, blocks, statistics)
    return plain.with_allocation(found)


@torch.no_grad()
def ranked_allocation(
    recipe: Recipe, pattern: Pattern, blocks: list[Block], statistics: DenseStatistics | None
) -> CurvesAllocation:
    """What every matrix gets where all weights of the dense model are ranked together.

    The lowest scores of the whole model go, but no matrix loses less than 5 % or more than 95 %
    (widened to contain the pattern's share). Experts of one block share what they lose.

    Args:
        recipe: whose formulas score.
        pattern: unstructured.
        blocks: of the dense model.
        statistics: of it; None for formulas of the weights alone.

    Raises:
        UnusableScores: if scores are not finite.
    """
    matrices = [matrix for block in blocks for matrix in block.matrices]
    sizes = [matrix.weight.numel() for matrix in matrices]
    keys = formula_terminals(recipe)
    low, high = min(LOWEST, pattern.sparsity), max(HIGHEST, pattern.sparsity)

    def scores(index: int) -> Tensor:
        given = statistics.of(matrices[index], keys) if statistics is not None else {}
        return matrix_scores(recipe, matrices[index], given).flatten()

    def clipped(counts: list[int]) -> list[float]:
        return [
            min(max(count, float(low * size)), float(high * size))
            for count, size in zip(counts, sizes, strict=True)
        ]

    ends = [(float(s.min()), float(s.max())) for s in map(scores, range(len(matrices)))]
    bottom, top = min(low for low, _ in ends), max(high for _, high in ends)
    target = float(pattern.sparsity) * sum(sizes)
    found = [0.0] * len(matrices)
    # Which scores lie below the threshold is counted in bins, then in the bins of one bin.
    below = [0] * len(matrices)
    for _ in range(2):
        if not bottom < top:
            break
        edges = torch.linspace(bottom, top, BINS + 1, dtype=torch.float64)
        counts = torch.stack(
            [_counted(scores(index), edges) for index in range(len(matrices))]
        )  # [matrices, bins]
        sums = torch.tensor(below)[:, None] + counts.cumsum(1)
        first, last = 0, BINS - 1  # the first bin by whose end enough is pruned
        while first < last:
            middle = (first + last) // 2
            if sum(clipped(sums[:, middle].tolist())) >= target:
                last = middle
            else:
                first = middle + 1
        found = clipped(sums[:, first].tolist())
        below = (sums[:, first] - counts[:, first]).tolist()
        bottom, top = float(edges[first]), float(edges[first + 1])
    names = [matrix.name for matrix in matrices]
    return _curves(pattern, blocks, dict(zip(names, found, strict=True)))


def _counted(scores: Tensor, edges: Tensor) -> Tensor:
    """How many scores lie in each bin."""
    inside = scores[(scores >= edges[0]) & (scores <= edges[-1])].double()
    return torch.histc(inside, len(edges) - 1, float(edges[0]), float(edges[-1])).long()


def _curves(pattern: Pattern, blocks: list[Block], pruned: dict[str, float]) -> CurvesAllocation:
    """Curves with a value a block, from the number of pruned weights of each matrix."""
    totals: dict[str, dict[int, list[float]]] = {}
    for block in blocks:
        for matrix in block.matrices:
            cell = totals.setdefault(matrix.kind, {}).setdefault(block.index, [0.0, 0.0])
            cell[0] += pruned[matrix.name]
            cell[1] += matrix.weight.numel()
    base = float(pattern.sparsity)
    return CurvesAllocation(
        curves={
            kind: tuple(
                round(by[b][0] / by[b][1] - base, 6) if b in by else 0.0 for b in range(len(blocks))
            )
            for kind, by in totals.items()
        }
    )


def formula_terminals(recipe: Recipe) -> frozenset[str]:
    """The data terminals of a recipe's formulas, without those of its update."""
    return frozenset[str]().union(*(m.terminals for m in recipe.formulas.values())) - {"W"}
