"""Where sparsity hurts: the marginal cost of pruning in every matrix, from one backward pass.

Let a matrix's sparsity grow by ds: the weights whose scores lie next to the boundary go from w to
0, and the divergence changes by the sum of -w * dKL/dw over them. One backward pass *at the pruned
model* therefore gives the derivative of the divergence with respect to the sparsity of all matrices
at once. An evolution strategy needs tens of evaluations for what this tells for the price of three.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from prunerzero.evaluation.divergence import DenseReference, position_kl
from prunerzero.evolution.masking import Masker
from prunerzero.models.blocks import Matrix
from prunerzero.recipe import Recipe

# Half-width of the band of weights around the boundary, as a share of the matrix.
BAND = Fraction(5, 100)
LIMITS = Fraction(2, 100), Fraction(98, 100)


def marginal_costs(masker: Masker, recipe: Recipe, reference: DenseReference) -> dict[str, float]:
    """Increase in KL divergence for each further weight pruned, by matrix name.

    Args:
        masker: pruner of the model; the model is left pruned by ``recipe``.
        recipe: where to take the derivative; its pattern must be unstructured.
        reference: the dense model's predictions on the windows to use.

    Returns:
        Nats a token for one weight; noisy, and negative where pruning more seems to help.
    """
    masker.apply(recipe)
    gradients = _gradients(masker, reference)
    sparsities = masker.sparsities(recipe)
    costs = {}
    for matrix in masker.matrices:
        sparsity = sparsities[matrix.name]
        sparser = masker.mask(recipe, matrix, min(sparsity + BAND, LIMITS[1]))
        denser = masker.mask(recipe, matrix, max(sparsity - BAND, LIMITS[0]))
        band = denser & ~sparser
        weight = masker.dense.weights[matrix.name].float()
        change = float(-(gradients[matrix.name] * weight)[band].sum())
        # A gradient that overflowed tells nothing of its matrix, and must not spoil the mean.
        costs[matrix.name] = change / max(1, int(band.sum())) if math.isfinite(change) else 0.0
    return costs


def _gradients(masker: Masker, reference: DenseReference) -> dict[str, Tensor]:
    """Gradient of the mean KL divergence with respect to every weight, pruned ones too."""
    for matrix in masker.matrices:
        matrix.parameter.requires_grad_(True)
    try:
        for batch in reference.batches:
            ids = batch.tokens.to(reference.compute.device)
            with torch.enable_grad(), reference.compute.autocast():
                logits = masker.model(ids, use_cache=False).logits[:, :-1].float()
                divergence = position_kl(logits, torch.logsumexp(logits, -1), batch).mean()
            (divergence * len(ids) / len(reference.tokens)).backward()
        return {matrix.name: _take_gradient(matrix) for matrix in masker.matrices}
    finally:
        for matrix in masker.matrices:
            matrix.parameter.requires_grad_(False)
            matrix.parameter.grad = None


def _take_gradient(matrix: Matrix) -> Tensor:
    gradient = matrix.parameter.grad
    assert gradient is not None
    matrix.parameter.grad = None
    return matrix.oriented(gradient).float()
