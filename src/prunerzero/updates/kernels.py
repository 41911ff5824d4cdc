"""The update of one block of columns on a CPU, compiled by numba.

Columns take from the ones before them what these have lost, a chunk of rows at a time, so that the
chunk stays in the first-level cache. Weights are held transposed, ``[columns, out]``, so a chunk of
rows is contiguous. The kernels hold no interpreter lock.
"""

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]

CHUNK = 64  # rows of the weight at once: with 128 columns, their errors take 32 KB

compiled = njit(nogil=True, cache=True, fastmath={"contract"})


@compiled
def sweep(weights: Array, errors: Array, inner: Array, pruned: Array) -> None:
    """Updates a block of columns whose mask is known.

    Args:
        weights: float32 `[columns, out]`; becomes what each weight is when its turn comes.
        errors: float32 `[columns, out]`, given what goes: the weight where pruned, else 0.
        inner: float32 `[columns, columns]`, what a column (second index) leaves to a later one.
        pruned: float32 `[columns, out]`, 1 where a weight goes, else 0.
    """
    columns, rows = weights.shape
    for left in range(0, rows, CHUNK):
        right = min(left + CHUNK, rows)
        for column in range(columns):
            mine = weights[column, left:right]
            _gather(mine, errors[:, left:right], inner[column], 0, column)
            _split(mine, pruned[column, left:right], errors[column, left:right])


@compiled
def sweep_groups(
    weights: Array, errors: Array, inner: Array, factors: Array, m: int, count: int
) -> None:
    """Updates a block of columns, of each M of which the lowest go when their turn comes.

    Args:
        weights: as for `sweep`.
        errors: as for `sweep`.
        inner: as for `sweep`.
        factors: float32 `[columns, out]` or `[columns, 1]`, not negative: the score of a weight is
            its size times its factor.
        m: columns of a group.
        count: how many of them go; of equal scores the first.
    """
    columns, rows = weights.shape
    shared = factors.shape[1] == 1
    scores = np.empty((m, CHUNK), np.float32)
    ranks = np.empty((m, CHUNK), np.int32)
    pruned = np.empty((m, CHUNK), np.bool_)
    for left in range(0, rows, CHUNK):
        right = min(left + CHUNK, rows)
        width = right - left
        before = errors[:, left:right]
        for start in range(0, columns, m):
            for member in range(m):
                mine = weights[start + member, left:right]
                _gather(mine, before, inner[start + member], 0, start)
                score = scores[member, :width]
                if shared:
                    factor = factors[start + member, 0]
                    for row in range(width):
                        score[row] = abs(mine[row]) * factor
                else:
                    own = factors[start + member, left:right]
                    for row in range(width):
                        score[row] = abs(mine[row]) * own[row]
            _choose(scores, ranks, pruned, count, width)
            for member in range(m):
                column = start + member
                mine = weights[column, left:right]
                _gather(mine, before, inner[column], start, column)
                _split(mine, pruned[member, :width], errors[column, left:right])


@compiled
def _gather(mine: Array, errors: Array, shares: Array, first: int, stop: int) -> None:
    """Takes from a column what the columns from `first` to `stop` have left to it."""
    column = first
    while column + 4 <= stop:
        a, b, c, d = shares[column], shares[column + 1], shares[column + 2], shares[column + 3]
        one, two = errors[column], errors[column + 1]
        three, four = errors[column + 2], errors[column + 3]
        for row in range(mine.size):
            mine[row] -= a * one[row] + b * two[row] + c * three[row] + d * four[row]
        column += 4
    while column < stop:
        a, one = shares[column], errors[column]
        for row in range(mine.size):
            mine[row] -= a * one[row]
        column += 1


@compiled
def _split(mine: Array, pruned: Array, lost: Array) -> None:
    for row in range(mine.size):
        lost[row] = mine[row] if pruned[row] != 0 else np.float32(0.0)


@compiled
def _choose(scores: Array, ranks: Array, pruned: Array, count: int, width: int) -> None:
    """All pairs of a group: of two equal ones the first ranks lower."""
    m = len(scores)
    for member in range(m):
        for row in range(width):
            ranks[member, row] = m - 1 - member
    for earlier in range(m):
        for later in range(earlier + 1, m):
            for row in range(width):
                before = np.int32(scores[earlier, row] <= scores[later, row])
                ranks[earlier, row] -= before
                ranks[later, row] += before
    for member in range(m):
        for row in range(width):
            pruned[member, row] = ranks[member, row] < count
