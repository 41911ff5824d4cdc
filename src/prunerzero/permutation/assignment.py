"""Which order of input channels lets an N:M pattern keep most: RIA's channel permutation.

(Zhang et al., "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models",
ICLR 2024.) First a heuristic allocation: channels, sorted by their scores' sums, are dealt out to
the groups of M so that none gets all the important ones. Then for each of the M places in turn
the channels at this place of all groups are reassigned to groups, optimally, by linear sum
assignment. The identity is among the assignments, so no step loses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prunerzero.errors import MissingExtraError

LARGEST = 512  # groups reassigned among one another; the cost grows with the square


def kept(scores: Tensor, n: int, m: int) -> float:
    """The sum of the scores that an N:M pattern keeps.

    Args:
        scores: ``[rows, columns]``, columns a multiple of M.
        n: kept of every M consecutive ones of a row.
        m: size of a group.
    """
    return float(scores.reshape(len(scores), -1, m).topk(n, dim=-1).values.double().sum())


def best_order(scores: Tensor, n: int, m: int) -> Tensor:
    """An order of the columns that keeps more; never less than the one they have.

    Args:
        scores: ``[rows, columns]``, columns a multiple of M.
        n: kept of every M.
        m: size of a group.

    Returns:
        Column numbers ``[columns]`` in their new order.
    """
    scores = scores.float().cpu()
    own = torch.arange(scores.shape[1])
    found = _reassigned(scores, _dealt(scores, m), n, m)
    return found if kept(scores[:, found], n, m) > kept(scores, n, m) else own


def _dealt(scores: Tensor, m: int) -> Tensor:
    """Heuristic allocation: M piles of falling importance, dealt to the groups to and fro."""
    piles = scores.sum(0).argsort(descending=True, stable=True).view(m, -1).clone()
    piles[1::2] = piles[1::2].flip(1)
    return piles.T.reshape(-1)


def _reassigned(scores: Tensor, order: Tensor, n: int, m: int) -> Tensor:
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        raise MissingExtraError("analysis", "channel permutation (scipy)") from None

    groups = order.view(-1, m).clone()
    parts = -(-len(groups) // LARGEST)
    for place in range(m):
        for part in range(parts):
            members = torch.arange(part, len(groups), parts)
            table = _kept_table(scores, groups[members], place, n)
            _, chosen = linear_sum_assignment(table.numpy(), maximize=True)
            groups[members, place] = groups[members[torch.from_numpy(chosen)], place]
    return groups.reshape(-1)


def _kept_table(scores: Tensor, groups: Tensor, place: int, n: int) -> Tensor:
    """What each group would keep with each of the channels at ``place``, less a constant a group.

    With the other M - 1 sorted, a row keeps their best N - 1 and the larger of the Nth and the
    newcomer.

    Returns:
        ``[groups, groups]``: group by the group that the channel is from.
    """
    rows = scores[:, groups]  # [rows, groups, m]
    newcomers = rows[:, :, place]
    others = torch.cat([rows[:, :, :place], rows[:, :, place + 1 :]], dim=2)
    last = others.topk(n, dim=2).values[:, :, n - 1]
    return torch.stack(
        [torch.maximum(newcomers, last[:, [group]]).sum(0) for group in range(len(groups))]
    )
