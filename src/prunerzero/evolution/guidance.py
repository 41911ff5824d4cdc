"""Where to go from a recipe: derivatives of the divergence from one backward pass.

A search that only measures candidates learns one number from each. One backward pass *at the pruned
model* costs as much as three such measurements and gives the derivative of the divergence with
respect to the sparsity of every matrix, and to the exponent of every factor of the formula in every
kind of matrix (`boundary`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from prunerzero.evaluation.divergence import DenseReference, position_kl
from prunerzero.evolution.boundary import nm_slopes, unstructured_slopes
from prunerzero.evolution.genome import FACTORS
from prunerzero.evolution.masking import Masker
from prunerzero.models.blocks import Matrix
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.threads import for_each

# Keeps the logarithm of a factor finite where the factor is zero.
SMALLEST_FACTOR = 1e-20


@dataclass(frozen=True)
class Guidance:
    """Derivatives of the divergence at one recipe.

    Attributes:
        divergence: mean KL divergence there, nats a token; 0 where there is none to measure, as
            scores or predictions are not finite.
        costs: change for each further weight pruned, by matrix name; empty for N:M patterns.
        slopes: change for a unit of each factor's exponent, by kind of matrix and factor.
    """

    divergence: float
    costs: Mapping[str, float]
    slopes: Mapping[str, Mapping[str, float]]

    def to_json(self) -> dict[str, Any]:
        """As the study keeps it."""
        return {"divergence": self.divergence, "costs": self.costs, "slopes": self.slopes}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Guidance:
        """Inverse of `to_json`."""
        return cls(document["divergence"], document["costs"], document["slopes"])


# Measures the derivatives at a recipe.
Guide = Callable[[Recipe], Guidance]


def measure_guidance(masker: Masker, recipe: Recipe, reference: DenseReference) -> Guidance:
    """Derivatives of the divergence at a recipe; noisy, as they come from few tokens.

    They are all 0 where the recipe cannot rank weights: a descent may come past such a point.

    Args:
        masker: pruner of the model; the model is left pruned by ``recipe`` if that can be.
        recipe: where to take the derivatives.
        reference: the dense model's predictions on the windows to use.
    """
    pattern = masker.pattern
    costs = {} if pattern.is_nm else {matrix.name: 0.0 for matrix in masker.matrices}
    slopes = {matrix.kind: dict.fromkeys(FACTORS, 0.0) for matrix in masker.matrices}
    try:
        masker.apply(recipe)
    except UnusableScores:
        return Guidance(0.0, costs, slopes)
    divergence, gradients = _gradients(masker, reference)
    sparsities = masker.sparsities(recipe)
    found: dict[str, tuple[float, list[float]]] = {}

    def derive(matrix: Matrix) -> None:
        benefit = gradients.pop(matrix.name).mul_(masker.dense.weights[matrix.name])
        found[matrix.name] = _derivatives(masker, recipe, matrix, benefit, sparsities[matrix.name])

    for_each(derive, masker.matrices)
    for matrix in masker.matrices:
        cost, exponents = found[matrix.name]
        if not pattern.is_nm:
            costs[matrix.name] = _finite(cost)
        for name, slope in zip(FACTORS, exponents, strict=True):
            slopes[matrix.kind][name] += _finite(slope)
    return Guidance(_finite(divergence), costs, slopes)


def _derivatives(
    masker: Masker, recipe: Recipe, matrix: Matrix, benefit: Tensor, sparsity: Fraction
) -> tuple[float, list[float]]:
    """The cost of one more pruned weight (0 for N:M), and a slope for each of `FACTORS`."""
    pattern = masker.pattern
    scores = masker.scores(recipe, matrix)
    logs = [_log_factor(masker, matrix, name) for name in FACTORS]
    if pattern.is_nm:
        assert pattern.n is not None
        assert pattern.m is not None
        return 0.0, nm_slopes(scores, benefit, pattern.n, pattern.m, logs)
    if recipe.group == "matrix":
        logs = [log.expand_as(scores).reshape(1, -1) for log in logs]
        scores, benefit = scores.reshape(1, -1), benefit.reshape(1, -1)
    return unstructured_slopes(scores, benefit, int(sparsity * scores.shape[1]), logs)


def _log_factor(masker: Masker, matrix: Matrix, name: str) -> Tensor:
    return masker.value(matrix, FACTORS[name]).clamp(min=SMALLEST_FACTOR).log()


def _finite(value: float) -> float:
    """A gradient that overflowed tells nothing of its matrix, and must not spoil the others."""
    return value if math.isfinite(value) else 0.0


def _gradients(masker: Masker, reference: DenseReference) -> tuple[float, dict[str, Tensor]]:
    """The mean KL divergence, and its gradient with respect to every weight, pruned ones too."""
    total = 0.0
    parameters = dict.fromkeys(matrix.parameter for matrix in masker.matrices)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        for batch in reference.batches:
            ids = batch.tokens.to(reference.compute.device)
            with torch.enable_grad(), reference.compute.autocast():
                logits = masker.model(ids, use_cache=False).logits[:, :-1].float()
                divergence = position_kl(logits, torch.logsumexp(logits, -1), batch).mean()
            share = divergence * len(ids) / len(reference.tokens)
            share.backward()
            total += share.item()
        found = {}
        for matrix in masker.matrices:
            gradient = matrix.parameter.grad
            # Experts that no token met have none.
            gradient = torch.zeros_like(matrix.parameter) if gradient is None else gradient
            found[matrix.name] = matrix.oriented(gradient).float()
        return total, found
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
