"""A causal LM whose every forward pass reads its blocks from disk, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prunerzero.models.blocks import Block
from prunerzero.models.running import run_block
from prunerzero.streaming.capture import Calls
from prunerzero.streaming.opening import Opened

# Changes a block that has been loaded, before it runs.
Prepare = Callable[[Block], object]


@dataclass(frozen=True)
class Logits:
    """What a causal LM returns, as far as anyone here reads it."""

    logits: Tensor


class StreamedModel(nn.Module):
    """Called like a causal LM: a batch goes through the whole depth in one reading of the weights.

    In memory are the weights of one block, or those outside the blocks, and one batch's hidden
    states; so a batch should hold all the windows that are wanted.

    Attributes:
        prepare: prunes each block as it is loaded; None leaves the model dense.
    """

    def __init__(self, opened: Opened, tokens: Tensor) -> None:
        """Checks that the model can be streamed.

        Args:
            opened: the checkpoint.
            tokens: a few token ids ``[1, length]``.

        Raises:
            InputError: its blocks are not a chain.
        """
        super().__init__()
        opened.frame.probe(tokens)
        self.prepare: Prepare | None = None
        self._opened = opened

    def forward(self, input_ids: Tensor, **_: Any) -> Logits:
        """Logits of a batch ``[batch, length]``; without gradients."""
        frame = self._opened.frame
        # Tensors made in inference mode could not be pruned from other threads.
        with torch.inference_mode(False), torch.no_grad():
            hidden, calls = frame.entered(input_ids)
            for block, hidden in self.through(hidden, calls):  # noqa: B007, B020
                pass
            [logits] = frame.logits([input_ids], [hidden])
            return Logits(logits)

    def through(self, hidden: Tensor, calls: Calls) -> Iterator[tuple[Block, Tensor]]:
        """Every block and its output, while its weights are there.

        Args:
            hidden: the first block's input.
            calls: what the blocks are called with.
        """
        for block in self._opened.blocks:
            with self._opened.store.loaded(block):
                if self.prepare is not None:
                    self.prepare(block)
                hidden = run_block(block, hidden, calls[block.index], self._opened.compute)
                yield block, hidden
