"""Several recipes on one streamed model: pruned and measured in the same reading of its weights."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from prunerzero.data.windows import Windows
from prunerzero.evaluation.batches import batches, log_normaliser, target_losses
from prunerzero.evaluation.comparison import Outcome
from prunerzero.evaluation.perplexity import TextLoss
from prunerzero.files import cache_dir
from prunerzero.models.blocks import Block
from prunerzero.models.matrices import is_mixture
from prunerzero.progress import Report, silent
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import (
    MatrixResult,
    matrix_results,
    overall_sparsity,
    plan_sparsities,
    run_loop,
    sums_by_pass,
)
from prunerzero.pruning.shared import replay_batch
from prunerzero.recipe import Recipe
from prunerzero.streaming.chain import StreamedReplay
from prunerzero.streaming.opening import Opened
from prunerzero.streaming.statistics import StoredStatistics


class StreamedComparison:
    """The counterpart of `prunerzero.evaluation.comparison.Comparison`, sequential.

    Hidden states of the calibration and of the evaluation windows go through the blocks side by
    side; nothing is kept of a pruned model but its losses.

    Attributes:
        mixture: whether the model is a mixture of experts.
    """

    def __init__(
        self,
        opened: Opened,
        statistics: StoredStatistics,
        calibration: Tensor,
        report: Report = silent,
    ) -> None:
        """Measures nothing yet.

        Args:
            opened: the model.
            statistics: of the dense model, for gradients.
            calibration: calibration token ids ``[windows, length]``.
            report: called with a step's name, the parts done and their number.
        """
        self.mixture = is_mixture(matrix for block in opened.blocks for matrix in block.matrices)
        self._opened = opened
        self._statistics = statistics
        self._calibration = calibration
        self._report = report

    def measure_dense(self, windows: Windows) -> TextLoss:
        """Loss of the dense model."""
        with self._folder() as folder:
            chain = self._chain(folder, "evaluated", batches(windows.tokens))
            for block in self._opened.blocks:
                with self._opened.store.loaded(block):
                    chain.advance(chain.run(block))
                chain.forget(block.index)
                self._report("dense", block.index + 1, len(self._opened.blocks))
            return self._loss(chain, windows)

    def measure(
        self,
        name: str,
        recipe: Recipe,
        pattern: Pattern,
        windows: Windows,
        *,
        remember: bool = False,  # noqa: ARG002  masks would take a byte a weight
    ) -> Outcome:
        """Prunes by ``recipe`` and measures the loss on ``windows``.

        Args:
            name: what progress reports call it.
            recipe: what to prune by.
            pattern: what may be zero.
            windows: what to measure on.
            remember: has no effect here.

        Raises:
            InputError: as `prunerzero.prune`.
        """
        began = time.perf_counter()
        blocks = self._opened.blocks
        sparsities = plan_sparsities(blocks, recipe, pattern)
        once, replayed = sums_by_pass(recipe, sequential=True)
        results: list[MatrixResult] = []
        with self._folder() as folder:
            evaluated = self._chain(folder, "evaluated", batches(windows.tokens))
            calibrated = None
            if replayed:
                parts = self._calibration.split(replay_batch(self._calibration))
                calibrated = self._chain(folder, "calibrated", parts)

            @contextmanager
            def held(block: Block) -> Iterator[None]:
                with self._opened.store.loaded(block):
                    yield
                    evaluated.advance(evaluated.run(block))
                    results.extend(matrix_results([block]))
                for chain in (evaluated, calibrated):
                    if chain is not None:
                        chain.forget(block.index)

            run_loop(
                blocks,
                recipe,
                pattern,
                sparsities,
                self._calibration,
                self._statistics if once else None,
                calibrated,
                {},
                hold=held,
                report=lambda step, done, total: self._report(f"{name}: {step}", done, total),
            )
            loss = self._loss(evaluated, windows)
        return Outcome(loss, overall_sparsity(tuple(results)), time.perf_counter() - began)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        cache_dir().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="states-", dir=cache_dir()) as folder:
            yield Path(folder)

    def _chain(self, folder: Path, name: str, parts: Sequence[Tensor]) -> StreamedReplay:
        frame = self._opened.frame
        frame.probe(parts[0])
        chain = StreamedReplay(folder, name, parts, frame.capture(parts), self._opened.compute)
        chain.begin(frame.embedded(parts))
        return chain

    @torch.no_grad()
    def _loss(self, chain: StreamedReplay, windows: Windows) -> TextLoss:
        parts = batches(windows.tokens)
        found: list[float] = []
        heads = self._opened.frame.logits(parts, chain.states)
        for ids, whole in zip(parts, heads, strict=True):
            logits = whole[:, :-1]
            targets = ids.to(logits.device)[:, 1:]
            losses = target_losses(logits, log_normaliser(logits), targets)
            found.extend(losses.mean(1).tolist())
        return TextLoss(tuple(found), windows.tokens.shape[0] * (windows.tokens.shape[1] - 1))
