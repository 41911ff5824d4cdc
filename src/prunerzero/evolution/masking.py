"""From a recipe to a pruned model and back, as fast as a search needs it.

Statistics and dense weights stay in memory, so a candidate costs one pass over every matrix: a
block of rows is scored, selected and written while it is in cache. What a formula needs to know of
a whole matrix (columns, rows and scalars) is remembered for the formulas that come after it.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from prunerzero.evolution.memo import Memo
from prunerzero.metric import TERMINALS, Metric, Node, Shape
from prunerzero.metric.scoring import Parts, RowScorer
from prunerzero.models.blocks import Matrix
from prunerzero.models.snapshot import DenseWeights
from prunerzero.pruning.allocation import UniformAllocation
from prunerzero.pruning.matrix import prune_matrix
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import DenseStatistics, UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.threads import for_each
from prunerzero.updates.names import STATISTICS

# Matrices whose masks tell two recipes apart before any forward pass.
PROBES = 6

SKETCHED = 1 << 14  # weights of each that a sketch samples

BLOCK = 1 << 18  # weights scored and selected at once: in cache, yet calls are few
MEMO_BYTES = 512 << 20
INPUT_BYTES = 1 << 30  # of terminals; what does not fit is finished again from its raw sums


@dataclass(frozen=True)
class Sketch:
    """What tells recipes apart before any forward pass.

    Attributes:
        fingerprint: hash of the masks of the probe matrices and of the sparsity everywhere.
        bits: a sample of these masks, 64 weights a word.
        sparsities: of all matrices.
    """

    fingerprint: str
    bits: np.ndarray
    sparsities: np.ndarray

    def is_near(self, other: Sketch, share: float) -> bool:
        """Whether two recipes treat fewer weights than this share differently, estimated.

        That is the share of the sampled weights plus the mean difference in sparsity, as probe
        matrices do not show how the others are spread.
        """
        bits = np.bitwise_count(self.bits ^ other.bits)
        differing = int(bits.sum()) / (64 * bits.size)
        if differing >= share:
            return False
        return differing + float(np.abs(self.sparsities - other.sparsities).mean()) < share


class Masker:
    """Applies recipes to one model, one-shot, from statistics of the dense model.

    Beside the model it holds the dense weights, data terminals that a recipe has asked for, within
    `INPUT_BYTES`, and what else it remembers within `MEMO_BYTES`.

    Args:
        model: the causal LM, dense now; `restore` makes it so again.
        matrices: its prunable matrices.
        statistics: statistics of the dense model.
        pattern: what may be zero.
        dense: copies of the dense weights, by default made now.

    Attributes:
        probes: a few matrices of different kinds, spread over the depth.
    """

    def __init__(
        self,
        model: nn.Module,
        matrices: Sequence[Matrix],
        statistics: DenseStatistics,
        pattern: Pattern,
        dense: DenseWeights | None = None,
    ) -> None:
        self.model = model
        self.matrices = list(matrices)
        self.pattern = pattern
        self.dense = dense or DenseWeights(self.matrices)
        self._shapes = [matrix.shape for matrix in self.matrices]
        self._statistics = statistics
        self._inputs = Memo(INPUT_BYTES)
        self._memo = Memo(MEMO_BYTES)
        self.probes = _spread(self.matrices, PROBES)

    def sibling(self, pattern: Pattern) -> Masker:
        """A masker of the same model by the same statistics under another pattern.

        Both share all that they hold and remember; the model is pruned by whoever did so last.
        """
        other = copy.copy(self)
        other.pattern = pattern
        return other

    def use(self, statistics: DenseStatistics) -> None:
        """Takes statistics that hold more terminals than those it was made with."""
        self._statistics = statistics
        self._inputs.forget()
        self._memo.forget()

    def key(self, recipe: Recipe) -> str:
        """Text that is equal for recipes which prune alike."""
        return recipe.key(self.pattern)

    def sketch(self, recipe: Recipe) -> Sketch:
        """The recipe's masks on a few probe matrices, and its sparsity everywhere.

        Raises:
            UnusableScores: if scores there are not finite, or all the same.
        """
        sparsities = self.sparsities(recipe)
        digest = hashlib.sha256(repr(sorted(sparsities.items())).encode())
        bits = []
        for mask in self.probe_masks(recipe, sparsities):
            array = mask.cpu().numpy()
            digest.update(array.tobytes())
            # Odd, so that it goes through the columns of all usual widths.
            stride = max(1, array.size // SKETCHED) | 1
            bits.append(np.packbits(array.reshape(-1)[::stride]))
        sampled = np.concatenate(bits)
        sampled = np.pad(sampled, (0, -sampled.size % 8)).view(np.uint64)
        spread = np.array([float(sparsities[matrix.name]) for matrix in self.matrices])
        return Sketch(digest.hexdigest()[:32], sampled, spread)

    def probe_masks(
        self, recipe: Recipe, sparsities: Mapping[str, Fraction] | None = None
    ) -> list[Tensor]:
        """The recipe's masks on the probe matrices."""
        sparsities = sparsities or self.sparsities(recipe)
        return [self.mask(recipe, probe, sparsities[probe.name]) for probe in self.probes]

    def sparsities(self, recipe: Recipe) -> dict[str, Fraction]:
        """What the recipe's allocation gives each matrix, by name; nothing more under N:M."""
        return under(recipe, self.pattern).allocation.sparsities(self._shapes, self.pattern)

    def mask(self, recipe: Recipe, matrix: Matrix, sparsity: Fraction) -> Tensor:
        """The recipe's mask of one matrix at a sparsity of its own (ignored for N:M).

        Raises:
            UnusableScores: if the scores are not finite, or all the same.
        """
        return self._select(recipe, self.scores(recipe, matrix), sparsity)

    def scores(self, recipe: Recipe, matrix: Matrix) -> Tensor:
        """The recipe's scores of one matrix, float32 ``[out, in]``; not to be written to.

        Raises:
            UnusableScores: if they are not finite, or all the same.
        """
        scores = self.value(matrix, self.metric(recipe, matrix))
        _check(matrix, *torch.aminmax(scores))
        return scores.expand(matrix.shape.rows, matrix.shape.columns)

    def value(self, matrix: Matrix, metric: Metric) -> Tensor:
        """Any expression's value on one matrix, in its static shape; not to be written to.

        A value that is no matrix (``[1, in]``, ``[out, 1]``, ``[1, 1]``) is remembered.
        """
        return self._scorer(matrix, metric).rows()

    def apply(self, recipe: Recipe) -> None:
        """Prunes the model: dense weights where the masks are True, zero elsewhere.

        Matrices are shared among as many threads as torch uses.

        Raises:
            UnusableScores: if scores are not finite, or all the same; the model is dense then.
        """
        sparsities = self.sparsities(recipe)
        self.dense.narrow()
        try:
            for_each(
                lambda matrix: self._prune(recipe, matrix, sparsities[matrix.name]), self.matrices
            )
        except BaseException:
            self.restore()
            raise

    def restore(self) -> None:
        """Makes the model dense again, bit for bit."""
        self.dense.restore()

    def statistics(self, recipe: Recipe, matrix: Matrix) -> dict[str, Tensor]:
        """What the recipe's formula and its update need of a matrix, by name."""
        wanted = STATISTICS[recipe.update] | self.metric(recipe, matrix).terminals - {"W"}
        return {name: self._input(matrix, name) for name in wanted}

    def _prune(self, recipe: Recipe, matrix: Matrix, sparsity: Fraction) -> None:
        if recipe.update != "none":
            matrix.weight.copy_(self.dense.weights[matrix.name])
            statistics = self.statistics(recipe, matrix)
            prune_matrix(recipe, matrix, statistics, self.pattern, sparsity)
            return
        if recipe.group != "row" and not self.pattern.is_nm:
            self.dense.write_masked(matrix, self.mask(recipe, matrix, sparsity))
            return
        scorer = self._scorer(matrix, self.metric(recipe, matrix))
        lowest, highest = [], []
        for rows in _blocks(matrix):
            scores = scorer.rows(rows)
            low, high = torch.aminmax(scores)
            lowest.append(low)
            highest.append(high)
            scores = scores.expand(rows.stop - rows.start, matrix.shape.columns)
            self.dense.write_masked(matrix, self._select(recipe, scores, sparsity), rows)
        _check(matrix, torch.stack(lowest).amin(), torch.stack(highest).amax())

    def _select(self, recipe: Recipe, scores: Tensor, sparsity: Fraction) -> Tensor:
        """The mask of whole comparison groups' scores ``[rows, in]``."""
        if self.pattern.is_nm:
            return self.pattern.mask(scores)
        return Pattern.unstructured(sparsity).mask(scores, group=recipe.group)

    def metric(self, recipe: Recipe, matrix: Matrix) -> Metric:
        """The recipe's formula for a matrix."""
        return recipe.metric_for(matrix.kind, matrix.family)

    def _scorer(self, matrix: Matrix, metric: Metric) -> RowScorer:
        def read(terminal: str, rows: slice) -> Tensor:
            if terminal == "W":  # from what is read anyway to be written
                return self.dense.weights[matrix.name][rows].float().abs()
            values = self._input(matrix, terminal)
            return values if TERMINALS[terminal].shape is Shape.COLUMN else values[rows]

        def recall(node: Node, compute: Callable[[], Parts]) -> Parts:
            return self._memo.recall((matrix.name, node), compute)

        device = self.dense.weights[matrix.name].device
        return RowScorer(metric.expression, read, device, recall)

    def _input(self, matrix: Matrix, terminal: str) -> Tensor:
        def finish() -> Parts:
            return (self._statistics.of(matrix, frozenset({terminal}))[terminal],)

        return self._inputs.recall((matrix.name, terminal), finish)[0]


