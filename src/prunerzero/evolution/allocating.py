"""An allocation for any recipe on a loaded model, evolved as EvoPress does (arXiv 2410.14649).

Every generation races children of the best allocation so far: all on a few tokens, the best on
more, and a child takes the parent's place if it diverges less from the dense model there. Every
generation draws fresh windows. What is judged are one-shot masks of the recipe's formula; an update
of the kept weights comes after.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from prunerzero.data.documents import Split
from prunerzero.data.windows import WindowSampler
from prunerzero.errors import InputError
from prunerzero.evaluation.divergence import DenseReference
from prunerzero.evolution.controls import traded
from prunerzero.models.blocks import Block
from prunerzero.models.compute import Compute
from prunerzero.models.snapshot import DenseWeights
from prunerzero.progress import Report, silent
from prunerzero.pruning.allocation import CurvesAllocation, UniformAllocation
from prunerzero.pruning.matrix import matrix_mask
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import plan_sparsities
from prunerzero.recipe import Recipe
from prunerzero.statistics.cache import DenseStatistics

CHILDREN, FINALISTS = 8, 2
WINDOWS, MORE = 4, 16  # of `LENGTH` tokens, of the two rounds
LENGTH = 128


@dataclass(frozen=True)
class Evolved:
    """An evolved allocation.

    Attributes:
        allocation: the best one.
        generations: how many there were.
        replaced: how often a child took its parent's place.
        documents: hashes of the documents that it was judged on.
    """

    allocation: CurvesAllocation
    generations: int
    replaced: int
    documents: tuple[str, ...]

    def provenance_of(self, recipe: Recipe) -> dict[str, Any]:
        """The provenance of a recipe that is given this allocation."""
        texts: Any = recipe.provenance.get("texts", [])
        read = {"split": str(Split.SELECTION), "documents": list(self.documents)}
        how = {"generations": self.generations, "replaced": self.replaced}
        return {**recipe.provenance, "evolved_allocation": how, "texts": [*texts, read]}


def selection_windows(source: str, tokenizer: object, seed: int) -> WindowSampler:
    """The windows of a text that allocations are judged on.

    Raises:
        InputError: the text cannot be had or split.
    """
    return WindowSampler(source, tokenizer, Split.SELECTION, LENGTH, seed)


def evolve_allocation(
    model: nn.Module,
    blocks: Sequence[Block],
    recipe: Recipe,
    pattern: Pattern,
    statistics: DenseStatistics,
    compute: Compute,
    windows: WindowSampler,
    *,
    seconds: float,
    seed: int = 0,
    most: int | None = None,
    dense: DenseWeights | None = None,
    report: Report = silent,
) -> Evolved:
    """Evolves an allocation for a recipe; the model is dense before and after.

    Args:
        model: the dense causal LM.
        blocks: its blocks.
        recipe: whose formulas and group make the masks, under uniform allocation at first.
        pattern: unstructured.
        statistics: of the dense model.
        compute: device and precision.
        windows: of the selection split.
        seconds: time to spend; a generation that has begun is ended.
        seed: seed of the trades.
        most: generations at most; None for no limit but time.
        dense: copies of the dense weights, by default made now.
        report: told of the seconds.

    Raises:
        InputError: an N:M pattern, or a model of one block.
    """
    if pattern.is_nm:
        raise InputError(f"allocation 'evolved': {pattern} fixes every matrix's sparsity")
    if len(blocks) < 2:
        raise InputError("allocation 'evolved': a model of one block has no pairs to trade")
    if windows.split not in (Split.SELECTION, None):
        raise InputError(f"allocation 'evolved': windows of {windows.split}, not of selection")
    kinds = dict.fromkeys(matrix.kind for block in blocks for matrix in block.matrices)
    parent = CurvesAllocation(curves=dict.fromkeys(kinds, (0.0,) * len(blocks)))
    random, began = Random(seed), time.perf_counter()
    writer = _Writer(list(blocks), recipe, pattern, statistics, dense)
    generation = replaced = 0
    documents: dict[str, None] = {}
    try:
        while most is None or generation < most:
            spent = time.perf_counter() - began
            report("allocation", round(min(spent, seconds)), round(seconds))
            if spent >= seconds:
                break
            drawn = windows.draw(generation, min(MORE, windows.capacity))
            documents.update(dict.fromkeys(drawn.documents))
            tokens = drawn.tokens
            writer.restore()
            few = DenseReference(model, tokens[:WINDOWS], compute)
            more = DenseReference(model, tokens, compute)

            def divergence(allocation: CurvesAllocation, reference: DenseReference) -> float:
                writer.write(allocation)
                return reference.measure(model).mean_kl

            children = [traded(parent, random) for _ in range(CHILDREN)]
            first = [divergence(child, few) for child in children]
            order = sorted(range(CHILDREN), key=first.__getitem__)[:FINALISTS]
            finals = {index: divergence(children[index], more) for index in order}
            best = min(finals, key=finals.__getitem__)
            if finals[best] < divergence(parent, more):
                parent = children[best]
                replaced += 1
            generation += 1
    finally:
        writer.restore()
    return Evolved(parent, generation, replaced, tuple(documents))


class _Writer:
    """Writes one-shot masks under changing allocations; matrices whose share stays are left."""

    def __init__(
        self,
        blocks: list[Block],
        recipe: Recipe,
        pattern: Pattern,
        statistics: DenseStatistics,
        dense: DenseWeights | None,
    ) -> None:
        self._blocks = blocks
        self._matrices = [matrix for block in blocks for matrix in block.matrices]
        self._recipe = recipe.with_allocation(UniformAllocation())
        self._pattern = pattern
        self._statistics = statistics
        self._dense = dense or DenseWeights(self._matrices)
        self._written: dict[str, object] = {}

    @torch.no_grad()
    def write(self, allocation: CurvesAllocation) -> None:
        recipe = self._recipe.with_allocation(allocation)
        sparsities = plan_sparsities(self._blocks, recipe, self._pattern)
        for matrix in self._matrices:
            wanted = sparsities[matrix.name]
            if self._written.get(matrix.name) == wanted:
                continue
            weight: Tensor = self._dense.weights[matrix.name]
            matrix.weight.copy_(weight)  # scores are of the dense weights
            metric = recipe.metric_for(matrix.kind, matrix.family)
            terminals = self._statistics.of(matrix, metric.terminals - {"W"})
            mask = matrix_mask(recipe, matrix, terminals, self._pattern, wanted)
            self._dense.write_masked(matrix, mask)
            self._written[matrix.name] = wanted

    def restore(self) -> None:
        self._dense.restore()
        self._written = {}
