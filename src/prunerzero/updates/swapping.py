"""DSnoT, dynamic sparse no training (Zhang et al., ICLR 2024, arXiv 2310.08915).

A mask is refined by swaps: in every row a pruned weight comes back and a kept one goes, chosen so
that the row's expected output comes nearer to the dense one's. Values stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunerzero.pruning.pattern import Pattern

CYCLES = 50  # the paper's number of swaps a row
SMALLEST_VARIANCE = 1e-12


@torch.no_grad()
def dsnot(
    weight: Tensor,
    mask: Tensor,
    mean: Tensor,
    variance: Tensor,
    pattern: Pattern,
    cycles: int = CYCLES,
) -> Tensor:
    """Refines a mask; every row keeps as many weights, every M consecutive ones too for N:M.

    A row's expected error is r = sum over its pruned weights of w_j mean_j. A cycle brings back the
    weight with the largest w_j mean_j / variance_j of the error's sign, and prunes the one of the
    lowest Wanda score whose w_j mean_j is of the other sign (N:M: of the same group, of either
    sign). A swap that would not bring the error nearer to zero is left out.

    Args:
        weight: dense, ``[out, in]``.
        mask: bool ``[out, in]``, True = kept.
        mean: mean of each input over tokens, ``[1, in]``.
        variance: its variance, ``[1, in]``.
        pattern: for N:M, the groups that a swap stays in.
        cycles: most swaps a row.

    Returns:
        A new mask, bool ``[out, in]``.
    """
    weight = weight.detach().float()
    share = weight * mean  # what each weight adds to the expected output
    wanda = weight.abs() * (variance + mean.square()).sqrt()
    gain = share / variance.clamp(min=SMALLEST_VARIANCE)
    error = (share * ~mask).sum(1)
    refined = mask.clone()
    count = min(cycles, weight.shape[1])
    # For an error above zero, and for one below.
    signed = [share, -share]
    back = torch.stack([_ranked(gain.abs(), ~mask & (s > 0), count) for s in signed])
    away = torch.stack([_ranked(-wanda, mask & (s < 0), count) for s in signed])
    rows = torch.arange(len(weight), device=weight.device)
    tried = torch.zeros(2, len(rows), dtype=torch.long, device=weight.device)
    for _ in range(count):
        side = (error < 0).long()
        grown = back[side, rows, tried[side, rows]]
        gone = away[side, rows, tried[side, rows]]
        tried[side, rows] += 1
        if pattern.m is not None:
            gone = _lowest_kept(wanda, refined, grown.clamp(min=0), pattern.m)
        possible = (grown >= 0) & (gone >= 0)
        grown, gone = grown.clamp(min=0), gone.clamp(min=0)
        after = error - share[rows, grown] + share[rows, gone]
        swapped = possible & (after.abs() < error.abs())
        # The lists are of the first mask: what came back for one sign may be on neither's again.
        swapped &= refined[rows, gone] & ~refined[rows, grown]
        refined[rows[swapped], grown[swapped]] = True
        refined[rows[swapped], gone[swapped]] = False
        error = torch.where(swapped, after, error)
    return refined


def _lowest_kept(scores: Tensor, kept: Tensor, column: Tensor, m: int) -> Tensor:
    """The column of the lowest kept score in the group of M that each row's ``column`` is in."""
    group = column[:, None] // m * m + torch.arange(m, device=column.device)
    candidates = scores.gather(1, group).masked_fill(~kept.gather(1, group), torch.inf)
    return group.gather(1, candidates.argmin(1, keepdim=True))[:, 0]


def _ranked(values: Tensor, eligible: Tensor, count: int) -> Tensor:
    """Columns of the highest eligible values of each row, in order; -1 where there are no more."""
    best = values.masked_fill(~eligible, -torch.inf).topk(count, dim=1)
    return best.indices.masked_fill(best.values == -torch.inf, -1)
