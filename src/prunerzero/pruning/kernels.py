"""Selection on a CPU, compiled by numba: rows by counting, N:M groups by comparing all pairs.

Plain loops that LLVM turns into vector instructions; they hold no interpreter lock. What they find
is what a stable ascending sort of every group would say (`prunerzero.pruning.masks`).

Scores are compared as *keys*, int32 numbers in the same order: `-0.0` has the key of `0.0`, and NaN
the largest.
"""

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]

LARGEST = np.int32(np.iinfo(np.int32).max)
SMALLEST = np.int32(np.iinfo(np.int32).min)
ZERO = np.float32(0.0)
CHUNK = 4096  # scores of N:M groups worked on at once: they stay in the first-level cache

compiled = njit(nogil=True, cache=True)


@compiled
def keep_highest(scores: Array, pruned: int, kept: Array) -> None:
    """Prunes the lowest scores of every row.

    Args:
        scores: float32 `[rows, columns]`, contiguous.
        pruned: how many go in each row, 0 < `pruned` < columns.
        kept: bool `[rows, columns]`, the result.
    """
    rows, columns = scores.shape
    keys = np.empty(columns, np.int32)
    for row in range(rows):
        _read_keys(scores[row], keys)
        lowest_kept = np.int32(_smallest(keys, pruned))
        stays = kept[row]
        for column in range(columns):
            stays[column] = keys[column] >= lowest_kept
        surplus = pruned - _count_below(keys, lowest_kept)
        column = 0
        while surplus > 0:  # of equal scores the first go
            if keys[column] == lowest_kept:
                stays[column] = False
                surplus -= 1
            column += 1


