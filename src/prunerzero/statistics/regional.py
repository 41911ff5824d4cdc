"""Regional gradients (Wanda++): of the l2 norm of a block's output, inside that block alone.

Every block is run a second time on the input that a forward pass of the dense model gives it, now
with gradients, which need no other block's activations.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from prunerzero.models.compute import Compute
from prunerzero.models.matrices import Matrix
from prunerzero.models.passes import run_base
from prunerzero.models.replay import split_call
from prunerzero.models.running import BlockCall, run_module
from prunerzero.progress import Advance
from prunerzero.statistics.collectors import GRADIENT, REGIONAL
from prunerzero.statistics.gradients import GradientSums


def gather_regional(
    model: nn.Module,
    matrices: list[Matrix],
    tokens: Tensor,
    compute: Compute,
    advance: Advance,
) -> dict[str, dict[str, Tensor]]:
    """Gathers `REGIONAL` of every matrix, one window at a time.

    Args:
        model: the dense causal LM.
        matrices: its prunable matrices.
        tokens: token ids ``[windows, length]``.
        compute: device and precision.
        advance: called with the number of windows done.

    Returns:
        ``{matrix name: {REGIONAL: [out, in]}}``.
    """
    sums = GradientSums(model, matrices, frozenset({GRADIENT}))
    running: list[nn.Module] = []  # the block whose second run it is

    def again(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any) -> None:
        if not running:
            running.append(module)
            push_back(module, *split_call(args, kwargs), compute)
            running.clear()

    blocks = dict.fromkeys(_block_of(model, matrix) for matrix in matrices)
    handles = [block.register_forward_hook(again, with_kwargs=True) for block in blocks]
    try:
        for done, window in enumerate(tokens.split(1), start=1):
            run_base(model, window, compute)
            advance(done)
    finally:
        for handle in handles:
            handle.remove()
        sums.close()
    return {matrix.name: regional_of(sums, matrix) for matrix in matrices}


@torch.enable_grad()
def push_back(module: nn.Module, hidden: Tensor, call: BlockCall, compute: Compute) -> None:
    """Runs a block on hidden states and sends the gradient of its output's norm back into it.

    Args:
        module: the block, with `GradientSums` attached.
        hidden: its input ``[1, length, hidden_size]``.
        call: what else it is given.
        compute: device and precision.
    """
    output = run_module(module, hidden.detach(), call, compute)
    output.float().norm().backward()


def regional_of(sums: GradientSums, matrix: Matrix) -> dict[str, Tensor]:
    """What `push_back` has summed up for one matrix."""
    return {REGIONAL: sums.of(matrix)[GRADIENT]}


def _block_of(model: nn.Module, matrix: Matrix) -> nn.Module:
    """The decoder block that holds a matrix, by its name: the list of blocks, then a number."""
    parts = matrix.name.split(".")
    for end in _places(parts, str(matrix.block)):
        blocks = model.get_submodule(".".join(parts[:end]))
        if isinstance(blocks, nn.ModuleList) and len(blocks) == matrix.blocks:
            return blocks[matrix.block]
    raise AssertionError(f"{matrix.name}: not in a list of {matrix.blocks} blocks")


def _places(parts: list[str], number: str) -> Iterable[int]:
    return (place for place, part in enumerate(parts) if part == number)
