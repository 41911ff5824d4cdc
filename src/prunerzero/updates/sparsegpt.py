"""SparseGPT's update (Frantar and Alistarh, ICML 2023, arXiv 2301.00774).

Columns are taken from left to right. What pruning does to a row's output is made up for, as far
as it can be, by the row's weights in the columns that come after. The textbook updates all later
columns at once; here each column gathers what all earlier ones have left to it, which is the same
sum, in three levels so that most of it is products of large matrices. Weights are held transposed,
so that a column is contiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from prunerzero.errors import InputError
from prunerzero.pruning import masks
from prunerzero.pruning.pattern import Pattern
from prunerzero.statistics.hessian import DAMPING, InverseFactor, factored

BLOCK = 128
STRIP = 16  # columns taken one by one before the next product of matrices

# Given a range of columns and their weights [columns, out] as they are by then, says which of them
# are pruned: bool [columns, out].
Choice = Callable[[slice, Tensor], Tensor]


def sparsegpt(
    weight: Tensor,
    gram: Tensor,
    pattern: Pattern,
    *,
    mask: Tensor | None = None,
    damping: float = DAMPING,
    block_size: int = BLOCK,
) -> Tensor:
    """Prunes a weight matrix and updates what is kept.

    Without a mask it makes SparseGPT's own, as the public code does: weights of inputs that were
    never active go; of each block of columns, those whose saliency w^2 / d is at most the sorted
    one at index floor(n * sparsity); of each M columns of an N:M pattern, the M - N lowest.

    Args:
        weight: ``[out, in]``.
        gram: X^T X over the calibration tokens, ``[in, in]``, at any positive scale.
        pattern: what may be zero; not looked at where there is a mask.
        mask: bool ``[out, in]``, True = kept; it alone says what goes.
        damping: added to the diagonal of ``gram``, as a share of its mean.
        block_size: columns that are ranked together, and updated together.

    Returns:
        A new tensor ``[out, in]`` of the weight's type, with +0.0 where pruned.

    Raises:
        InputError: a shape does not fit, something is not finite, or M does not divide the width.
    """
    _check(weight, gram, mask, block_size)
    factor = factored(gram, damping)
    if mask is not None:
        return updated(weight, mask, factor, block_size)
    pattern.check_width(weight.shape[1], "the weight")

    def choose(columns: slice, weights: Tensor) -> Tensor:
        saliency = weights.square() / factor.free[columns, None]
        if pattern.n is not None and pattern.m is not None:
            return ~masks.keep_n_of_m(saliency.T.contiguous(), pattern.n, pattern.m).T
        index = pattern.count(saliency.numel())
        return saliency <= saliency.flatten().kthvalue(index + 1).values

    alive = weight.detach().float().masked_fill(factor.dead, 0.0)
    return adaptive(alive, factor, choose, pattern, block_size).to(weight.dtype)


@torch.no_grad()
def updated(
    weight: Tensor, mask: Tensor, factor: InverseFactor, block_size: int = BLOCK
) -> Tensor:
    """The values of the kept weights under a mask, by a factor that has been computed before.

    Args:
        weight: dense, ``[out, in]``.
        mask: bool ``[out, in]``, True = kept.
        factor: of the matrix's Gram matrix.
        block_size: columns between two products with all that came before.

    Returns:
        A new tensor ``[out, in]`` of the weight's type, with +0.0 where the mask is False.
    """
    pruned = (~mask).T.contiguous()
    result = _swept(
        weight, factor, lambda columns, _: pruned[columns], (block_size, STRIP, 1), block_size
    )
    return result.to(weight.dtype)


@torch.no_grad()
def adaptive(
    weight: Tensor,
    factor: InverseFactor,
    choose: Choice,
    pattern: Pattern,
    block_size: int = BLOCK,
) -> Tensor:
    """Prunes and updates with a mask that is chosen along the way, from weights updated so far.

    Args:
        weight: dense, ``[out, in]``.
        factor: of the matrix's Gram matrix.
        choose: is asked for one block of columns after the other, or for M columns.
        pattern: says which of the two.
        block_size: columns of a block; for N:M as many whole groups as fit.

    Returns:
        A new float32 tensor ``[out, in]``, with +0.0 where pruned.
    """
    if pattern.m is None:
        return _swept(weight, factor, choose, (block_size, STRIP, 1), block_size)
    groups = max(1, block_size // pattern.m) * pattern.m
    return _swept(weight, factor, choose, (groups, pattern.m, STRIP, 1), pattern.m)


def _swept(
    weight: Tensor, factor: InverseFactor, choose: Choice, levels: tuple[int, ...], chosen: int
) -> Tensor:
    """Takes all columns in their order.

    Args:
        weight: dense, ``[out, in]``.
        factor: of the Gram matrix.
        choose: says what goes.
        levels: sizes of the ranges of columns, each inside one of the size before it.
        chosen: the size of those that ``choose`` is asked for.

    Returns:
        float32 ``[out, in]``.
    """
    weights = weight.detach().float().T.contiguous()
    if weights.data_ptr() == weight.data_ptr():  # a transposed float32 weight, as it is
        weights = weights.clone()
    errors = torch.zeros_like(weights)  # what each column lost
    pruned = torch.zeros_like(weights)
    upper = factor.upper

    def sweep(columns: slice, levels: tuple[int, ...]) -> None:
        size, deeper = levels[0], levels[1:]
        for part in _parts(columns, size):
            if part.start > columns.start:
                earlier = slice(columns.start, part.start)
                weights[part].addmm_(upper[earlier, part].T, errors[earlier], alpha=-1)
            if size == chosen:
                pruned[part] = choose(part, weights[part])
            if deeper:
                sweep(part, deeper)
            else:
                torch.mul(weights[part], pruned[part], out=errors[part])
                weights[part].sub_(errors[part])  # x - x is +0.0, where a product keeps its sign

    sweep(slice(0, len(weights)), levels)
    return weights.T.contiguous()


def _parts(columns: slice, size: int) -> Iterator[slice]:
    for start in range(columns.start, columns.stop, size):
        yield slice(start, min(start + size, columns.stop))


def _check(weight: Any, gram: Any, mask: Any, block_size: int) -> None:
    if weight.ndim != 2 or not weight.is_floating_point():
        raise InputError(
            f"weight of shape {list(weight.shape)} and {weight.dtype}: must be a real matrix "
            "[out_features, in_features]"
        )
    if list(gram.shape) != [weight.shape[1]] * 2:
        raise InputError(
            f"Gram matrix of shape {list(gram.shape)}: must be {[weight.shape[1]] * 2} for a "
            f"weight of shape {list(weight.shape)}"
        )
    if mask is not None and (mask.shape != weight.shape or mask.dtype != torch.bool):
        raise InputError(
            f"mask of shape {list(mask.shape)} and {mask.dtype}: must be bool of the weight's "
            f"shape {list(weight.shape)}, True = kept"
        )
    if block_size < 1:
        raise InputError(f"block size {block_size}: must be at least 1")
    if not torch.isfinite(weight).all():
        raise InputError("weight: not finite")
