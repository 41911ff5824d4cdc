"""Exact masks by selection: the kernels behind `Pattern.mask`.

The contract is that of a stable ascending sort of every group of which the first weights are
pruned: of equal scores the lower index goes first, `-0.0` equals `0.0`, and NaN is above
everything. None of the kernels sorts. They compare scores, or *keys*: int32 numbers in the
same order, on which a selection is fastest and NaN an ordinary value.

On a CPU the work is numpy's (`partition` is x86-simd-sort's vectorised quickselect) over blocks
of rows that stay in cache, shared among `torch.get_num_threads()` threads. Other devices take
the torch functions at the end, which need no synchronisation.
"""

import threading
from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from prunerzero.threads import for_each

Array = np.ndarray[Any, Any]

BLOCK = 1 << 19  # weights worked on at once: in cache, yet numpy's cost per call is small
WORDS: dict[int, Any] = {
    2: np.uint16,
    4: np.uint32,
    8: np.uint64,
}  # one group of M bools, read as one number
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
    return _in_blocks(lambda block, kept: _keep_highest(block, pruned, kept), scores)


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
    if m not in WORDS:
        return keep_highest(scores.reshape(-1, m), m - n).reshape(scores.shape)
    return _in_blocks(lambda block, kept: _keep_n_of_m(block, n, m, kept), scores)


def _in_blocks(kernel: Callable[[Array, Array], None], scores: torch.Tensor) -> torch.Tensor:
    """Runs `kernel(scores, kept)` over blocks of rows, on as many threads as torch uses."""
    array = scores.detach().contiguous().numpy()
    rows, columns = array.shape
    kept = np.empty((rows, columns), np.bool_)
    # Not more than BLOCK at once, and something for every thread where that is worth it.
    count = max(-(-array.size // BLOCK), min(torch.get_num_threads(), 4 * array.size // BLOCK), 1)
    edges = [rows * index // count for index in range(count + 1)]
    blocks = [slice(*pair) for pair in pairwise(edges) if pair[0] < pair[1]]
    for_each(lambda block: kernel(array[block], kept[block]), blocks)
    return torch.from_numpy(kept)


_own = threading.local()


def _scratch(size: int, kind: Any) -> Array:
    """Memory of this thread for `size` numbers, the same at every call.

    The system zeroes the pages of fresh memory, which takes as long as half the work on them.
    """
    wanted, usual = size * np.dtype(kind).itemsize, BLOCK * np.dtype(np.int32).itemsize
    if wanted > usual:
        return np.empty(size, kind)
    if getattr(_own, "memory", np.empty(0)).size < usual:
        _own.memory = np.empty(usual, np.uint8)
    memory: Array = _own.memory[:wanted].view(kind)
    return memory


def _keep_highest(scores: Array, pruned: int, kept: Array) -> None:
    if scores.min() >= 0:  # also False for NaN
        # The bits of non-negative floats are ordered like the floats; adding 0 makes -0.0 0.0.
        work = _scratch(scores.size, np.float32).reshape(scores.shape)
        ordered, work = scores, np.add(scores, np.float32(0), out=work).view(np.int32)
    else:
        ordered = _keys(scores)
        work = ordered.copy()
    work.partition(pruned, axis=1)
    lowest_kept = work.view(ordered.dtype)[:, pruned : pruned + 1].copy()
    np.greater_equal(ordered, lowest_kept, out=kept)
    columns = kept.shape[1]
    surplus = kept.view(np.uint8).sum(axis=1, dtype=np.min_scalar_type(columns))
    surplus -= surplus.dtype.type(columns - pruned)
    if surplus.any():
        _prune_ties(ordered, lowest_kept, surplus, kept)


def _prune_ties(ordered: Array, lowest_kept: Array, surplus: Array, kept: Array) -> None:
    """Prunes the first `surplus[i]` of the scores in row i that equal its lowest kept one.

    Args:
        ordered: `[rows, columns]`, the scores or their keys.
        lowest_kept: `[rows, 1]`.
        surplus: `[rows]`, how many weights too many are kept.
        kept: `[rows, columns]`, changed in place.
    """
    rows = np.flatnonzero(surplus)
    row, column = np.divmod(np.flatnonzero(ordered[rows] == lowest_kept[rows]), kept.shape[1])
    count = np.bincount(row)
    ordinal = np.arange(row.size) - (np.cumsum(count) - count)[row]
    goes = ordinal < surplus[rows[row]]
    kept[rows[row[goes]], column[goes]] = False


def _keep_n_of_m(scores: Array, n: int, m: int, kept: Array) -> None:
    """Counts every score's rank in its group with the M bytes of a group held in one number.

    For i < j, score i is before j in the stable order iff s_i <= s_j; that adds one to the rank
    of j, else to that of i. So rank_i starts as the number of later members, and each true
    comparison at distance d takes one from byte i and adds one to byte i + d: a product with
    256^d - 1. Borrows between bytes cancel, for the final ranks are between 0 and M - 1.
    """
    word = WORDS[m]
    # Comparisons of NaN are all False, those of keys are right.
    flat = (_keys(scores) if np.isnan(scores.min()) else scores).reshape(-1)
    before = kept.reshape(-1)  # the result takes its place at the end
    ranks, pairs = _scratch(2 * flat.size // m, word).reshape(2, -1)
    for distance, (inside, step) in enumerate(_rank_steps(m), 1):
        np.less_equal(flat[:-distance], flat[distance:], out=before[:-distance])
        change = ranks if distance == 1 else pairs
        np.bitwise_and(before.view(word), inside, out=change)
        np.multiply(change, step, out=change)
        np.add(ranks, _START[m] if distance == 1 else pairs, out=ranks)
    np.greater_equal(ranks.view(np.uint8), np.uint8(m - n), out=before)


@cache
def _rank_steps(m: int) -> list[tuple[Any, Any]]:
    """For each distance: the pairs that do not cross the end of a group, and the factor."""
    word = WORDS[m]
    return [
        (word(_in_bytes(1 for _ in range(m - distance))), word(256**distance - 1))
        for distance in range(1, m)
    ]


def _in_bytes(values: Iterable[int]) -> int:
    return sum(value << (8 * i) for i, value in enumerate(values))


_START = {m: word(_in_bytes(range(m - 1, -1, -1))) for m, word in WORDS.items()}


def _keys(scores: Array) -> Array:
    """int32 keys in the order of the float32 `scores`, equal where those are, NaN the largest."""
    bits = np.add(scores, np.float32(0)).view(np.int32)
    keys = bits ^ ((bits >> 31) & LARGEST)
    keys[np.isnan(scores)] = LARGEST
    return keys


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
