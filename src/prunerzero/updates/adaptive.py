"""SparseGPT's adaptive mask with the score of any metric.

The mask is chosen along the way: a block of columns (or M of them) is scored when all columns
before it are done, with the weights as the update has left them. What a metric needs of whole rows
or columns (a sum, an extreme) is of the dense weight. With ``W**2 / Hfree`` and the group `matrix`
this is SparseGPT itself, but for its threshold, which prunes one weight more in each block.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from prunerzero.errors import UnusableScores
from prunerzero.metric import Metric
from prunerzero.metric.scoring import ColumnScorer
from prunerzero.metric.separable import fixed_factors
from prunerzero.pruning.masks import keep_highest
from prunerzero.pruning.pattern import Pattern
from prunerzero.statistics.hessian import InverseFactor
from prunerzero.updates.columnwise import BLOCK, Lowest, adaptive, lowest_of_group


@torch.no_grad()
def adaptively_pruned(
    weight: Tensor,
    factor: InverseFactor,
    metric: Metric,
    statistics: Mapping[str, Tensor],
    pattern: Pattern,
    group: str,
    block_size: int = BLOCK,
    name: str = "the weight",
) -> Tensor:
    """Prunes and updates a matrix with a mask chosen along the way.

    Of the columns up to the end of each block, the share that goes is that of the pattern, to
    within one weight a comparison group.

    Args:
        weight: dense, ``[out, in]``.
        factor: of its Gram matrix.
        metric: scores the weights.
        statistics: the metric's data terminals.
        pattern: what may be zero.
        group: ``row``, or ``matrix`` for all weights of a block of columns together.
        block_size: columns of a block.
        name: what an error calls the matrix.

    Returns:
        A new float32 tensor ``[out, in]``, with +0.0 where pruned.

    Raises:
        UnusableScores: if scores are not finite.
    """
    weight = weight.detach().float()
    used = {name: tensor.float() for name, tensor in statistics.items()}
    inputs = used | {"W": weight.abs()}
    if pattern.n is not None and pattern.m is not None:
        factors = fixed_factors(metric.expression, inputs)
        if factors is not None:
            factors = factors.expand(-1, weight.shape[1]).T.contiguous()
            lowest = Lowest(factors, pattern.m - pattern.n, pattern.m)
            return adaptive(weight, factor, lowest, pattern, block_size)
    scorer = ColumnScorer(metric.expression, inputs)
    rows = len(weight)

    def choose(columns: slice, weights: Tensor) -> Tensor:
        scores = scorer.columns(columns, weights.T).expand(rows, len(weights)).contiguous()
        if not torch.isfinite(scores).all():
            raise UnusableScores(
                f"metric '{metric}': scores of {name} are not finite, so they rank nothing"
            )
        if pattern.n is not None and pattern.m is not None:
            return lowest_of_group(scores.T, pattern.m - pattern.n)
        flat = scores if group == "row" else scores.reshape(1, -1)
        # Counted from the left edge, so that what a block rounds off is made up for by the next.
        each = rows if group == "matrix" else 1
        goes = pattern.count(each * columns.stop) - pattern.count(each * columns.start)
        return ~keep_highest(flat, goes).reshape(scores.shape).T

    return adaptive(weight, factor, choose, pattern, block_size)
