"""The inverse of a Gram matrix, factored: what SparseGPT and the OBS scores read.

The Hessian of a layer's squared reconstruction error is the Gram matrix H = X^T X of its inputs.
SparseGPT (arXiv 2301.00774) removes weights column by column and needs, for every column, the
inverse of H without the columns before it. All of these are in one triangular factor:
H^-1 = V^T diag(d) V with V unit upper triangular.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from prunerzero.errors import InputError, PrunerZeroWarning

DAMPING = 0.01
# What a failed factorisation raises the damping by, and where it gives up.
STEP, LEAST, MOST = 10.0, 1e-4, 10.0
# Diagonal of an input that was never active, as a share of the mean: such weights count for little.
DEAD = 0.01
SMALL = 64  # triangular matrices up to this size are inverted by substitution


@dataclass(frozen=True)
class InverseFactor:
    """The damped inverse of a Gram matrix, H^-1 = V^T diag(d) V.

    Attributes:
        upper: V, float32 ``[in, in]``, unit upper triangular. Row j says how an error in column j
            is made up for by the columns after it.
        free: d, float32 ``[in]``: the inverse's diagonal entry of each column when all columns
            before it are fixed (the square of SparseGPT's Cholesky diagonal).
        dead: bool ``[in]``, inputs that were zero on every token.
        damping: the share of the mean diagonal that was added to the diagonal.
    """

    upper: Tensor
    free: Tensor
    dead: Tensor
    damping: float

    @property
    def diagonal(self) -> Tensor:
        """The diagonal of the damped inverse, float32 ``[in]``."""
        return self.free @ self.upper.square()


_known = WeakTensorKeyDictionary()


def inverse_factor(gram: Tensor) -> InverseFactor:
    """`factored` with the usual damping, remembered for as long as the Gram matrix lives.

    Matrices with one input (query, key and value) share their Gram matrix, so they share this.
    """
    found = _known.get(gram)
    if found is None:
        found = _known[gram] = factored(gram)
    return found


@torch.no_grad()
def factored(gram: Tensor, damping: float = DAMPING) -> InverseFactor:
    """Factors the damped inverse of a Gram matrix.

    Where the damped matrix is not positive definite in float32, the damping is raised tenfold,
    with a warning, until it is.

    Args:
        gram: X^T X, ``[in, in]``, at any positive scale.
        damping: what is added to the diagonal, as a share of its mean.

    Raises:
        InputError: the matrix is not square, not finite, or cannot be factored at any damping; or
            the damping is negative.
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise InputError(f"Gram matrix of shape {list(gram.shape)}: must be square, X^T X")
    if not (math.isfinite(damping) and damping >= 0):
        raise InputError(f"damping {damping}: must be a number of at least 0, such as {DAMPING}")
    hessian = gram.detach().float()
    diagonal = hessian.diagonal()
    mean = diagonal.mean()
    if not bool(torch.isfinite(hessian.sum()) & (diagonal >= 0).all()):
        raise InputError("Gram matrix: not finite, or its diagonal is negative; must be X^T X")
    dead = diagonal == 0
    # All of them dead: nothing is known, so every input counts the same.
    scale = torch.where(mean > 0, mean, torch.ones_like(mean))
    base = torch.where(dead, DEAD * scale, diagonal)
    tried = damping
    while True:
        lower = _cholesky(hessian, base + tried * scale)
        if lower is not None:
            break
        raised = max(STEP * tried, LEAST)
        if raised > MOST:
            raise InputError(
                f"Gram matrix {list(gram.shape)}: not positive definite even with damping "
                f"{tried:g}; must be X^T X"
            )
        warnings.warn(
            f"Gram matrix {list(gram.shape)}: not positive definite in float32 with damping "
            f"{tried:g}; going on with {raised:g}",
            PrunerZeroWarning,
            stacklevel=2,
        )
        tried = raised
    # H = R R^T with R upper, so H^-1 = U^T U with U = R^-1: one factorisation, no inverse of H.
    upper = invert_lower(lower).flip(0, 1)
    root = upper.diagonal().clone()
    return InverseFactor(upper.div_(root[:, None]), root.square_(), dead, tried)


def _cholesky(hessian: Tensor, diagonal: Tensor) -> Tensor | None:
    """L of the matrix with another diagonal, rows and columns reversed; None if there is none."""
    reversed_ = hessian.flip(0, 1)
    reversed_.diagonal().copy_(diagonal.flip(0))
    lower, info = torch.linalg.cholesky_ex(reversed_)
    return lower if int(info) == 0 and bool(torch.isfinite(lower.diagonal()).all()) else None


def invert_lower(lower: Tensor) -> Tensor:
    """The inverse of a lower triangular matrix, by halves: a third of what substitution takes."""
    size = len(lower)
    if size <= SMALL:
        eye = torch.eye(size, dtype=lower.dtype, device=lower.device)
        return torch.linalg.solve_triangular(lower, eye, upper=False)
    half = size // 2
    inverse = torch.zeros_like(lower)
    first, last = invert_lower(lower[:half, :half]), invert_lower(lower[half:, half:])
    inverse[:half, :half], inverse[half:, half:] = first, last
    torch.mm(last @ lower[half:, :half], -first, out=inverse[half:, :half])
    return inverse
