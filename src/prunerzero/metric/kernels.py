"""What each operator computes: functions of float32 tensors, all of two dimensions.

Only tensor methods are used, so that declaring operators does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FLOAT32_MAX = 3.4028234663852886e38
SMALLEST_DIVISOR = 1e-12


def exp(x: Tensor) -> Tensor:
    """The exponential of at most 100, as in the reference; in float32 it overflows from 88.8 on."""
    return x.clamp(max=100).exp_()


def log(x: Tensor) -> Tensor:
    """The reference's logarithm, of the magnitude plus 0.001."""
    return x.abs().add_(0.001).log_()


def mms(x: Tensor) -> Tensor:
    """Min-max scaling over the whole tensor; a constant gives NaN, as in the reference."""
    low, high = x.aminmax()
    return (x - low).div_(high - low)


def zsn(x: Tensor) -> Tensor:
    """Z-score over the whole tensor, unbiased; a single element gives NaN."""
    if x.numel() == 1:  # torch says the same, with a warning
        return x * float("nan")
    return (x - x.mean()).div_(x.std())


def div(x: Tensor, y: Tensor) -> Tensor:
    """The reference's scalar division: x / (Frobenius norm of y as broadcast against x)."""
    # The dimensions are the larger of each pair, so no call of torch itself is needed.
    rows, columns = max(x.shape[0], y.shape[0]), max(x.shape[1], y.shape[1])
    return x.expand(rows, columns) / y.expand(rows, columns).norm()


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise a / b with abs(b) at least 1e-12 (zero counts as positive), kept finite."""
    positive = b.clamp(min=SMALLEST_DIVISOR)
    divisor = positive.where(b >= 0, b.clamp(max=-SMALLEST_DIVISOR))
    return (a / divisor).clamp_(-FLOAT32_MAX, FLOAT32_MAX)


def power(x: Tensor, exponent: float) -> Tensor:
    """abs(x) ** exponent."""
    return x.abs().pow_(exponent)


def row_std(x: Tensor) -> Tensor:
    """Unbiased standard deviation of each row; of one element NaN."""
    return _std(x, dim=1)


def column_std(x: Tensor) -> Tensor:
    """Unbiased standard deviation of each column; of one element NaN."""
    return _std(x, dim=0)


def row_normalised(x: Tensor) -> Tensor:
    """Each row over its mean magnitude, by `ratio`, so that a row of zeros stays zero."""
    return ratio(x, x.abs().mean(dim=1, keepdim=True))


def column_normalised(x: Tensor) -> Tensor:
    """Each column over its mean magnitude, by `ratio`."""
    return ratio(x, x.abs().mean(dim=0, keepdim=True))


def _std(x: Tensor, dim: int) -> Tensor:
    if x.shape[dim] == 1:  # torch says the same, with a warning
        return x * float("nan")
    return x.std(dim=dim, keepdim=True)
