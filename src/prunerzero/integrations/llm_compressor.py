"""An llm-compressor modifier that prunes with any recipe of ours.

Importing this module registers it, so that llm-compressor's recipes in Python and in YAML can name
it. Its pipeline gathers: the modifier watches each block's inputs while the pipeline calibrates the
block, and prunes the block before its outputs go on, as ``prunerzero prune`` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import torch
from pydantic import Field, PrivateAttr, field_validator
from torch import Tensor, nn

from prunerzero.errors import MissingExtraError
from prunerzero.metric import Metric
from prunerzero.models.blocks import Block, find_blocks
from prunerzero.models.compute import Compute
from prunerzero.models.matrices import Matrix
from prunerzero.models.selection import MIN_COVERAGE, Selection
from prunerzero.pruning.matrix import prune_matrix
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import plan_sparsities
from prunerzero.recipe import Recipe
from prunerzero.statistics.cache import Statistics
from prunerzero.statistics.collectors import Sample, forward, raw_sums
from prunerzero.statistics.gathering import ActivationSums, RawStatistics, gather_raw

try:
    from compressed_tensors.utils import align_module_device, update_offload_parameter
    from llmcompressor.modifiers import Modifier
    from llmcompressor.modifiers.factory import ModifierFactory
except ImportError as error:
    raise MissingExtraError("llm-compressor", "pruning inside llm-compressor") from error


class RecipePruningModifier(Modifier):
    """Prunes the blocks of a causal LM by a recipe, sequentially, in llm-compressor's pipeline.

    Statistics run over all tokens of the data set, padding too: give windows of full length
    (``concatenate_data``) for figures like ours. Gradients, if the recipe asks for them, come from
    the dense model, one backward pass a sequence, before the pipeline starts. An allocation must
    say what every matrix gets; OWL's, which follows from statistics, is refused.

    Attributes:
        recipe: a zoo name, an expression, a JSON file, a `Recipe` or a `Metric`.
        pattern: what may be zero: ``50%``, ``2:4``.
        blocks: dotted name of the list of blocks; empty to find it.
        include: patterns of the names of matrices to prune; empty for all.
        exclude: patterns of those that stay dense.
        min_coverage: share of the blocks' weights that must be found prunable.
    """

    requires_calibration_data: bool = True

    recipe: Any
    pattern: str
    blocks: str = ""
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)
    min_coverage: float = MIN_COVERAGE

    _blocks: list[Block] = PrivateAttr(default_factory=list)
    _sparsities: dict[str, Fraction] = PrivateAttr(default_factory=dict)
    _gradients: RawStatistics = PrivateAttr(default_factory=dict)
    _watched: dict[int, ActivationSums] = PrivateAttr(default_factory=dict)
    _waiting: dict[int, Block] = PrivateAttr(default_factory=dict)
    _sample: Sample | None = PrivateAttr(default=None)

    @field_validator("recipe")
    @classmethod
    def _read_recipe(cls, value: Any) -> Recipe:
        if isinstance(value, Metric):
            return Recipe(metric=value)
        return value if isinstance(value, Recipe) else Recipe.from_text(str(value))

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, value: str) -> str:
        return str(Pattern.parse(value))

    def on_initialize(self, state: Any, **_: Any) -> bool:
        """Finds the blocks, and takes gradients of the dense model where the recipe needs them."""
        selection = Selection(
            self.blocks, tuple(self.include), tuple(self.exclude), self.min_coverage
        )
        self._blocks = find_blocks(state.model, selection)
        self._sparsities = plan_sparsities(self._blocks, self.recipe, Pattern.parse(self.pattern))
        matrices = [matrix for block in self._blocks for matrix in block.matrices]
        if needed := raw_sums(self.recipe.terminals):
            device = matrices[0].parameter.device
            sequences = list(_sequences(state.data.calib, device))
            self._sample = Sample(len(sequences), sum(map(len, sequences)))
            if once := needed - forward(needed):
                self._gradients = _gathered(state.model, matrices, sequences, once)
        return True

    def on_calibration_start(self, state: Any, event: Any, **_: Any) -> None:  # noqa: ARG002
        """Begins to watch the inputs of every block's matrices."""
        wanted = forward(raw_sums(self.recipe.terminals))
        self._waiting = {block.index: block for block in self._blocks}
        if wanted:
            self._watched = {
                block.index: ActivationSums(block.matrices, wanted) for block in self._blocks
            }

    def on_sequential_epoch_end(
        self,
        state: Any,  # noqa: ARG002
        event: Any,  # noqa: ARG002
        modules: Iterable[nn.Module] = (),
        **_: Any,
    ) -> None:
        """Prunes the blocks that the pipeline has just calibrated.

        Their hooks go first: the pipeline runs the blocks once more, for the next one's inputs.
        """
        done = set(modules)
        for block in list(self._waiting.values()):
            if all(matrix.module in done for matrix in block.matrices):
                self._prune(block)

    def on_calibration_end(self, state: Any, event: Any, **_: Any) -> None:  # noqa: ARG002
        """Prunes what no part of the pipeline owned: all, in a pipeline of a single pass."""
        for block in list(self._waiting.values()):
            self._prune(block)

    def on_finalize(self, state: Any, **_: Any) -> bool:  # noqa: ARG002
        """Drops what was gathered."""
        self._gradients, self._watched, self._waiting = {}, {}, {}
        return True

    def _prune(self, block: Block) -> None:
        del self._waiting[block.index]
        raw: RawStatistics = {matrix.name: {} for matrix in block.matrices}
        watched = self._watched.pop(block.index, None)
        if watched is not None:
            watched.close()
            raw = watched.sums()
        for name, sums in raw.items():
            sums |= self._gradients.pop(name, {})
        statistics = None
        if self._sample is not None:
            statistics = Statistics(raw, self._sample, block.matrices)
        pattern = Pattern.parse(self.pattern)
        for matrix in block.matrices:
            with align_module_device(matrix.module):
                terminals = statistics.of(matrix, self.recipe.terminals) if statistics else {}
                sparsity = self._sparsities[matrix.name]
                prune_matrix(self.recipe, matrix, terminals, pattern, sparsity)
                pruned = matrix.parameter.detach()
            update_offload_parameter(matrix.module, matrix.attribute, pruned)


def _sequences(batches: Iterable[dict[str, Tensor]], device: torch.device) -> Iterator[Tensor]:
    """Each sequence of the data set, ``[tokens]``."""
    for batch in batches:
        yield from batch["input_ids"].to(device)


def _gathered(
    model: nn.Module, matrices: list[Matrix], sequences: list[Tensor], wanted: frozenset[str]
) -> RawStatistics:
    """Sums of gradients over sequences, which need not be of one length."""
    parameter = matrices[0].parameter
    compute = Compute(parameter.device, parameter.dtype)  # as the pipeline runs the model
    total: RawStatistics = {matrix.name: {} for matrix in matrices}
    for sequence in sequences:
        with torch.enable_grad():
            found = gather_raw(model, matrices, sequence[None], wanted, compute)
        for name, sums in found.items():
            for kind, value in sums.items():
                total[name][kind] = total[name][kind] + value if kind in total[name] else value
    return total


ModifierFactory.register(RecipePruningModifier.__name__, RecipePruningModifier)
