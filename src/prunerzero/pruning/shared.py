"""What recipes that prune one dense model by the same calibration windows have in common."""

from __future__ import annotations

import time
from collections.abc import Iterable

from torch import Tensor, nn

from prunerzero.models.blocks import Block
from prunerzero.models.compute import Compute
from prunerzero.models.replay import Replay
from prunerzero.progress import Advance, Report, advance_of, silent
from prunerzero.recipe import Recipe
from prunerzero.statistics.cache import Statistics, gather_statistics
from prunerzero.statistics.collectors import (
    BACKWARD,
    COLLECTORS,
    GRAM,
    INSIDE,
    forward,
    raw_sums,
)
from prunerzero.statistics.gathering import RawStatistics, gather_raw

REPLAY_TOKENS = 2048
# One pass each gives all sums of a group.
PASSES = {"gradients": BACKWARD, "regional gradients": INSIDE}


class SharedData:
    """Statistics and hidden states of the dense model, each gathered once for all recipes.

    Gradients go to the cache on disk and are read from there, for they take as much memory as the
    weights; Gram matrices, which only one-shot pruning takes from the dense model, stay in memory.
    What depends on the pruned blocks before each is every recipe's own.

    Attributes:
        seconds: by the name of a pass (`PASSES`), how long it took here.
    """

    def __init__(
        self, model: nn.Module, blocks: list[Block], tokens: Tensor, compute: Compute
    ) -> None:
        """Gathers nothing yet.

        Args:
            model: the dense causal LM.
            blocks: its blocks.
            tokens: calibration token ids ``[windows, length]``.
            compute: device and precision.
        """
        self.seconds: dict[str, float] = {}
        self._model = model
        self._blocks = blocks
        self._matrices = [matrix for block in blocks for matrix in block.matrices]
        self._tokens = tokens
        self._compute = compute
        self._held: RawStatistics = {}
        self._replay: Replay | None = None

    def gather(self, recipes: Iterable[Recipe], sequential: bool, report: Report = silent) -> None:
        """Gathers what these recipes take from the dense model; the model must be dense now."""
        terminals = frozenset[str]().union(*(recipe.terminals for recipe in recipes))
        total = len(self._tokens)
        for step, sums in PASSES.items():
            wanted = frozenset(
                name for name in terminals & COLLECTORS.keys() if COLLECTORS[name].raw & sums
            )
            if wanted:
                began = time.perf_counter()
                self.dense(wanted, advance_of(report, step, total))
                self.seconds[step] = time.perf_counter() - began
        if not sequential and GRAM in raw_sums(terminals):
            self._held = gather_raw(
                self._model,
                self._matrices,
                self._tokens,
                forward(raw_sums(terminals)),
                self._compute,
                lambda done: report("activations", done, total),
            )

    def dense(self, terminals: frozenset[str], advance: Advance = silent) -> Statistics:
        """Terminals of the dense model, from memory or the cache where they are there."""
        return gather_statistics(
            self._model,
            self._matrices,
            self._tokens,
            terminals,
            self._compute,
            advance,
            held=self._held,
        )

    def replay(self) -> Replay:
        """Hidden states before the first block; the model must be dense at the first call."""
        if self._replay is None:
            batch = replay_batch(self._tokens)
            self._replay = Replay(self._model, self._blocks, self._tokens, batch, self._compute)
        self._replay.rewind()
        return self._replay


def replay_batch(tokens: Tensor) -> int:
    """Windows in a forward pass of one block."""
    return max(1, REPLAY_TOKENS // tokens.shape[1])
