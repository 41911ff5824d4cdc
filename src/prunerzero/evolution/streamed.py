"""The masker of a model that does not fit in memory: blocks are pruned as they are read.

A recipe is only taken note of; whoever then runs the model has each block pruned by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction

import torch
from torch import Tensor

from prunerzero.evaluation.divergence import DenseReference
from prunerzero.evolution.genome import FACTORS
from prunerzero.evolution.guidance import Guidance, derivatives, finite_or_zero, mean_value, scale
from prunerzero.evolution.masking import Masker
from prunerzero.evolution.settings import FitnessKind
from prunerzero.models.blocks import Block, Matrix
from prunerzero.models.running import run_block
from prunerzero.models.snapshot import DenseWeights
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import DenseStatistics, UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.streaming.capture import Calls
from prunerzero.streaming.forward import StreamedModel
from prunerzero.streaming.opening import Opened
from prunerzero.threads import for_each


class StreamedMasker(Masker):
    """Applies recipes to a streamed model, one-shot, from statistics on disk.

    In memory are the weights of the probe matrices and, while a block is there, its own twice.

    Args:
        opened: the model.
        tokens: a few token ids ``[1, length]``, to see how its blocks are called.
        statistics: statistics of the dense model.
        pattern: what may be zero.
    """

    def __init__(
        self, opened: Opened, tokens: Tensor, statistics: DenseStatistics, pattern: Pattern
    ) -> None:
        self.opened = opened
        self.streamed = StreamedModel(opened, tokens)
        matrices = [matrix for block in opened.blocks for matrix in block.matrices]
        super().__init__(self.streamed, matrices, statistics, pattern, DenseWeights(()))
        self._recipe: Recipe | None = None
        for block in opened.blocks:
            probes = [probe for probe in self.probes if probe.block == block.index]
            if probes:
                with opened.store.loaded(block):
                    self.dense.weights |= DenseWeights(probes).weights

    def probe_masks(
        self, recipe: Recipe, sparsities: Mapping[str, Fraction] | None = None
    ) -> list[Tensor]:
        """See `Masker.probe_masks`."""
        sparsities = sparsities or self.sparsities(recipe)
        masks = []
        for probe in self.probes:  # what is read of one is not kept while the next is scored
            masks.append(self.mask(recipe, probe, sparsities[probe.name]))
            self._forget(probe)
        return masks

    def apply(self, recipe: Recipe) -> None:
        """Has every block pruned by ``recipe`` when it is read.

        Scores that cannot rank weights raise `UnusableScores` only there.
        """
        self._recipe = recipe
        self.streamed.prepare = self.prune

    def restore(self) -> None:
        """Has blocks left dense."""
        self._recipe = self.streamed.prepare = None

    def prune(self, block: Block) -> None:
        """Prunes a loaded block by the recipe last applied.

        Raises:
            UnusableScores: if scores are not finite, or all the same.
        """
        with self.held(block.matrices):
            self.prune_held(block)

    def prune_held(self, block: Block) -> None:
        """Prunes a loaded block whose dense weights are held."""
        assert self._recipe is not None
        recipe, sparsities = self._recipe, self.sparsities(self._recipe)
        for_each(lambda m: self._prune(recipe, m, sparsities[m.name]), block.matrices)

    @contextmanager
    def held(self, matrices: Sequence[Matrix]) -> Iterator[None]:
        """Keeps copies of loaded matrices' dense weights, which scores are computed from."""
        probed = set(self.dense.weights)
        self.dense.weights |= DenseWeights(m for m in matrices if m.name not in probed).weights
        try:
            yield
        finally:
            for matrix in matrices:
                self._forget(matrix)
                if matrix.name not in probed:
                    del self.dense.weights[matrix.name]

    def _forget(self, matrix: Matrix) -> None:
        self._inputs.forget(lambda key: key[0] == matrix.name)


