"""Exact masks by selection: the kernels behind `Pattern.mask`.

The contract is that of a stable ascending sort of every group of which the first weights are
pruned: of equal scores the lower index goes first, `-0.0` equals `0.0`, and NaN is above
everything. None of the kernels sorts. They compare *keys*: int32 numbers in the scores' order, on
which a selection is fastest and NaN an ordinary value.

On a CPU `prunerzero.pruning.kernels` does the work, over blocks of rows that are shared among
`torch.get_num_threads()` threads. Other devices take the torch functions at the end, which need no
synchronisation.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from prunerzero.pruning import kernels
from prunerzero.threads import for_each

Array = np.ndarray[Any, Any]

# Weights that are worth waking a thread for: that takes as long as selecting so many.
ROWS_WORTH, GROUPS_WORTH = 1 << 17, 1 << 19
LARGEST = np.iinfo(np.int32).max


def keep_highest(scores: torch.Tensor, pruned: int) -> torch.Tensor:
    """Masks the `pruned` lowest scores of every row.

    Args:
        scores: float32 `[rows, columns]`.
        pruned: how many go in each row, 0 <= `pruned` < columns.

    Returns:
        bool `[rows, columns]`, True = kept.
    """
    if pruned == 0 or scores.numel() == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if scores.device.type != "cpu":
        return keep_highest_torch(scores, pruned)
    return _in_blocks(
        lambda block, kept: kernels.keep_highest(block, pruned, kept), scores, ROWS_WORTH
    )


def keep_n_of_m(scores: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Masks the M - N lowest of every M consecutive scores of a row.

    Args:
        scores: float32 `[rows, columns]`, columns a multiple of M.
        n: how many of each M are kept, 0 < N < M.
        m: the size of a group.

    Returns:
        bool `[rows, columns]`, True = kept.
    """
    if scores.device.type != "cpu":
        return keep_n_of_m_torch(scores, n, m)
    return _in_blocks(
        lambda block, kept: kernels.keep_n_of_m(block.reshape(-1), n, m, kept.reshape(-1)),
        scores,
        GROUPS_WORTH,
    )


def _in_blocks(
    kernel: Callable[[Array, Array], None], scores: torch.Tensor, worth: int
) -> torch.Tensor:
    """Runs `kernel(scores, kept)` over blocks of rows, on as many threads as torch uses.

    A block for each thread that has `worth` weights to work on: more of them would only wait for
    one another's turn in the interpreter.
    """
    array = scores.detach().contiguous().numpy()
    rows, columns = array.shape
    kept = np.empty((rows, columns), np.bool_)
    count = max(min(torch.get_num_threads(), array.size // worth), 1)
    edges = [rows * index // count for index in range(count + 1)]
    blocks = [slice(*pair) for pair in pairwise(edges) if pair[0] < pair[1]]
    for_each(lambda block: kernel(array[block], kept[block]), blocks)
    return torch.from_numpy(kept)


def keep_highest_torch(scores: torch.Tensor, pruned: int) -> torch.Tensor:
    """`keep_highest` for any device."""
    keys = _keys_torch(scores)
    threshold = torch.kthvalue(keys, pruned, dim=1, keepdim=True).values
    kept = keys > threshold
    stay = keys.shape[1] - pruned - kept.sum(dim=1, keepdim=True)
    equal = keys == threshold
    from_end = equal.flip(1).cumsum(dim=1, dtype=torch.int32).flip(1)
    return kept | (equal & (from_end <= stay))


def keep_n_of_m_torch(scores: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """`keep_n_of_m` for any device."""
    keys = _keys_torch(scores).reshape(-1, m)
    ranks = torch.arange(m - 1, -1, -1, dtype=torch.int32, device=keys.device).repeat(len(keys), 1)
    for distance in range(1, m):
        before = (keys[:, :-distance] <= keys[:, distance:]).to(torch.int32)
        ranks[:, :-distance] -= before
        ranks[:, distance:] += before
    return (ranks >= m - n).reshape(scores.shape)


def _keys_torch(scores: torch.Tensor) -> torch.Tensor:
    bits = (scores.detach().contiguous() + 0.0).view(torch.int32)
    keys = bits ^ ((bits >> 31) & LARGEST)
    return keys.masked_fill(scores.isnan(), LARGEST)
