"""What each operator computes: functions of float32 tensors, all of two dimensions.

The paper's operators overflow as the reference's do. The others are finite for finite arguments.

Only tensor methods are used, so that declaring operators does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import mul
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FLOAT32_MAX = 3.4028234663852886e38
SMALLEST_DIVISOR = 1e-12
LARGEST_ROOTED = 3  # exponents up to here that are multiples of a quarter need no logarithm


def square(x: Tensor) -> Tensor:
    """The square."""
    return x * x


def magnitude(x: Tensor) -> Tensor:
    """|x|."""
    return x.abs()


def root(x: Tensor) -> Tensor:
    """sqrt(|x|)."""
    return x.abs().sqrt_()


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return x.tanh()


def itself(x: Tensor) -> Tensor:
    """The argument itself."""
    return x


def exp(x: Tensor) -> Tensor:
    """The exponential of at most 100, as in the reference; in float32 it overflows from 88.8 on."""
    return x.clamp(max=100).exp_()


def log(x: Tensor) -> Tensor:
    """The reference's logarithm, of the magnitude plus 0.001."""
    return x.abs().add_(0.001).log_()


def mms(x: Tensor) -> Tensor:
    """Min-max scaling over the whole tensor; a constant gives NaN, as in the reference."""
    return rescale(x, *extremes(x))


def extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest element."""
    low, high = x.aminmax()
    return low, high


def rescale(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """What `mms` does once the extremes are known."""
    return (x - low).div_(high - low)


def zsn(x: Tensor) -> Tensor:
    """Z-score over the whole tensor, unbiased; a single element gives NaN."""
    return standardise(x, *moments(x))


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased standard deviation of all elements."""
    # Of a single element torch says NaN too, but with a warning.
    return x.mean(), x.mean() * float("nan") if x.numel() == 1 else x.std()


def standardise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """What `zsn` does once the moments are known."""
    return (x - mean).div_(std)


def div(x: Tensor, y: Tensor) -> Tensor:
    """The reference's scalar division: x / (Frobenius norm of y as broadcast against x)."""
    return over_norm(x, y, *norm(x, y))


def norm(x: Tensor, y: Tensor) -> tuple[Tensor]:
    """Frobenius norm of y as broadcast against x."""
    return (y.expand(_broadcast(x, y)).norm(),)


def over_norm(x: Tensor, y: Tensor, norm_of_y: Tensor) -> Tensor:
    """What `div` does once the norm is known."""
    return x.expand(_broadcast(x, y)) / norm_of_y


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise a / b with abs(b) at least 1e-12 (zero counts as positive), kept finite."""
    divisor = b.abs().clamp_(min=SMALLEST_DIVISOR).copysign_(b + 0.0)  # -0.0 becomes 0.0
    return (a / divisor).clamp_(-FLOAT32_MAX, FLOAT32_MAX)


def power(x: Tensor, exponent: float) -> Tensor:
    """abs(x) ** exponent, kept finite.

    Multiples of a quarter are products of square roots, several times faster than logarithms and
    within 3 units in the last place.
    """
    base = x.abs()
    quarters = 4.0 * exponent
    if not (0 < exponent <= LARGEST_ROOTED and quarters.is_integer()):
        return _bounded(base.pow_(exponent), exponent)
    whole, part = divmod(int(quarters), 4)
    factors = [base] * whole
    if part:
        half = base.sqrt()
        if part >= 2:
            factors.append(half)
        if part % 2:
            factors.append(half.sqrt())
    return _bounded(reduce(mul, factors), exponent)


def _bounded(powers: Tensor, exponent: float) -> Tensor:
    # Exponents from 0 to 1 give nothing larger than the base, or 1.
    return powers if 0 <= exponent <= 1 else powers.clamp_(max=FLOAT32_MAX)


def total(x: Tensor, dim: int) -> Tensor:
    """Sums along a dimension, kept finite."""
    return _kept_finite(x, lambda values: values.sum(dim=dim, keepdim=True))


def mean(x: Tensor, dim: int) -> Tensor:
    """Means along a dimension, whatever their sums are."""
    return _kept_finite(x, lambda values: values.mean(dim=dim, keepdim=True))


def std(x: Tensor, dim: int) -> Tensor:
    """Unbiased standard deviations along a dimension; 0 of a single element."""
    if x.shape[dim] == 1:
        return x * 0.0
    return _kept_finite(x, lambda values: values.std(dim=dim, keepdim=True))


def row_sum(x: Tensor) -> Tensor:
    """Sum of each row, as `total`."""
    return total(x, dim=1)


def column_sum(x: Tensor) -> Tensor:
    """Sum of each column, as `total`."""
    return total(x, dim=0)


def row_mean(x: Tensor) -> Tensor:
    """Mean of each row, as `mean`."""
    return mean(x, dim=1)


def column_mean(x: Tensor) -> Tensor:
    """Mean of each column, as `mean`."""
    return mean(x, dim=0)


def row_std(x: Tensor) -> Tensor:
    """Unbiased standard deviation of each row, as `std`."""
    return std(x, dim=1)


def column_std(x: Tensor) -> Tensor:
    """Unbiased standard deviation of each column, as `std`."""
    return std(x, dim=0)


def row_max(x: Tensor) -> Tensor:
    """Maximum of each row."""
    return x.amax(dim=1, keepdim=True)


def column_max(x: Tensor) -> Tensor:
    """Maximum of each column."""
    return x.amax(dim=0, keepdim=True)


def _kept_finite(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A reduction in float32; in float64 and clamped where that overflows.

    Elements that do not overflow keep their float32 value, whatever the others do: a row's result
    must not depend on the rows that are computed with it.
    """
    found = function(x)
    finite = found.isfinite()
    if finite.all():
        return found
    wide = function(x.double())  # infinite only where an argument is
    clamped = wide.clamp(-FLOAT32_MAX, FLOAT32_MAX).to(found.dtype)
    return found.where(finite | ~wide.isfinite(), clamped)


def row_normalised(x: Tensor) -> Tensor:
    """Each row over its mean magnitude, by `ratio`, so that a row of zeros stays zero."""
    return ratio(x, *row_magnitude(x))


def row_magnitude(x: Tensor) -> tuple[Tensor]:
    """Mean magnitude of each row."""
    return (mean(x.abs(), dim=1),)


def column_normalised(x: Tensor) -> Tensor:
    """Each column over its mean magnitude, by `ratio`."""
    return ratio(x, *column_magnitude(x))


def column_magnitude(x: Tensor) -> tuple[Tensor]:
    """Mean magnitude of each column."""
    return (mean(x.abs(), dim=0),)


def _broadcast(x: Tensor, y: Tensor) -> tuple[int, int]:
    # The dimensions are the larger of each pair, so no call of torch itself is needed.
    return max(x.shape[0], y.shape[0]), max(x.shape[1], y.shape[1])