class Maskers:
    """The maskers of a search's targets, taken together."""

    def __init__(self, maskers: Sequence[Masker]) -> None:
        self._maskers = list(maskers)

    def key(self, recipe: Recipe) -> str:
        """See `Masker.key`: alike on all targets."""
        return " || ".join(dict.fromkeys(masker.key(recipe) for masker in self._maskers))

    def sketch(self, recipe: Recipe) -> Sketch:
        """See `Masker.sketch`; a recipe that is unusable on one target is unusable."""
        found = [masker.sketch(recipe) for masker in self._maskers]
        if len(found) == 1:
            return found[0]
        together = " ".join(sketch.fingerprint for sketch in found)
        return Sketch(
            hashlib.sha256(together.encode()).hexdigest()[:32],
            np.concatenate([sketch.bits for sketch in found]),
            np.concatenate([sketch.sparsities for sketch in found]),
        )

    def probe_masks(self, recipe: Recipe) -> list[Tensor]:
        """The recipe's masks on the probe matrices of all targets."""
        return [mask for masker in self._maskers for mask in masker.probe_masks(recipe)]

    def restore(self) -> None:
        """Makes all models dense again."""
        for masker in self._maskers:
            masker.restore()


def under(recipe: Recipe, pattern: Pattern) -> Recipe:
    """The recipe as far as a pattern leaves it free: N:M fixes every matrix's sparsity."""
    if pattern.is_nm and recipe.allocation != UniformAllocation():
        return recipe.model_copy(update={"allocation": UniformAllocation()})
    return recipe


def _blocks(matrix: Matrix) -> Iterator[slice]:
    """The matrix's rows in blocks of about `BLOCK` weights."""
    rows, columns = matrix.shape.rows, matrix.shape.columns
    count = max(1, round(rows * columns / BLOCK))
    edges = [rows * index // count for index in range(count + 1)]
    return (slice(*pair) for pair in pairwise(edges) if pair[0] < pair[1])


def _check(matrix: Matrix, low: Tensor, high: Tensor) -> None:
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        raise UnusableScores(f"scores of {matrix.name} are not finite")
    if bool(low == high):
        raise UnusableScores(f"scores of {matrix.name} are all the same")


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