@compiled
def keep_n_of_m(scores: Array, n: int, m: int, kept: Array) -> None:
    """Prunes the M - N lowest of every M scores.

    Args:
        scores: float32 `[count]`, contiguous, a multiple of M.
        n: how many of each M are kept.
        m: size of a group.
        kept: bool `[count]`, the result.
    """
    whole = max(1, CHUNK // m) * m
    keys = np.empty(whole, np.int32)
    planes = np.empty((m, whole // m), np.int32)
    ranks = np.empty((m, whole // m), np.int32)
    for start in range(0, scores.size, whole):
        stop = min(start + whole, scores.size)
        if m == 4:
            sums = keys[: (stop - start) // 4].view(np.float32)
            _rank_fours(scores[start:stop], n, kept[start:stop], sums)
            if not _any_nan(sums):
                continue
        _read_keys(scores[start:stop], keys)
        _rank_groups(keys, n, kept[start:stop], planes, ranks)


@compiled
def order_statistics(scores: Array, places: Array, found: Array) -> None:
    """The scores at some places of every row's ascending order.

    Args:
        scores: float32 `[rows, columns]`, contiguous, without NaN.
        places: int64 `[count]`, from 0.
        found: float32 `[rows, count]`, the result.
    """
    rows, columns = scores.shape
    keys = np.empty(columns, np.int32)
    bits = found.view(np.int32)
    for row in range(rows):
        _read_keys(scores[row], keys)
        for index in range(places.size):
            key = np.int32(_smallest(keys, places[index]))
            bits[row, index] = key if key >= 0 else key ^ LARGEST


@compiled
def boundary_pairs(scores: Array, n: int, leaving: Array, coming: Array) -> None:
    """In every group of M the lowest score that is kept and the highest that is pruned.

    Args:
        scores: float32 `[groups, M]`, contiguous, without NaN.
        n: how many of each M are kept.
        leaving: int64 `[groups]`, the member that is kept and would go first.
        coming: int64 `[groups]`, the member that is pruned and would stay first.
    """
    groups, m = scores.shape
    for group in range(groups):
        for member in range(m):
            score = scores[group, member]
            rank = 0
            for other in range(m):
                lower = scores[group, other] < score
                rank += lower or (scores[group, other] == score and other < member)
            if rank == m - n:
                leaving[group] = member
            elif rank == m - n - 1:
                coming[group] = member


@compiled
def write_bfloat16(weights: Array, kept: Array, out: Array) -> None:
    """Writes kept weights, rounded to the nearest bfloat16 (of two, the even one), and +0.0 else.

    Args:
        weights: bits of finite float32 numbers, int32 `[count]`.
        kept: int8 `[count]`, 1 or 0.
        out: bits of bfloat16 numbers, int16 `[count]`, the result.
    """
    half, width, one = np.int32(0x7FFF), np.int32(16), np.int32(1)
    for index in range(weights.size):
        bits = weights[index]
        rounded = (bits + half + ((bits >> width) & one)) >> width
        out[index] = np.int16(rounded * np.int32(kept[index]))


@compiled
def _any_nan(numbers: Array) -> Any:
    found = np.int32(0)
    for index in range(numbers.size):
        found += np.int32(numbers[index] != numbers[index])
    return found


@compiled
def _read_keys(scores: Array, keys: Array) -> None:
    floats = keys.view(np.float32)
    for index in range(scores.size):
        floats[index] = scores[index] + ZERO  # -0.0 becomes 0.0
    for index in range(scores.size):
        bits = keys[index]
        key = bits ^ ((bits >> 31) & LARGEST)
        is_nan = scores[index] != scores[index]
        keys[index] = LARGEST if is_nan else key


@compiled
def _smallest(keys: Array, place: int) -> Any:
    """The key at a place of the sorted keys, found by counting how many are below a guess.

    The guesses are those of the Illinois variant of false position, in the count of keys: about
    five for a row of weights' scores.
    """
    least, most = _extremes(keys)
    low, high = np.int64(least), np.int64(most) + 1  # the key is below high, and not below low
    below_low, below_high = 0, keys.size
    wanted = place + 0.5
    low_gap, high_gap = below_low - wanted, below_high - wanted
    last = 0
    while high - low > 1:
        if below_low == place:
            return _least_from(keys, np.int32(low))
        if below_high == place + 1:
            return _most_to(keys, np.int32(high - 1))
        guess = low - np.int64((high - low) * (low_gap / (high_gap - low_gap)))
        if guess <= low or guess >= high:
            guess = (low + high) >> 1
        below = _count_below(keys, np.int32(guess))
        if below <= place:
            low, below_low, low_gap = guess, below, below - wanted
            if last == 1:  # the same end twice: the other one counts for less
                high_gap *= 0.5
            last = 1
        else:
            high, below_high, high_gap = guess, below, below - wanted
            if last == -1:
                low_gap *= 0.5
            last = -1
    return np.int32(low)


# Below, every number is int32: the compiler would not make vectors of a mixture.


@compiled
def _extremes(keys: Array) -> tuple[Any, Any]:
    least, most = LARGEST, SMALLEST
    for index in range(keys.size):
        least = min(least, keys[index])
        most = max(most, keys[index])
    return least, most


@compiled
def _count_below(keys: Array, bound: Any) -> Any:
    count = np.int32(0)
    for index in range(keys.size):
        count += np.int32(keys[index] < bound)
    return count


@compiled
def _least_from(keys: Array, bound: Any) -> Any:
    found = LARGEST
    for index in range(keys.size):
        found = min(found, keys[index] if keys[index] >= bound else LARGEST)
    return found


@compiled
def _most_to(keys: Array, bound: Any) -> Any:
    found = SMALLEST
    for index in range(keys.size):
        found = max(found, keys[index] if keys[index] <= bound else SMALLEST)
    return found


@compiled
def _rank_fours(scores: Array, n: int, kept: Array, sums: Array) -> None:
    """All pairs of a group of four: of two, the earlier ranks lower where they are equal.

    Numbers compare as their keys do, unless there is a NaN among them: then the group's sum is NaN.
    """
    pruned = np.int32(4 - n)
    for group in range(kept.size // 4):
        first = 4 * group
        a, b, c, d = scores[first], scores[first + 1], scores[first + 2], scores[first + 3]
        ab, ac, ad = np.int32(a <= b), np.int32(a <= c), np.int32(a <= d)
        bc, bd, cd = np.int32(b <= c), np.int32(b <= d), np.int32(c <= d)
        kept[first] = 3 - ab - ac - ad >= pruned
        kept[first + 1] = 2 + ab - bc - bd >= pruned
        kept[first + 2] = 1 + ac + bc - cd >= pruned
        kept[first + 3] = ad + bd + cd >= pruned
        sums[group] = (a + b) + (c + d)


@compiled
def _rank_groups(keys: Array, n: int, kept: Array, planes: Array, ranks: Array) -> None:
    """The same for keys and groups of any size, a plane of all groups' members at a time."""
    m = len(planes)
    groups = kept.size // m
    for member in range(m):
        for group in range(groups):
            planes[member, group] = keys[group * m + member]
            ranks[member, group] = m - 1 - member
    for earlier in range(m):
        for later in range(earlier + 1, m):
            for group in range(groups):
                before = np.int32(planes[earlier, group] <= planes[later, group])
                ranks[earlier, group] -= before
                ranks[later, group] += before
    for member in range(m):
        for group in range(groups):
            kept[group * m + member] = ranks[member, group] >= m - n