@dataclass
class _Passes:
    """A forward pass of each batch, to be gone back through block by block.

    Attributes:
        value: mean divergence or loss of all windows, nats a token.
        inputs: of each batch, the inputs of the blocks that are still to come.
        calls: of each batch, what the blocks are called with.
        outer: of each batch, the gradient with respect to the last of these blocks' output.
    """

    value: float = 0.0
    inputs: list[list[Tensor]] = field(default_factory=list)
    calls: list[Calls] = field(default_factory=list)
    outer: list[Tensor] = field(default_factory=list)


def measure_streamed_guidance(
    masker: StreamedMasker,
    recipe: Recipe,
    reference: DenseReference,
    fitness: FitnessKind = "kl",
) -> Guidance:
    """What `guidance.measure_guidance` measures, with one block in memory at a time.

    Every block's input is kept from the forward pass; from the head on, blocks are then run again
    on it from last to first, pruned alike.

    Args:
        masker: pruner of the model.
        recipe: where to take the derivatives.
        reference: the dense model's predictions on the windows to use.
        fitness: ``loss`` for the derivatives of the mean loss instead.
    """
    is_nm = masker.pattern.is_nm
    costs = {} if is_nm else {matrix.name: 0.0 for matrix in masker.matrices}
    slopes = {matrix.kind: dict.fromkeys(FACTORS, 0.0) for matrix in masker.matrices}
    masker.apply(recipe)
    try:
        passes = _forward(masker, reference, fitness)
    except UnusableScores:
        return Guidance(0.0, costs, slopes)
    sparsities = masker.sparsities(recipe)
    for block in reversed(masker.opened.blocks):
        with masker.opened.store.loaded(block), masker.held(block.matrices):
            masker.prune_held(block)
            gradients = _gradients(masker, block, passes)
            for matrix in block.matrices:
                benefit = gradients.pop(matrix.name).mul_(masker.dense.weights[matrix.name])
                sparsity = sparsities[matrix.name]
                cost, exponents = derivatives(masker, recipe, matrix, benefit, sparsity)
                if not is_nm:
                    costs[matrix.name] = finite_or_zero(cost)
                for name, slope in zip(FACTORS, exponents, strict=True):
                    slopes[matrix.kind][name] += finite_or_zero(slope)
    return Guidance(scale(passes.value, fitness), costs, slopes)


def _forward(masker: StreamedMasker, reference: DenseReference, fitness: FitnessKind) -> _Passes:
    frame, passes = masker.opened.frame, _Passes()
    for batch in reference.batches:
        ids = batch.tokens
        with torch.no_grad():
            hidden, calls = frame.entered(ids)
            states = [hidden, *(out for _, out in masker.streamed.through(hidden, calls))]
        last = states.pop().requires_grad_(True)
        with torch.enable_grad():
            [logits] = frame.logits([ids], [last])
            value = mean_value(logits[:, :-1].float(), ids.to(logits.device), batch, fitness)
            share = value * len(ids) / len(reference.tokens)
            share.backward()
        assert last.grad is not None
        passes.value += share.item()
        passes.inputs.append(states)
        passes.calls.append(calls)
        passes.outer.append(last.grad)
    return passes


def _gradients(masker: StreamedMasker, block: Block, passes: _Passes) -> dict[str, Tensor]:
    """The divergence's gradients by a loaded block's weights; takes the passes back through it."""
    parameters = dict.fromkeys(matrix.parameter for matrix in block.matrices)
    for parameter in parameters:
        parameter.requires_grad_(True)
    for index, calls in enumerate(passes.calls):
        leaf = passes.inputs[index].pop().requires_grad_(True)
        with torch.enable_grad():
            output = run_block(block, leaf, calls[block.index], masker.opened.compute)
            output.backward(passes.outer[index])
        assert leaf.grad is not None
        passes.outer[index] = leaf.grad
    found = {}
    for matrix in block.matrices:
        gradient = matrix.parameter.grad
        # Experts that no token met have none.
        gradient = torch.zeros_like(matrix.parameter) if gradient is None else gradient
        found[matrix.name] = matrix.oriented(gradient).float()
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None
    return found
