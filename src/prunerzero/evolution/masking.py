"""From a recipe to a pruned model and back, as fast as a search needs it.

Statistics and dense weights stay in memory, so a candidate costs one scoring, one selection and
one write of every matrix, and no copy of the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from prunerzero.metric.scoring import evaluate
from prunerzero.models.blocks import Matrix
from prunerzero.models.snapshot import DenseWeights
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.statistics.cache import Statistics

# Matrices whose masks tell two recipes apart before any forward pass.
PROBES = 6


class Masker:
    """Applies recipes to one model, one-shot, from statistics of the dense model.

    Args:
        model: the causal LM, dense now; `restore` makes it so again.
        matrices: its prunable matrices.
        statistics: statistics of the dense model.
        pattern: what may be zero.
    """

    def __init__(
        self,
        model: nn.Module,
        matrices: Sequence[Matrix],
        statistics: Statistics,
        pattern: Pattern,
    ) -> None:
        self.model = model
        self.matrices = list(matrices)
        self.pattern = pattern
        self.dense = DenseWeights(self.matrices)
        self._shapes = [matrix.shape for matrix in self.matrices]
        self._statistics = statistics
        self._inputs: dict[tuple[str, str], Tensor] = {}
        self._probes = _spread(self.matrices, PROBES)

    def fingerprint(self, recipe: Recipe) -> str:
        """Hash of the recipe's masks on a few probe matrices and of its sparsity everywhere.

        Raises:
            UnusableScores: if scores there are not finite, or all the same.
        """
        sparsities = self.sparsities(recipe)
        digest = hashlib.sha256(repr(sorted(sparsities.items())).encode())
        for mask in self.probe_masks(recipe, sparsities):
            digest.update(mask.cpu().numpy().tobytes())
        return digest.hexdigest()[:32]

    def probe_masks(
        self, recipe: Recipe, sparsities: Mapping[str, Fraction] | None = None
    ) -> list[Tensor]:
        """The recipe's masks on the probe matrices."""
        sparsities = sparsities or self.sparsities(recipe)
        return [self.mask(recipe, probe, sparsities[probe.name]) for probe in self._probes]

    def sparsities(self, recipe: Recipe) -> dict[str, Fraction]:
        """What the recipe's allocation gives each matrix, by name."""
        return recipe.allocation.sparsities(self._shapes, self.pattern)

    def mask(self, recipe: Recipe, matrix: Matrix, sparsity: Fraction) -> Tensor:
        """The recipe's mask of one matrix at a sparsity of its own (ignored for N:M).

        Raises:
            UnusableScores: if the scores are not finite, or all the same.
        """
        scores = self._scores(recipe, matrix)
        if self.pattern.is_nm:
            return self.pattern.mask(scores)
        return Pattern.unstructured(sparsity).mask(scores, group=recipe.group)

    def apply(self, recipe: Recipe) -> None:
        """Prunes the model: dense weights where the masks are True, zero elsewhere.

        Raises:
            UnusableScores: if scores are not finite; the model is dense again then.
        """
        sparsities = self.sparsities(recipe)
        try:
            for matrix in self.matrices:
                self.dense.write_masked(matrix, self.mask(recipe, matrix, sparsities[matrix.name]))
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Makes the model dense again, bit for bit."""
        self.dense.restore()

    def _scores(self, recipe: Recipe, matrix: Matrix) -> Tensor:
        metric = recipe.metric_for(matrix.kind, matrix.family)
        inputs = {name: self._input(matrix, name) for name in sorted(metric.terminals)}
        scores = evaluate(metric.expression, inputs)
        low, high = torch.aminmax(scores)
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise UnusableScores(f"scores of {matrix.name} are not finite")
        if bool(low == high):
            raise UnusableScores(f"scores of {matrix.name} are all the same")
        return scores.expand(matrix.shape.rows, matrix.shape.columns)

    def _input(self, matrix: Matrix, terminal: str) -> Tensor:
        key = (matrix.name, terminal)
        if key not in self._inputs:
            if terminal == "W":
                self._inputs[key] = self.dense.weights[matrix.name].float().abs()
            else:
                found = self._statistics.of(matrix, frozenset({terminal}))
                self._inputs[key] = found[terminal]
        return self._inputs[key]


def _spread(matrices: Sequence[Matrix], count: int) -> list[Matrix]:
    """A few matrices of different kinds, evenly spaced over the depth of the model."""
    kinds = list(dict.fromkeys(matrix.kind for matrix in matrices))
    blocks = sorted({matrix.block for matrix in matrices})
    chosen: dict[str, Matrix] = {}
    for index in range(count):
        block = blocks[index * (len(blocks) - 1) // max(1, count - 1)]
        kind = kinds[index % len(kinds)]
        for matrix in matrices:
            if matrix.block == block and matrix.kind == kind:
                chosen[matrix.name] = matrix
    return list(chosen.values())
