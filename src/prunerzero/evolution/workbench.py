"""A model as a search uses it: whole in memory, or streamed from disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from prunerzero.data.windows import WindowSampler
from prunerzero.evaluation.comparison import Comparison, Measures
from prunerzero.evolution.arena import Arena
from prunerzero.evolution.guidance import MeasureGuidance, measure_guidance
from prunerzero.evolution.masking import Masker
from prunerzero.evolution.rungs import RungPlan
from prunerzero.evolution.settings import FitnessKind
from prunerzero.evolution.streamed import StreamedMasker, measure_streamed_guidance
from prunerzero.evolution.subset import SubsetArena
from prunerzero.models import Compute, compute_for, find_blocks, load_model
from prunerzero.models.blocks import Block
from prunerzero.models.loading import context_limit
from prunerzero.models.matrices import Matrix
from prunerzero.models.passes import check_runs
from prunerzero.models.selection import Selection
from prunerzero.models.snapshot import DenseWeights
from prunerzero.progress import Report
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import DenseStatistics
from prunerzero.statistics.cache import Statistics, gather_statistics, model_hash
from prunerzero.streaming.comparison import StreamedComparison
from prunerzero.streaming.opening import open_model
from prunerzero.streaming.source import check_finite, fingerprint
from prunerzero.streaming.statistics import StoredStatistics, check_room, gather_stored

# Reading the weights is what a streamed candidate costs, so a pass takes more windows: the next
# part of a reading is another pass.
STREAMED_WINDOWS = 8
# One in so many blocks is pruned for the rung below the others, and at least so many.
ONE_BLOCK_IN, FEWEST_BLOCKS = 8, 2


class Workbench(ABC):
    """What a search wants of a model.

    Attributes:
        streamed: its weights stay on disk.
        tokenizer: its tokenizer, or None.
        blocks: its blocks.
        compute: device and precision of the passes.
        context: longest sequence that it can read, or None.
        identity: what tells it from other models.
        measure_guidance: measures derivatives with a masker of this bench.
    """

    streamed: bool
    tokenizer: Any
    blocks: list[Block]
    compute: Compute
    context: int | None
    identity: str
    measure_guidance: MeasureGuidance

    @property
    def matrices(self) -> list[Matrix]:
        """All prunable matrices."""
        return [matrix for block in self.blocks for matrix in block.matrices]

    @abstractmethod
    def check(self, tokens: Tensor, terminals: frozenset[str], report: Report) -> None:
        """Finds what would end a search before its first candidate.

        Args:
            tokens: calibration token ids ``[windows, length]``.
            terminals: what `gather` will be asked for.
            report: called with a step's name, the parts done and their number.

        Raises:
            InputError: too little disk space, weights that are not finite, or a model that cannot
                run.
        """

    @abstractmethod
    def plan(self, plan: RungPlan) -> RungPlan:
        """The ladder for this model, from the usual one."""

    @abstractmethod
    def gather(self, tokens: Tensor, terminals: frozenset[str], report: Report) -> DenseStatistics:
        """Statistics of the dense model on calibration windows."""

    @abstractmethod
    def masker(self, tokens: Tensor, statistics: DenseStatistics, pattern: Pattern) -> Masker:
        """What prunes the model; it is shown a few windows."""

    @abstractmethod
    def arena(
        self,
        masker: Masker,
        sampler: WindowSampler,
        plan: RungPlan,
        fitness: FitnessKind,
        name: str,
        *,
        uniform: bool,
    ) -> Arena:
        """What candidates are read on; ``uniform``: all of them are equally sparse everywhere."""

    @abstractmethod
    def comparison(self, tokens: Tensor, statistics: DenseStatistics, report: Report) -> Measures:
        """What takes the closing measurements, by these calibration windows."""


class WholeModel(Workbench):
    """A model in memory."""

    streamed = False

    def __init__(
        self, name: str, dtype: str | None, device: str | None, selection: Selection
    ) -> None:
        """Loads the model; arguments as for `prunerzero.search`."""
        # There is no autocast to float32, so weights are loaded in it when it is asked for.
        exact = "float32" if dtype == "float32" else None
        self.network, self.tokenizer = load_model(name, device=device, dtype=exact)
        self.context = context_limit(self.network)
        self.compute = compute_for(self.network, dtype)
        self.blocks = find_blocks(self.network, selection)
        self.identity = model_hash(self.network)
        self.measure_guidance = measure_guidance

    def check(self, tokens: Tensor, terminals: frozenset[str], report: Report) -> None:  # noqa: ARG002
        """See `Workbench.check`."""
        check_runs(self.network, tokens, self.compute)

    def plan(self, plan: RungPlan) -> RungPlan:
        """See `Workbench.plan`."""
        return plan

    def gather(self, tokens: Tensor, terminals: frozenset[str], report: Report) -> Statistics:
        """See `Workbench.gather`."""
        return gather_statistics(
            self.network,
            self.matrices,
            tokens,
            terminals,
            self.compute,
            lambda done: report("statistics", done, len(tokens)),
        )

    def masker(self, tokens: Tensor, statistics: DenseStatistics, pattern: Pattern) -> Masker:  # noqa: ARG002
        """See `Workbench.masker`."""
        return Masker(self.network, self.matrices, statistics, pattern, self._dense)

    def arena(
        self,
        masker: Masker,
        sampler: WindowSampler,
        plan: RungPlan,
        fitness: FitnessKind,
        name: str,
        *,
        uniform: bool,  # noqa: ARG002
    ) -> Arena:
        """See `Workbench.arena`."""
        return Arena(masker, sampler, self.compute, plan, fitness, name)

    def comparison(
        self,
        tokens: Tensor,
        statistics: DenseStatistics,  # noqa: ARG002
        report: Report,
    ) -> Comparison:
        """See `Workbench.comparison`."""
        return Comparison(
            self.network, self.blocks, tokens, self.compute, report=report, dense=self._dense
        )

    @cached_property
    def _dense(self) -> DenseWeights:
        """Taken before anything is pruned, for all maskers and comparisons."""
        return DenseWeights(self.matrices, self.compute)


class StreamedModel(Workbench):
    """A model of which one block is in memory at a time."""

    streamed = True

    def __init__(
        self, name: str, dtype: str | None, device: str | None, selection: Selection
    ) -> None:
        """Opens the checkpoint; arguments as for `prunerzero.search`."""
        self.opened = open_model(name, dtype, device, selection)
        self.tokenizer = self.opened.tokenizer()
        self.context = context_limit(self.opened.model)
        self.compute = self.opened.compute
        self.blocks = self.opened.blocks
        self.identity = fingerprint(self.opened.directory, self.opened.checkpoint)
        self.measure_guidance = measure_streamed_guidance

    def check(self, tokens: Tensor, terminals: frozenset[str], report: Report) -> None:
        """See `Workbench.check`."""
        check_room(self.opened, tokens, terminals)
        check_finite(self.opened.checkpoint, report)
        self.opened.frame.probe(tokens)

    def plan(self, plan: RungPlan) -> RungPlan:
        """See `Workbench.plan`."""
        return replace(plan, glance=STREAMED_WINDOWS, screening=STREAMED_WINDOWS)

    def gather(self, tokens: Tensor, terminals: frozenset[str], report: Report) -> StoredStatistics:
        """See `Workbench.gather`."""
        return gather_stored(self.opened, tokens, terminals, report)

    def masker(
        self, tokens: Tensor, statistics: DenseStatistics, pattern: Pattern
    ) -> StreamedMasker:
        """See `Workbench.masker`."""
        return StreamedMasker(self.opened, tokens, statistics, pattern)

    def arena(
        self,
        masker: Masker,
        sampler: WindowSampler,
        plan: RungPlan,
        fitness: FitnessKind,
        name: str,
        *,
        uniform: bool,
    ) -> Arena:
        """See `Workbench.arena`."""
        if not uniform:
            return Arena(masker, sampler, self.compute, plan, fitness, name)
        assert isinstance(masker, StreamedMasker)
        count = max(FEWEST_BLOCKS, len(self.blocks) // ONE_BLOCK_IN)
        return SubsetArena(masker, sampler, self.compute, plan, fitness, name, count=count)

    def comparison(
        self, tokens: Tensor, statistics: DenseStatistics, report: Report
    ) -> StreamedComparison:
        """See `Workbench.comparison`."""
        assert isinstance(statistics, StoredStatistics)
        return StreamedComparison(self.opened, statistics, tokens, report)
