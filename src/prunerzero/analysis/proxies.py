"""Cheap stand-ins for the perplexity after pruning, measured while a recipe is applied."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn

from prunerzero.analysis.similarity import mean_row_correlation, score_ranks
from prunerzero.errors import InputError
from prunerzero.evolution.masking import Masker
from prunerzero.models.blocks import Block, Matrix, watch_inputs
from prunerzero.models.compute import Compute
from prunerzero.models.passes import run_base
from prunerzero.models.replay import Replay
from prunerzero.recipe import Recipe

# Calibration tokens that the proxies read; every matrix's inputs are kept (200 MB for a model of
# 135 million parameters).
TOKENS = 512


class ProxyReading(NamedTuple):
    """The proxies of one recipe.

    Attributes:
        reconstruction: mean over matrices of ``||WX - (M * W)X|| / ||WX||`` (Frobenius norms), X
            the dense model's inputs.
        block_divergence: mean over blocks of ``||f(x) - f_pruned(x)|| / ||f(x) - x||``, x the
            dense model's input of the block: a pruned block's error as a share of what the block
            does. None where blocks cannot be run on their own.
        score_correlation: mean Spearman correlation with Wanda's scores within rows.
    """

    reconstruction: float
    block_divergence: float | None
    score_correlation: float


class Proxies:
    """The dense model's inputs and outputs, against which a pruned one is held.

    Args:
        masker: prunes the model, which is dense now.
        blocks: the model's blocks.
        calibration: calibration windows ``[windows, length]``; the first `TOKENS` tokens are read.
        compute: device and precision.
    """

    def __init__(
        self, masker: Masker, blocks: list[Block], calibration: Tensor, compute: Compute
    ) -> None:
        self._masker = masker
        tokens = calibration[: max(1, TOKENS // calibration.shape[1])]
        self._inputs = _matrix_inputs(masker.model, masker.matrices, tokens, compute)
        self._norms = {
            matrix.name: _output_norm(matrix.weight, self._inputs[matrix.name])
            for matrix in masker.matrices
            if matrix.name in self._inputs
        }
        self._chain: _Chain | None = None
        with suppress(InputError):  # the model is no chain of its blocks
            self._chain = _Chain(masker.model, blocks, tokens, compute)
        self._wanda = score_ranks(masker, Recipe.named("wanda"))

    def measure(self, recipe: Recipe) -> ProxyReading:
        """The proxies of the recipe that the model is pruned by now."""
        return ProxyReading(
            reconstruction=self._reconstruction(),
            block_divergence=self._chain.divergence() if self._chain else None,
            score_correlation=mean_row_correlation(score_ranks(self._masker, recipe), self._wanda),
        )

    @torch.no_grad()
    def _reconstruction(self) -> float:
        errors = []
        for matrix in self._masker.matrices:
            if self._norms.get(matrix.name):
                lost = self._masker.dense.weights[matrix.name] - matrix.weight
                error = _output_norm(lost, self._inputs[matrix.name])
                errors.append(error / self._norms[matrix.name])
        return sum(errors) / len(errors)


class _Chain:
    """The inputs and outputs of every block of the dense model."""

    def __init__(
        self, model: nn.Module, blocks: list[Block], tokens: Tensor, compute: Compute
    ) -> None:
        self._blocks = blocks
        self._replay = Replay(model, blocks, tokens, len(tokens), compute)
        self._hidden = [self._replay.hidden]
        for block in blocks:
            self._replay.advance(self._replay.run(block))
            self._hidden.append(self._replay.hidden)

    def divergence(self) -> float:
        """See `ProxyReading.block_divergence`."""
        shares = []
        for block, before, after in zip(self._blocks, self._hidden, self._hidden[1:], strict=False):
            self._replay.advance(before)
            error = _distance(self._replay.run(block), after)
            shares.append(error / _distance(before, after))
        return sum(shares) / len(shares)


def _distance(first: Iterable[Tensor], second: Iterable[Tensor]) -> float:
    squares = (
        float((a.float() - b.float()).square().sum()) for a, b in zip(first, second, strict=True)
    )
    return float(sum(squares) ** 0.5)


def _output_norm(weight: Tensor, inputs: Tensor) -> float:
    """``||W X||`` for inputs ``[tokens, in]``."""
    return float(torch.linalg.norm(inputs @ weight.float().T))


@torch.no_grad()
def _matrix_inputs(
    model: nn.Module, matrices: list[Matrix], tokens: Tensor, compute: Compute
) -> dict[str, Tensor]:
    """What each matrix is multiplied with, ``[tokens, in]`` float32; shared where it is the same.

    An expert's are those of the tokens routed to it; one that none is routed to has no entry.
    """
    seen: dict[str, list[Tensor]] = {}
    last: tuple[Tensor, Tensor] | None = None

    def keep(matrix: Matrix, inputs: Tensor, _gates: Tensor | None) -> None:
        nonlocal last
        if last is None or last[0] is not inputs:
            last = (inputs, inputs.detach().reshape(-1, inputs.shape[-1]).float())
        seen.setdefault(matrix.name, []).append(last[1])

    handles = watch_inputs(matrices, keep)
    try:
        run_base(model, tokens, compute)
    finally:
        for handle in handles:
            handle.remove()
    return {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in seen.items()}
