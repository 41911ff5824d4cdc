"""Statistics of the dense model, block by block: forward, and backward for gradients.

The forward pass keeps every block's input on disk where gradients are wanted. From the gradient of
the loss with respect to the last block's output, blocks are then taken from last to first: each is
run again on its stored input, which gives the gradients of its weights and of that input. So one
block's weights, gradients and activations are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunerzero.models.blocks import Block
from prunerzero.models.compute import Compute
from prunerzero.models.matrices import Matrix
from prunerzero.models.running import run_block
from prunerzero.packing.weightfile import WeightFile
from prunerzero.progress import Report
from prunerzero.statistics.collectors import (
    BACKWARD,
    GRADIENT,
    INSIDE,
    Sample,
    finish,
    forward,
)
from prunerzero.statistics.gathering import ActivationSums, RawStatistics, fill_unreached
from prunerzero.statistics.gradients import GradientSums
from prunerzero.statistics.regional import push_back, regional_of
from prunerzero.streaming.capture import Calls, Frame
from prunerzero.streaming.chain import StreamedReplay
from prunerzero.streaming.journal import Journal
from prunerzero.streaming.states import States, read_tensor, write_states, write_tensors
from prunerzero.streaming.store import WeightStore

# How the names of this pass's files begin.
INPUTS, GRADIENTS = "dense", "gradient"
FORWARD_SUMS, GRADIENT_SUMS = "sums-forward", "sums-gradient"
REGIONAL_SUMS = "sums-regional"


class DensePass:
    """Gathers raw sums of the dense model into files, and serves terminals from them.

    Attributes:
        unreached: names of matrices that no token met (`fill_unreached`).
    """

    def __init__(
        self,
        frame: Frame,
        blocks: Sequence[Block],
        store: WeightStore,
        tokens: Tensor,
        wanted: frozenset[str],
        compute: Compute,
        journal: Journal,
        report: Report,
    ) -> None:
        """Gathers nothing yet.

        Args:
            frame: the model around its blocks.
            blocks: all of them.
            store: their weights.
            tokens: calibration token ids ``[windows, length]``.
            wanted: raw sums, see `prunerzero.statistics.collectors`.
            compute: device and precision.
            journal: what is done already, and where files go.
            report: told of the blocks done, in both directions.
        """
        self._frame = frame
        self._blocks = blocks
        self._store = store
        # One window at a time, as one sequence's gradient is what is squared.
        self._windows = list(tokens.split(1))
        self._sample = Sample(tokens.shape[0], tokens.numel())
        self._sums = forward(wanted)
        self._gradients = wanted & BACKWARD
        self._backward = bool(self._gradients)
        self._regional = bool(wanted & INSIDE)
        self._compute = compute
        self._journal = journal
        self._report = report
        self._open: tuple[int, list[WeightFile]] | None = None

    @property
    def unreached(self) -> list[str]:
        """Names of matrices that no token met."""
        return list(dict.fromkeys(self._journal.done.get("dense_unreached", [])))

    def of(self, matrix: Matrix, terminals: frozenset[str]) -> dict[str, Tensor]:
        """The data terminals of one matrix: ``[1, in]`` activations, ``[out, in]`` gradients."""
        return finish(terminals, self.raw_of(matrix), self._sample)

    def raw_of(self, matrix: Matrix) -> dict[str, Tensor]:
        """The raw sums of one matrix, float32."""
        if self._open is None or self._open[0] != matrix.block:
            kinds = [FORWARD_SUMS] * bool(self._sums) + [GRADIENT_SUMS] * self._backward
            kinds += [REGIONAL_SUMS] * self._regional
            files = [WeightFile.open(self._path(kind, matrix.block)) for kind in kinds]
            self._open = matrix.block, files
        return {
            kind: read_tensor(file, name).to(self._compute.device)
            for file in self._open[1]
            for name in file.tensors
            for kind, owner in [name.split("/", 1)]
            if owner == matrix.name
        }

    def gather(self) -> None:
        """Runs what the journal does not say is done."""
        done = self._journal.done
        count = len(self._blocks)
        if done.get("dense"):
            self._clear()
            return
        calls = self._frame.capture(self._windows)
        chain = StreamedReplay(self._journal.folder, INPUTS, self._windows, calls, self._compute)
        if not done.get("head"):
            self._forward(chain, calls)
            if self._backward:
                gradients = self._frame.head_gradients(self._windows, chain.states)
                self._write_gradients(count, gradients)
                self._journal.commit(head=True)
        if self._backward:
            chain.forget(count)
            self._go_back(chain, calls)
        self._journal.commit(dense=True)
        self._clear()

    def discard(self) -> None:
        """Deletes the sums."""
        self._open = None
        for kind in (FORWARD_SUMS, GRADIENT_SUMS, REGIONAL_SUMS):
            for path in self._journal.folder.glob(f"{kind}-*"):
                path.unlink()

    def _forward(self, chain: StreamedReplay, calls: list[Calls]) -> None:
        start, count = self._journal.done.get("forward", 0), len(self._blocks)
        if start == count and not self._backward:
            return
        if start:
            chain.resume(start)
        else:
            chain.begin(self._frame.embedded(self._windows))
        for block in self._blocks[start:]:
            with self._store.loaded(block):
                if self._regional:
                    self._save(REGIONAL_SUMS, block, self._inside(block, chain, calls))
                sums = ActivationSums(block.matrices, self._sums) if self._sums else None
                try:
                    if self._backward or block.index + 1 < count:
                        chain.advance(chain.run(block))
                    else:
                        chain.show(block)
                finally:
                    if sums is not None:
                        sums.close()
                if sums is not None:  # experts that no token met take their device from the weights
                    self._save(FORWARD_SUMS, block, sums.sums())
            self._journal.commit(forward=block.index + 1)
            if not self._backward:
                chain.forget(block.index)
            self._tell(block.index + 1)

    def _inside(self, block: Block, chain: StreamedReplay, calls: list[Calls]) -> RawStatistics:
        """The block's regional gradients."""
        sums = GradientSums(block.module, block.matrices, frozenset({GRADIENT}))
        try:
            for hidden, call in zip(chain.states, calls, strict=True):
                push_back(block.module, hidden, call[block.index], self._compute)
        finally:
            sums.close()
        return {matrix.name: regional_of(sums, matrix) for matrix in block.matrices}

    def _go_back(self, chain: StreamedReplay, calls: list[Calls]) -> None:
        count = len(self._blocks)
        done = self._journal.done.get("backward", 0)
        for block in reversed(self._blocks[: count - done]):
            inputs = States(chain.path(block.index), self._compute.device)
            outer = States(self._path(GRADIENTS, block.index + 1), self._compute.device)
            with self._store.loaded(block):
                sums = GradientSums(block.module, block.matrices, self._gradients)
                try:
                    inner = self._passed_back(block, inputs, outer, calls)
                    if block.index:
                        self._write_gradients(block.index, inner)
                    else:
                        for _ in inner:
                            pass
                finally:
                    sums.close()
                raw: RawStatistics = {m.name: sums.of(m) for m in block.matrices}
            self._save(GRADIENT_SUMS, block, raw)
            done += 1
            self._journal.commit(backward=done)
            inputs.remove()
            outer.remove()
            self._tell(count + done)

    def _passed_back(
        self, block: Block, inputs: States, outer: States, calls: list[Calls]
    ) -> Iterator[Tensor]:
        """Each window's gradient with respect to the block's input (the first block's is empty)."""
        for hidden, gradient, call in zip(inputs, outer, calls, strict=True):
            leaf = hidden.requires_grad_(block.index > 0)
            output: Any = run_block(block, leaf, call[block.index], self._compute)
            if output.requires_grad:
                output.backward(gradient)
            yield torch.zeros_like(leaf) if leaf.grad is None else leaf.grad

    def _write_gradients(self, position: int, gradients: Iterator[Tensor]) -> None:
        path = self._path(GRADIENTS, position)
        write_states(path, gradients, [1] * len(self._windows), self._compute.device)

    def _save(self, kind: str, block: Block, raw: RawStatistics) -> None:
        unreached = fill_unreached(raw, block.matrices)
        write_tensors(
            self._path(kind, block.index),
            {f"{name}/{owner}": t for owner, sums in raw.items() for name, t in sums.items()},
        )
        known = self._journal.done.get("dense_unreached", [])
        self._journal.done["dense_unreached"] = list(dict.fromkeys([*known, *unreached]))

    def _path(self, kind: str, position: int) -> Path:
        return self._journal.folder / f"{kind}-{position}.safetensors"

    def _tell(self, done: int) -> None:
        self._report("statistics", done, len(self._blocks) * (2 if self._backward else 1))

    def _clear(self) -> None:
        """Deletes what only this pass needed, an earlier run's leftovers too."""
        for kind in (INPUTS, GRADIENTS):
            for path in self._journal.folder.glob(f"{kind}-*"):
                path.unlink()
