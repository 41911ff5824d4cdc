"""Disk space that a streamed run takes, checked before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prunerzero.files import require_space
from prunerzero.models.blocks import Block
from prunerzero.packing.checkpoint import DenseCheckpoint
from prunerzero.statistics.collectors import BACKWARD, GRAM, INSIDE


@dataclass(frozen=True)
class Demand:
    """Bytes on disk.

    Attributes:
        weights: of the output.
        work: the most that is there beside it at any time.
    """

    weights: int
    work: int

    @classmethod
    def of(
        cls,
        checkpoint: DenseCheckpoint,
        blocks: Sequence[Block],
        config: Any,
        dtype: torch.dtype,
        tokens: Tensor | None,
        once: frozenset[str],
        replayed: frozenset[str],
    ) -> Demand:
        """Estimates a run's demand.

        Args:
            checkpoint: the weights.
            blocks: all blocks of the model.
            config: its configuration, for the size of hidden states.
            dtype: type of the hidden states.
            tokens: calibration token ids, or None.
            once: raw sums of the dense model.
            replayed: those that are taken anew at every block.
        """
        matrices = [matrix for block in blocks for matrix in block.matrices]
        width = int(getattr(config.get_text_config(), "hidden_size", 0) or 0)
        states = tokens.numel() * width * dtype.itemsize if tokens is not None else 0
        work = 0
        if once:
            # With gradients, every block's input and those of two gradients; else two inputs.
            work = states * (len(blocks) + 3 if once & BACKWARD else 2)
        work += sum(m.weight.numel() for m in matrices) * 4 * len(once & (BACKWARD | INSIDE))
        if GRAM in once:
            work += sum(m.shape.columns**2 for m in matrices) * 4
        if replayed:
            work = max(work, states * 2)
        return cls(checkpoint.nbytes, work)

    def check(self, folder: Path) -> None:
        """Compares with what is free.

        Args:
            folder: a directory on the disk in question.

        Raises:
            InputError: it is not enough.
        """
        require_space(folder.parent, self.weights, self.work)
