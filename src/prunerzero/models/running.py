"""Running a single block: whole, or as far as there is something to see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prunerzero.models.blocks import Block
from prunerzero.models.compute import Compute


@dataclass
class BlockCall:
    """What one block was given: positional arguments after the hidden states, and keywords."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class LastInputSeen(Exception):
    """Ends a pass when nothing is left in it that anyone would see."""


class Calls(Protocol):
    """What each block is given on one batch, by the block's index."""

    def __getitem__(self, index: int, /) -> BlockCall: ...


def run_block(block: Block, hidden: Tensor, call: BlockCall, compute: Compute) -> Tensor:
    """The block's output ``[batch, length, hidden_size]`` for such hidden states."""
    return run_module(block.module, hidden, call, compute)


def run_module(module: nn.Module, hidden: Tensor, call: BlockCall, compute: Compute) -> Tensor:
    """The same for a block's module."""
    with compute.autocast():
        output = module(hidden, *call.args, **call.kwargs)
    # Blocks return a tensor, a tuple or a list, whatever their annotation says.
    found: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    return found


@torch.no_grad()
def show_inputs(
    block: Block, states: Iterable[Tensor], calls: Iterable[Calls], compute: Compute
) -> None:
    """Runs a block on every batch, for hooks on the inputs of its matrices.

    The last product of a block (`down_proj`, say: a quarter of all) and what follows it show
    nothing new, so the passes end before it.

    Args:
        block: the block.
        states: its input for each batch, ``[batch, length, hidden_size]``.
        calls: whatever else it is given.
        compute: device and precision of the passes.
    """
    with _ending_early(block):
        for hidden, mine in zip(states, calls, strict=True):
            with suppress(LastInputSeen):
                run_block(block, hidden, mine[block.index], compute)


@contextmanager
def _ending_early(block: Block) -> Iterator[None]:
    """Lets passes through a block end at the last input of its matrices.

    Which one is the last is learnt from the first pass, which is whole. Where experts are chosen
    by the tokens, one pass says nothing of the next, and all are whole.
    """
    if any(matrix.siblings for matrix in block.matrices):
        yield
        return
    seen, last = 0, None

    def begin(_module: nn.Module, _arguments: object) -> None:
        nonlocal seen
        seen = 0

    def count(_module: nn.Module, _arguments: object) -> None:
        nonlocal seen
        seen += 1
        if seen == last:
            raise LastInputSeen

    def learn(_module: nn.Module, _arguments: object, _output: object) -> None:
        nonlocal last
        last = seen

    handles = [
        block.module.register_forward_pre_hook(begin),
        block.module.register_forward_hook(learn),
        # Hooks run in the order in which they were attached, so these come after those that watch.
        *(matrix.module.register_forward_pre_hook(count) for matrix in block.matrices),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
