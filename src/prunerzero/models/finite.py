"""Weights that are numbers, told from those that are not."""

from __future__ import annotations

import torch
from torch import Tensor

PORTION = 1 << 22  # weights checked at once


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; true of types that have none.

    A sum is finite only if its terms are (if it is not, they may still be), and takes one reading
    and no memory but a portion's in float32.
    """
    if not tensor.is_floating_point() or tensor.itemsize == 1:
        return True
    wide = torch.float64 if tensor.itemsize == 8 else torch.float32
    return all(
        bool(torch.isfinite(part.sum(dtype=wide)) or torch.isfinite(part).all())
        for part in tensor.detach().reshape(-1).split(PORTION)
    )
