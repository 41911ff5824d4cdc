"""How the divergence changes as weights cross a mask's boundary: pure functions of one matrix.

Let ``benefit = w * dKL/dw``, taken at the pruned model: by first order, keeping a weight changes
the divergence by its benefit, pruning it by the opposite. A small change of the recipe moves only
weights that lie next to the boundary, so the derivative with respect to *any* of its numbers is a
sum of benefits over a band around the boundary, each times the speed at which its weight crosses.
Multiplying the scores by ``f ** x`` moves log-scores by ``log f`` for each unit of ``x``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prunerzero.pruning import kernels

# Half-width of the band around the boundary of a group, as a share of its weights.
BAND = 0.05
# Share of N:M groups, those with the smallest gap, that count as being at the boundary.
NEAR = 0.2
# Gaps of a larger matrix are sampled to find that share.
SAMPLED_GAPS = 1 << 16


def unstructured_slopes(
    scores: Tensor, benefit: Tensor, pruned: int, log_factors: Sequence[Tensor]
) -> tuple[float, list[float]]:
    """Derivatives for masks that prune the lowest scores of every row.

    Args:
        scores: ``[rows, columns]``.
        benefit: ``[rows, columns]``, nats a token.
        pruned: weights that go in each row.
        log_factors: logarithms of factors of the scores, ``[rows or 1, columns]`` each.

    Returns:
        The change of the divergence for each further weight pruned, and for each unit of each
        factor's exponent. Rows without two different scores in the band count for nothing.
    """
    columns = scores.shape[1]
    # Half the way to either end at most: out in a tail the scores are too far apart.
    half = max(1, min(int(BAND * columns), pruned // 2, (columns - pruned) // 2))
    low, high = max(pruned - half, 0), min(pruned + half, columns - 1)
    ends = np.empty((len(scores), 2), np.float32)
    kernels.order_statistics(scores.cpu().contiguous().numpy(), np.array([low, high]), ends)
    low_end, high_end = torch.from_numpy(ends).to(scores.device).split(1, dim=1)
    inside = ((scores >= low_end) & (scores < high_end)).to(scores.dtype)
    count = inside.sum(1)
    weighted = benefit * inside
    total = weighted.sum(1)
    cost = -float(total.sum()) / max(1.0, float(count.sum()))
    # Each weight of the band crosses at the speed of its log-score over the band's log-width.
    middle = (low_end.abs() + high_end.abs())[:, 0] / 2
    speed = torch.where(count > 0, middle / (high_end - low_end)[:, 0], 0.0)
    speed = speed * torch.sign(low_end + high_end)[:, 0]
    slopes = []
    for factor in log_factors:
        if factor.shape[0] == 1:
            along, mean = weighted @ factor[0], inside @ factor[0]
        else:
            along, mean = (weighted * factor).sum(1), (inside * factor).sum(1)
        # As many must come as go: what moves all of the band alike moves the threshold with it.
        crossing = along - total * mean / count.clamp(min=1)
        slopes.append(float(crossing @ speed))
    return cost, slopes


def nm_slopes(
    scores: Tensor, benefit: Tensor, n: int, m: int, log_factors: Sequence[Tensor]
) -> list[float]:
    """Derivatives for N:M masks: in a group at the boundary two weights change places.

    Args:
        scores: ``[rows, columns]``, columns a multiple of M.
        benefit: ``[rows, columns]``, nats a token.
        n: how many of each M are kept.
        m: size of a group.
        log_factors: logarithms of factors of the scores, ``[rows or 1, columns]`` each.

    Returns:
        The change of the divergence for each unit of each factor's exponent.
    """
    columns = scores.shape[1]
    flat_scores, flat = scores.reshape(-1), benefit.reshape(-1)
    leaving, coming = _boundary_pairs(flat_scores.reshape(-1, m), n)
    last, first = flat_scores[leaving], flat_scores[coming]
    size = (last.abs() + first.abs()) / 2
    gap = (last - first) / size.clamp(min=torch.finfo(size.dtype).tiny)
    sampled = gap[:: max(1, gap.numel() // SAMPLED_GAPS)]
    width = float(sampled.kthvalue(max(1, int(NEAR * sampled.numel()))).values)
    near = torch.nonzero((gap < width) & (size > 0))[:, 0]
    leaving, coming = leaving[near], coming[near]
    change = (flat[coming] - flat[leaving]) * torch.sign(last[near])
    slopes = []
    for factor in log_factors:
        if factor.shape[0] == 1:
            difference = factor[0][coming % columns] - factor[0][leaving % columns]
        else:
            values = factor.reshape(-1)
            difference = values[coming] - values[leaving]
        # Halved, as a step either way swaps only the half of the pairs that it brings nearer.
        slopes.append(float(change @ difference) / (2 * width) if width > 0 else 0.0)
    return slopes


def _boundary_pairs(groups: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Of ``groups`` ``[count, M]``, indices into all scores of the two at each boundary."""
    array = groups.cpu().contiguous().numpy()
    leaving, coming = (np.empty(len(array), np.int64) for _ in range(2))
    kernels.boundary_pairs(array, n, leaving, coming)
    starts = torch.arange(0, array.size, array.shape[1])
    first, second = (
        (starts + torch.from_numpy(one)).to(groups.device) for one in (leaving, coming)
    )
    return first, second
