"""OWL's allocation (Yin et al., arXiv 2310.05175): blocks with more outliers are pruned less."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from prunerzero.errors import InputError
from prunerzero.models.blocks import Block
from prunerzero.pruning.allocation import CurvesAllocation, OwlAllocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.statistics.cache import DenseStatistics

# The paper's: a score this many times its block's mean is an outlier; densities spread over +-8 %.
OUTLIER, SPREAD = OwlAllocation().outlier, OwlAllocation().spread


@torch.no_grad()
def owl_allocation(
    blocks: Sequence[Block],
    statistics: DenseStatistics,
    pattern: Pattern,
    *,
    outlier: float = OUTLIER,
    spread: float = SPREAD,
) -> CurvesAllocation:
    """The allocation by each block's share of outliers among its Wanda scores, dense model.

    Args:
        blocks: the dense model's blocks.
        statistics: holds ``A`` of every prunable matrix.
        pattern: unstructured.
        outlier: multiple of the block's mean score above which a weight is an outlier.
        spread: half the range of the sparsities before they are centred.

    Raises:
        InputError: the pattern is N:M, which fixes every matrix's sparsity.
    """
    if pattern.is_nm:
        raise InputError(f"allocation 'owl': {pattern} fixes every matrix's sparsity")
    shares = torch.tensor([_outlier_share(block, statistics, outlier) for block in blocks])
    width = (shares.max() - shares.min()).item()
    relative = (shares - shares.min()) / width if width > 0 else torch.zeros_like(shares)
    offsets = -2 * spread * (relative - relative.mean())
    knots = tuple(round(offset, 6) for offset in offsets.tolist())
    kinds = dict.fromkeys(matrix.kind for block in blocks for matrix in block.matrices)
    return CurvesAllocation(curves=dict.fromkeys(kinds, knots))


def _outlier_share(block: Block, statistics: DenseStatistics, outlier: float) -> float:
    scores = [
        matrix.weight.float().abs() * statistics.of(matrix, frozenset("A"))["A"]
        for matrix in block.matrices
    ]
    weights = sum(score.numel() for score in scores)
    limit = outlier * sum(float(score.sum(dtype=torch.float64)) for score in scores) / weights
    return sum(int((score > limit).sum()) for score in scores) / weights
