"""Hidden states on disk, moved through the model block by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from prunerzero.models.blocks import Block
from prunerzero.models.compute import Compute
from prunerzero.models.running import run_block, show_inputs
from prunerzero.streaming.capture import Calls
from prunerzero.streaming.states import States, write_states


class StreamedReplay:
    """The counterpart of `prunerzero.models.replay.Replay` where hidden states go to disk.

    Every block's input is a file of its own, complete before the block that made it counts as
    done. Files of earlier blocks stay until they are forgotten.

    Attributes:
        position: index of the block whose input is current.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        batches: Sequence[Tensor],
        calls: Sequence[Calls],
        compute: Compute,
    ) -> None:
        """Has no hidden states yet: `begin` or `resume`.

        Args:
            folder: where the files go.
            name: how their names begin.
            batches: token ids ``[batch, length]``.
            calls: of each batch, what every block is given.
            compute: device and precision of the passes.
        """
        self.position = 0
        self._folder = folder
        self._name = name
        self._sizes = [len(ids) for ids in batches]
        self._calls = calls
        self._compute = compute
        self._hidden: States | None = None

    def begin(self, hidden: Iterable[Tensor]) -> None:
        """Starts before the first block, with its input for each batch."""
        self._write(0, hidden)

    def resume(self, position: int) -> None:
        """Starts before another block, with what an earlier run has left."""
        self.position = position
        self._hidden = States(self.path(position), self._compute.device)

    @torch.no_grad()
    def run(self, block: Block) -> Iterator[Tensor]:
        """The outputs of one block for the current hidden states, one after the other."""
        for hidden, calls in zip(self.states, self._calls, strict=True):
            yield run_block(block, hidden, calls[block.index], self._compute)

    def show(self, block: Block) -> None:
        """Runs one block on them for what hooks see of its matrices' inputs."""
        show_inputs(block, self.states, self._calls, self._compute)

    def advance(self, outputs: Iterable[Tensor]) -> None:
        """Makes ``outputs`` of a block the input of the next one."""
        self._write(self.position + 1, outputs)

    def forget(self, position: int) -> None:
        """Deletes the input of a block that is no longer needed."""
        self.path(position).unlink(missing_ok=True)

    @property
    def states(self) -> States:
        """The current hidden states."""
        assert self._hidden is not None, "neither begun nor resumed"
        return self._hidden

    def path(self, position: int) -> Path:
        """The file of a block's input."""
        return self._folder / f"{self._name}-{position}.safetensors"

    def _write(self, position: int, tensors: Iterable[Tensor]) -> None:
        path = self.path(position)
        self._hidden = write_states(path, tensors, self._sizes, self._compute.device)
        self.position = position
