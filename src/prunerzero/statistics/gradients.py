"""Sums over backward passes of each weight's gradient."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from prunerzero.models.matrices import Matrix
from prunerzero.statistics.collectors import (
    ABSOLUTE_GRADIENT,
    BACKWARD,
    GRADIENT,
    SIGNED_GRADIENT,
)


class GradientSums:
    """Sums gradients, absolute ones or squares over backward passes; each is freed as it appears.

    While it is attached the matrices alone require gradients, whatever the model's owner had set.

    Args:
        model: what is run.
        matrices: the matrices whose gradients are summed.
        wanted: which sums, of `BACKWARD`.
    """

    def __init__(
        self, model: nn.Module, matrices: Iterable[Matrix], wanted: frozenset[str]
    ) -> None:
        self._sums: dict[nn.Parameter, dict[str, Tensor]] = {}
        self._required = {parameter: parameter.requires_grad for parameter in model.parameters()}
        model.requires_grad_(False)
        self._handles = []
        for parameter in dict.fromkeys(matrix.parameter for matrix in matrices):
            parameter.requires_grad_(True)
            self._sums[parameter] = {
                name: torch.zeros_like(parameter, dtype=torch.float32) for name in wanted & BACKWARD
            }
            self._handles.append(parameter.register_post_accumulate_grad_hook(self._add))

    @torch.no_grad()
    def _add(self, parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        gradient = parameter.grad
        assert gradient is not None
        gradient = gradient.float()
        sums = self._sums[parameter]
        if GRADIENT in sums:
            sums[GRADIENT].addcmul_(gradient, gradient)
        if SIGNED_GRADIENT in sums:
            sums[SIGNED_GRADIENT].add_(gradient)
        if ABSOLUTE_GRADIENT in sums:
            sums[ABSOLUTE_GRADIENT].add_(gradient.abs())
        parameter.grad = None

    def of(self, matrix: Matrix) -> dict[str, Tensor]:
        """The sums of one matrix, float32 ``[out, in]``."""
        sums = self._sums[matrix.parameter]
        return {name: matrix.oriented(stored).contiguous() for name, stored in sums.items()}

    def close(self) -> None:
        """Detaches from the model."""
        for handle in self._handles:
            handle.remove()
        for parameter, required in self._required.items():
            parameter.requires_grad_(required)
