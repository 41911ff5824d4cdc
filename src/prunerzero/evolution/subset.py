"""A rung below the others: a few blocks pruned, and how far their outputs are from the dense ones.

It reads a small part of the weights, which is what a candidate costs where they are on disk. How
much it says of the whole model's divergence is measured as of every rung: favourites and audited
candidates are read on rung 1 too (`prunerzero.evolution.rungs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from prunerzero.data.windows import Windows, WindowSampler
from prunerzero.evaluation.divergence import Divergence
from prunerzero.evolution.arena import Arena
from prunerzero.evolution.rungs import RungPlan, log_ratio
from prunerzero.evolution.settings import FitnessKind
from prunerzero.evolution.streamed import StreamedMasker
from prunerzero.models.blocks import Block
from prunerzero.models.compute import Compute
from prunerzero.models.running import run_block
from prunerzero.recipe import Recipe
from prunerzero.study.records import Measurement


def chosen_blocks(blocks: Sequence[Block], count: int) -> list[Block]:
    """So many blocks, in the middle of equal parts of the depth."""
    count = min(count, len(blocks))
    return [blocks[(2 * part + 1) * len(blocks) // (2 * count)] for part in range(count)]


class BlockErrors:
    """The dense model's inputs and outputs of a few blocks, to compare pruned ones with.

    Args:
        masker: pruner of the model.
        tokens: windows ``[count, length]``.
        blocks: the blocks to compare.
    """

    def __init__(self, masker: StreamedMasker, tokens: Tensor, blocks: Sequence[Block]) -> None:
        self._masker = masker
        self._blocks = list(blocks)
        self._states: dict[int, tuple[Tensor, Tensor]] = {}
        masker.restore()
        with torch.no_grad():
            hidden, self._calls = masker.opened.frame.entered(tokens)
            wanted = {block.index for block in blocks}
            for block, output in masker.streamed.through(hidden, self._calls):
                if block.index in wanted:
                    self._states[block.index] = hidden, output
                hidden = output

    def measure(self, recipe: Recipe) -> tuple[float, ...]:
        """The mean relative squared error of the blocks' outputs under a recipe, by window.

        For every token ``|pruned - dense|^2 / |dense|^2``, so that the few tokens with huge hidden
        states count like the others.

        Raises:
            UnusableScores: if the recipe's scores cannot rank weights.
        """
        opened, total = self._masker.opened, torch.zeros(())
        self._masker.apply(recipe)
        for block in self._blocks:
            hidden, dense = self._states[block.index]
            with opened.store.loaded(block), torch.no_grad():
                self._masker.prune(block)
                output = run_block(block, hidden, self._calls[block.index], opened.compute)
            error = (output.float() - dense.float()).square().sum(-1)
            total = total + (error / dense.float().square().sum(-1)).mean(1).cpu()
        return tuple((total / len(self._blocks)).tolist())


class SubsetArena(Arena):
    """`Arena` whose rung 0 prunes a few blocks and compares their outputs.

    Rung 0 has windows of its own, the same in every round; those above are as ever. Only for
    searches in which all candidates are equally sparse everywhere: a recipe could else leave the
    chosen blocks dense.

    Args:
        masker: prunes the model.
        sampler: draws selection windows.
        compute: device and precision.
        plan: sizes of the rungs; rung 0 is read in one part.
        fitness: what the rungs above compare.
        name: what tells it from the search's other targets.
        count: how many blocks.
    """

    def __init__(
        self,
        masker: StreamedMasker,
        sampler: WindowSampler,
        compute: Compute,
        plan: RungPlan,
        fitness: FitnessKind = "kl",
        name: str = "",
        *,
        count: int,
    ) -> None:
        super().__init__(masker, sampler, compute, plan, fitness, name)
        self._streamed = masker
        self._count = count
        self._errors: BlockErrors | None = None

    def read(self, recipe: Recipe, rung: int, start: int, stop: int) -> Divergence:
        """See `Arena.read`; on rung 0 a window's two numbers are both the blocks' error."""
        if rung:
            return super().read(recipe, rung, start, stop)
        if self._errors is None:
            chosen = chosen_blocks(self._streamed.opened.blocks, self._count)
            self._errors = BlockErrors(self._streamed, self.windows(0).tokens, chosen)
        errors = self._errors.measure(recipe)[start:stop]
        self._pruned_by = recipe  # should it climb
        return Divergence(errors, errors)

    def compare(
        self, rung: int, reading: Divergence, incumbents: Divergence
    ) -> tuple[float, float]:
        """See `Arena.compare`; errors are compared as divergences are."""
        if rung:
            return super().compare(rung, reading, incumbents)
        return log_ratio(reading.kl, incumbents.kl)

    def windows(self, rung: int) -> Windows:
        """See `Arena.windows`."""
        if rung:
            return super().windows(rung)
        # Of a page that is for derivatives, behind those that they read.
        page = self._sampler.draw(1, self.plan.page)
        return page.subset(self.plan.page - self.plan.screening, self.plan.page)

    def measurement(
        self,
        reading: Divergence,
        rung: int,
        incumbents: Divergence | None,
        notes: Mapping[str, Any],
    ) -> Measurement:
        """See `Arena.measurement`."""
        if rung:
            return super().measurement(reading, rung, incumbents, notes)
        data: dict[str, Any] = {"block_errors": reading.kl, **notes}
        if incumbents is not None:
            ratio, error = self.compare(0, reading, incumbents)
            data |= {"log_ratio": ratio, "standard_error": error}
        windows = self.windows(0)
        return Measurement(
            purpose="fitness",
            rung=0,
            windows=windows.hash,
            tokens=windows.tokens.numel(),
            loss=None,
            data=data,
        )

    def next_round(self, _: Mapping[str, Any] | None) -> None:
        """Rung 1's windows become nobody's."""
        super().next_round(None)
        self._references.clear()
        self._readings.clear()
