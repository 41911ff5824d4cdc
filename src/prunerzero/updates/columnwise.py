"""SparseGPT's update (Frantar and Alistarh, ICML 2023, arXiv 2301.00774).

Columns are taken from left to right. What pruning does to a row's output is made up for, as far
as it can be, by the row's weights in the columns that come after. The textbook updates the later
columns of a block after every column; here a column gathers what the earlier ones have left to it
when its turn comes, which is the same sum, level by level so that most of it is products of
matrices. Weights are held transposed, so that a column is contiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunerzero.errors import InputError
from prunerzero.pruning.pattern import Pattern
from prunerzero.statistics.hessian import DAMPING, InverseFactor, factored
from prunerzero.updates.kernels import sweep, sweep_groups

BLOCK = 128
# Columns between two products of matrices; and, where no compiled kernel is, those taken at once.
STRIP, FEW = 32, 8

# Given a range of columns and their weights [columns, out] as they are by then, says which of them
# are pruned: bool [columns, out].
Choice = Callable[[slice, Tensor], Tensor]


@dataclass(frozen=True)
class Lowest:
    """The choice of an N:M mask by scores that are the weights' sizes times fixed factors.

    Attributes:
        factors: float32 ``[in, out]`` or ``[in, 1]``, finite and not negative.
        count: how many of each M columns go.
        m: columns of a group.
    """

    factors: Tensor
    count: int
    m: int

    def __call__(self, columns: slice, weights: Tensor) -> Tensor:
        """See `Choice`."""
        return lowest_of_group(weights.abs() * self.factors[columns], self.count)


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
        return saliency <= _sorted_at(saliency, pattern.count(saliency.numel()))

    choice: Choice = choose
    if pattern.n is not None and pattern.m is not None:
        roots = factor.free.rsqrt()[:, None].contiguous()
        choice = Lowest(roots, pattern.m - pattern.n, pattern.m)
    alive = weight.detach().float().masked_fill(factor.dead, 0.0)
    return adaptive(alive, factor, choice, pattern, block_size).to(weight.dtype)


@torch.no_grad()
def updated(weight: Tensor, mask: Tensor, factor: InverseFactor, block_size: int = BLOCK) -> Tensor:
    """The values of the kept weights under a mask, by a factor that has been computed before.

    Args:
        weight: dense, ``[out, in]``.
        mask: bool ``[out, in]``, True = kept.
        factor: of the matrix's Gram matrix.
        block_size: columns between two products with all that came before.

    Returns:
        A new tensor ``[out, in]`` of the weight's type, with +0.0 where the mask is False.
    """
    levels = _levels(weight.device, block_size)
    result = _swept(weight, factor.upper, lambda columns, _: ~mask[:, columns].T, levels, chosen=0)
    return result.to(weight.dtype)


@torch.no_grad()
def derivatives(
    weight: Tensor, mask: Tensor, gradient: Tensor, factor: InverseFactor
) -> tuple[Tensor, Tensor]:
    """What each weight is worth where the others make up for it when it goes.

    Let p be 0 for a kept weight and 1 for a pruned one, so that the update is x_i = (1 - p_i) c_i
    with c_i = w_i - sum over k < i of V_ki p_k c_k. By the chain rule -dL/dp_i = c_i u_i with
    u_i = (V g)_i - sum over j > i of V_ij p_j u_j: the update itself, of V g from right to left.

    Args:
        weight: dense, ``[out, in]``.
        mask: bool ``[out, in]``, True = kept.
        gradient: g, of any function L of the updated matrix, at zeros too; ``[out, in]``.
        factor: of the Gram matrix.

    Returns:
        c, what each weight was when its turn came, and -dL/dp, both float32 ``[out, in]``.
    """

    def swept(values: Tensor, upper: Tensor, kept: Tensor) -> Tensor:
        levels = _levels(values.device, BLOCK)
        return _swept(
            values, upper, lambda columns, _: ~kept[:, columns].T, levels, chosen=0, zeros=False
        )

    values = swept(weight, factor.upper, mask)
    back = factor.upper.T.flip(0, 1).contiguous()
    passed = (gradient.float() @ factor.upper.T).flip(1)
    worth = swept(passed, back, mask.flip(1)).flip(1)
    return values, worth.mul_(values)


@torch.no_grad()
def as_chosen(values: Tensor, mask: Tensor, factor: InverseFactor, size: int) -> Tensor:
    """What weights were when their mask was chosen, of so many columns at once.

    Args:
        values: what each was when its own turn came, ``[out, in]`` (`derivatives`).
        mask: bool ``[out, in]``, True = kept.
        factor: of the Gram matrix.
        size: columns whose mask is chosen together.
    """
    lost, found = values.masked_fill(mask, 0.0), values.clone()
    for block in _parts(slice(0, values.shape[1]), max(1, BLOCK // size) * size):
        group = torch.arange(block.stop - block.start, device=values.device) // size
        together = group[:, None] == group
        found[:, block] += lost[:, block] @ (factor.upper[block, block].triu(1) * together)
    return found


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
        return _swept(weight, factor.upper, choose, _levels(weight.device, block_size), chosen=0)
    m, compiled = pattern.m, _is_compiled(weight.device)
    sizes = tuple(max(1, size // m) * m for size in (block_size, STRIP))
    if compiled and isinstance(choose, Lowest):
        return _swept(weight, factor.upper, choose, sizes, chosen=len(sizes))
    levels = (*sizes, m) if compiled or m <= FEW else (*sizes, m, FEW)
    return _swept(weight, factor.upper, choose, levels, chosen=2)


def _is_compiled(device: torch.device) -> bool:
    return device.type == "cpu"


def _levels(device: torch.device, block_size: int) -> tuple[int, ...]:
    """Sizes of ranges of columns, of which a mask is known for each of the largest."""
    return (block_size, STRIP) if _is_compiled(device) else (block_size, STRIP, FEW)


def _swept(
    weight: Tensor,
    upper: Tensor,
    choose: Choice,
    levels: tuple[int, ...],
    chosen: int,
    *,
    zeros: bool = True,
) -> Tensor:
    """Takes all columns in their order.

    Args:
        weight: dense, ``[out, in]``.
        upper: what a column's error leaves to later ones, `InverseFactor.upper`.
        choose: says what goes.
        levels: sizes of the ranges of columns, each inside one of the size before it.
        chosen: which of these sizes ``choose`` is asked for; past the last: a kernel chooses.
        zeros: set to zero what is pruned; else leave what it was when its turn came.

    Returns:
        float32 ``[out, in]``.
    """
    weights = weight.detach().float().T.contiguous()
    if weights.data_ptr() == weight.data_ptr():  # a transposed float32 weight, as it is
        weights = weights.clone()
    memory = weights.new_empty(2, min(levels[0], len(weights)), weights.shape[1])
    for block in _parts(slice(0, len(weights)), levels[0]):
        inner = upper[block, block].T.tril(-1)
        # What each column loses, and 1 where a weight goes.
        errors, pruned = memory[:, : len(inner)]
        _take(block.start, weights[block], errors, pruned, inner, choose, levels, chosen)
        if zeros:
            weights[block] -= errors  # x - x is +0.0, where a product keeps its sign
        later = slice(block.stop, len(weights))
        weights[later].addmm_(upper[block, later].T, errors, alpha=-1)
    return weights.T.contiguous()


def _take(
    start: int,
    weights: Tensor,
    errors: Tensor,
    pruned: Tensor,
    inner: Tensor,
    choose: Choice,
    levels: tuple[int, ...],
    chosen: int,
) -> None:
    """Updates some columns that have what all columns before them left, and says what goes.

    Args:
        start: the first of them.
        weights: ``[columns, out]``, changed in place to what each was when its turn came.
        errors: given what each column loses.
        pruned: given 1 where a weight goes, else 0.
        inner: what columns leave to later ones of these, ``[columns, columns]``, strictly lower
            triangular.
        choose: as for `_swept`.
        levels: as for `_swept`, from this range's size down.
        chosen: as for `_swept`, counted from this level.
    """
    if chosen == 0:
        pruned.copy_(choose(slice(start, start + len(weights)), weights))
    if len(levels) == 1 and _is_compiled(weights.device):
        arrays = weights.numpy(), errors.numpy(), inner.contiguous().numpy()
        if chosen > 0:
            assert isinstance(choose, Lowest)
            factors = choose.factors[start : start + len(weights)].numpy()
            sweep_groups(*arrays, factors, choose.m, choose.count)
        else:
            sweep(*arrays, pruned.numpy())
        return
    if len(levels) == 1:
        # Errors are e = p (w - inner e), a column's from those before it: right from the top, one
        # more after each round.
        values = weights
        torch.mul(values, pruned, out=errors)
        for _ in range(len(weights) - 1):
            values = torch.addmm(weights, inner, errors, alpha=-1)
            torch.mul(values, pruned, out=errors)
        if values is not weights:
            weights.copy_(values)
        return
    for part in _parts(slice(0, len(weights)), levels[1]):
        mine, before = weights[part], slice(0, part.start)
        if part.start:
            mine.addmm_(inner[part, before], errors[before], alpha=-1)
        _take(
            start + part.start, mine, errors[part], pruned[part], inner[part, part], choose,
            levels[1:], chosen - 1,
        )  # fmt: skip


def lowest_of_group(scores: Tensor, count: int) -> Tensor:
    """Which scores are the ``count`` lowest of their column; of equal ones the upper come first.

    The same as `Pattern.mask` of the transpose, faster for one group at a time.

    Args:
        scores: ``[M, out]``, finite.
        count: how many go, between 0 and M.

    Returns:
        bool ``[M, out]``, True = pruned.
    """
    first, second, effect, later = _pairs(len(scores), scores.device)
    before = scores[first] <= scores[second]
    return torch.addmm(later, effect, before.float()) < count


@lru_cache(maxsize=16)
def _pairs(m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All i < j of M, and how their comparisons make ranks: rank = later + effect @ (s_i <= s_j).

    A score's rank starts as the number of those after it; each of these that does not come later
    in the order takes one from it and adds one to its own.
    """
    first, second = torch.triu_indices(m, m, offset=1, device=device)
    pair = torch.arange(len(first), device=device)
    effect = torch.zeros(m, len(first), device=device)
    effect[first, pair], effect[second, pair] = -1.0, 1.0
    later = torch.arange(m - 1, -1, -1, dtype=torch.float32, device=device)[:, None]
    return first, second, effect, later


def _sorted_at(scores: Tensor, index: int) -> Tensor | float:
    """The score at an index of all of them sorted."""
    flat = scores.flatten()
    if flat.device.type == "cpu":  # numpy's selection is several times as fast
        return float(np.partition(flat.numpy(), index)[index])
    return flat.kthvalue(index + 1).values


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
