"""N:M groups of four weights as 2-bit indices: lookup tables from mask bytes to codes and back.

A mask byte holds two groups (bit *i* of the lower half is weight *i* of the first). The code of a
group is the position of its one kept weight (1:4), of its two kept weights in rising order, the
first in the lower bits (2:4), or of its one missing weight (3:4).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

GROUP = 4


@dataclass(frozen=True)
class Tables:
    """What is looked up for one N of N:4.

    Attributes:
        fits: whether both groups of a mask byte keep at most N, ``[256]``.
        completed: mask byte with exactly N kept in each group, ``[256]``; where fewer are non-zero,
            the first zeros are kept too.
        codes: the two groups' codes, ``[256]``.
        masks: mask byte of two groups' codes, 0 where there is no such code; ``[16]`` or ``[256]``.
    """

    fits: NDArray[np.bool_]
    completed: Bytes
    codes: Bytes
    masks: Bytes


def code_bits(kept: int) -> int:
    """Bits of one group's code, where ``kept`` of its four weights are stored."""
    return 4 if kept == 2 else 2


def codes_of(mask: Bytes, kept: int) -> Bytes:
    """Codes of a mask that fits N:4.

    Args:
        mask: an even number of mask bytes.
        kept: N.

    Returns:
        As many bytes for 2:4, half of them for 1:4 and 3:4.
    """
    codes: Bytes = tables(kept).codes[mask]
    return codes if kept == 2 else codes[0::2] | codes[1::2] << np.uint8(4)


def mask_of(codes: Bytes, kept: int) -> Bytes:
    """The mask behind `codes_of`: exactly N kept in each group.

    Raises:
        ValueError: a code is none that `codes_of` gives.
    """
    if kept != 2:
        codes = np.stack([codes & 15, codes >> 4], axis=1).reshape(-1)
    mask: Bytes = tables(kept).masks[codes]
    if not mask.all():
        raise ValueError("an index of a kept weight is impossible")
    return mask


@cache
def tables(kept: int) -> Tables:
    """The tables of ``kept``:4."""
    groups = _groups(kept)
    bits = code_bits(kept)
    completed, codes = np.zeros(256, np.uint8), np.zeros(256, np.uint8)
    fits = np.zeros(256, np.bool_)
    masks = np.zeros(1 << 2 * bits, np.uint8)
    for byte in range(256):
        pair = [_cover(half, groups) for half in (byte & 15, byte >> 4)]
        if None not in pair:
            low, high = (code for code in pair if code is not None)
            fits[byte] = True
            codes[byte] = low | high << bits
            completed[byte] = groups[low] | groups[high] << GROUP
            masks[codes[byte]] = completed[byte]
    return Tables(fits, completed, codes, masks)


def _groups(kept: int) -> dict[int, int]:
    """The mask of four bits behind every code."""
    if kept == 2:
        return {i | j << 2: 1 << i | 1 << j for i, j in combinations(range(GROUP), 2)}
    flip = 15 if kept == 3 else 0
    return {i: flip ^ 1 << i for i in range(GROUP)}


def _cover(half: int, groups: dict[int, int]) -> int | None:
    return next((code for code, mask in groups.items() if half & ~mask == 0), None)
