"""Several recipes on one model, same calibration and same evaluation windows for all."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from prunerzero.data.windows import Windows
from prunerzero.evaluation.perplexity import TextLoss, measure_loss
from prunerzero.models.blocks import Block
from prunerzero.models.compute import Compute
from prunerzero.models.matrices import is_mixture
from prunerzero.models.snapshot import DenseWeights
from prunerzero.permutation.permute import permute
from prunerzero.progress import Report, silent
from prunerzero.pruning.memory import recent_peak_bytes, restart_peak
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.planning import planned
from prunerzero.pruning.pruner import (
    check_plan,
    matrix_results,
    overall_sparsity,
    plan_sparsities,
    prune_blocks,
)
from prunerzero.pruning.shared import SharedData
from prunerzero.recipe import Recipe
from prunerzero.streaming.memory import trim


@dataclass(frozen=True)
class Outcome:
    """One recipe's result.

    Attributes:
        loss: loss of every evaluation window.
        sparsity: share of zeros in the prunable matrices.
        pruning_seconds: time of statistics and pruning, without the evaluation.
        peak_bytes: largest resident memory of the process since the pruning began.
    """

    loss: TextLoss
    sparsity: float
    pruning_seconds: float
    peak_bytes: int = 0


class Measures(Protocol):
    """What measures recipes on one model with the same data: `Comparison`, or its streamed kin."""

    mixture: bool

    def measure_dense(self, windows: Windows) -> TextLoss:
        """Loss of the dense model."""

    def measure(
        self,
        name: str,
        recipe: Recipe,
        pattern: Pattern,
        windows: Windows,
        *,
        remember: bool = False,
    ) -> Outcome:
        """Prunes by a recipe, and measures the loss on ``windows``."""


class Comparison:
    """A dense model and the data that every recipe is measured with.

    Args:
        model: a dense causal LM; every measurement leaves it dense again.
        blocks: its blocks.
        calibration: calibration token ids ``[windows, length]``.
        compute: device and precision.
        sequential: as in `prunerzero.prune`.
        report: called with a step's name, the parts done and their number.
        dense: copies of the dense weights, by default made now.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: list[Block],
        calibration: Tensor,
        compute: Compute,
        *,
        sequential: bool = True,
        report: Report = silent,
        dense: DenseWeights | None = None,
    ) -> None:
        self.model = model
        self.blocks = blocks
        self.calibration = calibration
        self.compute = compute
        self.sequential = sequential
        self.report = report
        self.dense = dense or DenseWeights(matrix for block in blocks for matrix in block.matrices)
        self.mixture = is_mixture(matrix for block in blocks for matrix in block.matrices)
        self.shared = SharedData(model, blocks, calibration, compute)
        self._pruned: dict[str, dict[str, Tensor]] = {}  # masks, or weights where they are new

    def share(self, recipes: Iterable[Recipe]) -> None:
        """Gathers once what these recipes take from the dense model."""
        self.shared.gather(recipes, self.sequential, self.report)

    def measure_dense(self, windows: Windows) -> TextLoss:
        """Loss of the dense model."""
        return self._loss("dense", windows)

    def measure(
        self,
        name: str,
        recipe: Recipe,
        pattern: Pattern,
        windows: Windows,
        *,
        remember: bool = False,
    ) -> Outcome:
        """Prunes by ``recipe``, measures the loss on ``windows``, and restores the model.

        Args:
            name: what progress reports call it.
            recipe: what to prune by.
            pattern: what may be zero.
            windows: what to measure on.
            remember: keep the masks, a byte a weight, or updated weights, so that the same recipe
                is not pruned again to be measured on other windows.

        Raises:
            InputError: as `prunerzero.prune`.
        """
        with self.pruned(name, recipe, pattern, remember=remember) as seconds:
            return self.outcome(name, windows, seconds)

    @contextmanager
    def pruned(
        self,
        name: str,
        recipe: Recipe,
        pattern: Pattern,
        *,
        remember: bool = False,
        permuted: bool = False,
    ) -> Iterator[float]:
        """Prunes the model, for whatever is to be measured on it, and restores it afterwards.

        Args:
            name: what progress reports call it.
            recipe: what to prune by.
            pattern: what may be zero.
            remember: as for `measure`.
            permuted: as for `prunerzero.prune`; such results are not remembered.

        Yields:
            How many seconds the pruning took.

        Raises:
            InputError: as `prunerzero.prune`.
        """
        check_plan(self.blocks, recipe, pattern)
        key = recipe.key(pattern)
        matrices = [matrix for block in self.blocks for matrix in block.matrices]
        trim()  # what the recipe before has freed is no part of this one's memory
        restart_peak()
        began = time.perf_counter()
        permutation, shared = None, self.shared
        remember = remember and not permuted  # masks are those of the reordered model

        def report(step: str, done: int, total: int) -> None:
            self.report(f"{name}: {step}", done, total)

        try:
            if permuted:
                permutation = permute(
                    self.model,
                    self.blocks,
                    recipe,
                    pattern,
                    self.calibration,
                    self.compute,
                    report,
                )
                # What was gathered from the model lies in its own order.
                shared = SharedData(self.model, self.blocks, self.calibration, self.compute)
            if key in self._pruned and not permuted:
                for matrix in matrices:
                    kept = self._pruned[key][matrix.name]
                    if kept.dtype is torch.bool:
                        self.dense.write_masked(matrix, kept)
                    else:
                        matrix.weight.copy_(kept)
            else:
                plan = planned(recipe, pattern, self.blocks, shared)
                prune_blocks(
                    self.model,
                    self.blocks,
                    plan,
                    pattern,
                    plan_sparsities(self.blocks, plan, pattern),
                    self.calibration,
                    self.sequential,
                    self.compute,
                    report,
                    shared=shared,
                )
            if remember:
                self._pruned[key] = {
                    matrix.name: matrix.weight.clone() if recipe.new_values else matrix.weight != 0
                    for matrix in matrices
                }
            yield time.perf_counter() - began
        finally:
            if permutation is not None:
                permutation.undo()
            self.dense.restore()

    def outcome(self, name: str, windows: Windows, seconds: float) -> Outcome:
        """Measures the model as it is now: inside `pruned`, the pruned one."""
        loss = self._loss(name, windows)
        sparsity = overall_sparsity(matrix_results(self.blocks))
        return Outcome(loss, sparsity, seconds, recent_peak_bytes())

    def _loss(self, name: str, windows: Windows) -> TextLoss:
        return measure_loss(
            self.model,
            windows,
            self.compute,
            lambda done: self.report(f"{name}: {windows.source}", done, len(windows)),
        )
