"""One pass over the calibration windows that gathers every statistic a recipe asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunerzero.models.blocks import Matrix, watch_inputs
from prunerzero.models.compute import Compute
from prunerzero.progress import Advance, silent
from prunerzero.statistics.collectors import ACTIVATION, GRADIENT

RawStatistics = dict[str, dict[str, Tensor]]


class ActivationSums:
    """Sums the squares of every input feature over all tokens seen, in float32 ``[1, in]``.

    Layers that share one input (query, key and value) are given one reduction.
    """

    def __init__(self, matrices: Iterable[Matrix]) -> None:
        self.sums: dict[str, Tensor] = {}
        self._last: tuple[Tensor, Tensor] | None = None
        self._handles = watch_inputs(list(matrices), self._add)

    def _add(self, matrix: Matrix, inputs: Tensor) -> None:
        if self._last is None or self._last[0] is not inputs:
            flat = inputs.detach().reshape(-1, inputs.shape[-1]).float()
            # The input tensor itself is kept so that its identity cannot be reused by another.
            self._last = (inputs, torch.linalg.vector_norm(flat, dim=0).square()[None])
        total = self._last[1]
        if matrix.name in self.sums:
            self.sums[matrix.name] = self.sums[matrix.name] + total
        else:
            self.sums[matrix.name] = total

    def close(self) -> None:
        """Detaches from the model."""
        self._last = None
        for handle in self._handles:
            handle.remove()


def gather_raw(
    model: nn.Module,
    matrices: list[Matrix],
    tokens: Tensor,
    wanted: frozenset[str],
    compute: Compute,
    advance: Advance = silent,
) -> RawStatistics:
    """Gathers raw sums from the dense model, in evaluation mode, one window at a time.

    With gradients wanted, activations are read off the forward half of the same pass.

    Args:
        model: the dense causal LM.
        matrices: the matrices to gather for.
        tokens: calibration token ids ``[windows, length]``.
        wanted: raw sums, see `prunerzero.statistics.collectors`.
        compute: device and precision.
        advance: called with the number of windows done.

    Returns:
        ``{matrix name: {raw sum: tensor}}`` on the model's device.
    """
    base: Any = model.base_model
    activations = ActivationSums(matrices) if ACTIVATION in wanted else None
    gradients = _GradientSums(model, matrices) if GRADIENT in wanted else None
    try:
        for done, window in enumerate(tokens.to(compute.device).split(1), start=1):
            with torch.set_grad_enabled(gradients is not None), compute.autocast():
                if gradients is None:
                    base(window, use_cache=False)
                else:
                    logits = model(window, use_cache=False).logits
                    loss = F.cross_entropy(logits[0, :-1].float(), window[0, 1:])
            if gradients is not None:
                loss.backward()
            advance(done)
    finally:
        if activations is not None:
            activations.close()
        if gradients is not None:
            gradients.close()
    found: RawStatistics = {matrix.name: {} for matrix in matrices}
    for matrix in matrices:
        if activations is not None:
            found[matrix.name][ACTIVATION] = activations.sums[matrix.name]
        if gradients is not None:
            stored = gradients.sums[matrix.name]
            found[matrix.name][GRADIENT] = matrix.oriented(stored).contiguous()
    return found


class _GradientSums:
    """Sums squared gradients over backward passes; each gradient is freed as it appears.

    While it is attached the matrices alone require gradients, whatever the model's owner had set.
    """

    def __init__(self, model: nn.Module, matrices: Iterable[Matrix]) -> None:
        self.sums: dict[str, Tensor] = {}
        self._required = {parameter: parameter.requires_grad for parameter in model.parameters()}
        model.requires_grad_(False)
        self._matrices = list(matrices)
        self._handles = []
        for matrix in self._matrices:
            matrix.parameter.requires_grad_(True)
            self.sums[matrix.name] = torch.zeros_like(matrix.parameter, dtype=torch.float32)
            self._handles.append(
                matrix.parameter.register_post_accumulate_grad_hook(self._adder(matrix.name))
            )

    def _adder(self, name: str) -> Callable[[Tensor], None]:
        @torch.no_grad()
        def add(parameter: Tensor) -> None:
            gradient = parameter.grad
            assert gradient is not None
            gradient = gradient.float()
            self.sums[name].addcmul_(gradient, gradient)
            parameter.grad = None

        return add

    def close(self) -> None:
        """Detaches from the model."""
        for handle in self._handles:
            handle.remove()
        for parameter, required in self._required.items():
            parameter.requires_grad_(required)
