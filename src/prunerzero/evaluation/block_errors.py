"""How far each block's output is from the dense model's, alone and with all blocks before it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from prunerzero.errors import InputError
from prunerzero.models.blocks import find_blocks
from prunerzero.models.compute import Compute
from prunerzero.models.replay import Replay
from prunerzero.models.selection import Selection
from prunerzero.progress import Report, silent

ANY_COVERAGE = Selection(min_coverage=0.0)
REPLAY_TOKENS = 1024


@dataclass(frozen=True)
class BlockError:
    """Relative output error of one block, the mean over tokens.

    Attributes:
        block: its dotted name.
        local: given the dense model's hidden states: what this block alone does.
        cumulative: given the model's own: with all that the blocks before it did.
    """

    block: str
    local: float
    cumulative: float

    def to_json(self) -> dict[str, str | float]:
        """The error as a JSON-serialisable dictionary."""
        return asdict(self)


@torch.no_grad()
def block_errors(
    model: nn.Module,
    dense: nn.Module,
    tokens: Tensor,
    compute: Compute,
    dense_compute: Compute,
    report: Report = silent,
) -> tuple[BlockError, ...]:
    """Runs both models block by block over token windows.

    Args:
        model: the model of interest.
        dense: the model it was made from, of the same architecture.
        tokens: ids ``[windows, length]``.
        compute: device and precision of ``model``.
        dense_compute: those of ``dense``.
        report: called with a step's name, the blocks done and their number.

    Raises:
        InputError: if the models are no chains of blocks, or not of the same ones.
    """
    batch = max(1, REPLAY_TOKENS // tokens.shape[1])
    blocks, dense_blocks = find_blocks(model, ANY_COVERAGE), find_blocks(dense, ANY_COVERAGE)
    if [block.name for block in blocks] != [block.name for block in dense_blocks]:
        raise InputError(
            f"blocks: the model has {len(blocks)}, the dense one {len(dense_blocks)} or of other "
            "names; give the dense model that it was made from"
        )
    own = Replay(model, blocks, tokens, batch, compute)
    # The dense model's hidden states, where the other's blocks run: its blocks are run on them.
    given = Replay(model, blocks, tokens, batch, compute)
    reference = Replay(dense, dense_blocks, tokens, batch, dense_compute)
    found = []
    for block, dense_block in zip(blocks, dense_blocks, strict=True):
        given.advance([hidden.to(compute.device) for hidden in reference.hidden])
        expected = reference.run(dense_block)
        outputs = own.run(block)
        local = relative_error(given.run(block), expected)
        found.append(BlockError(block.name, local, relative_error(outputs, expected)))
        own.advance(outputs)
        reference.advance(expected)
        report("blocks", block.index + 1, len(blocks))
    return tuple(found)


def relative_error(outputs: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """Mean over tokens of ``||output - expected|| / ||expected||``.

    By token, since a few tokens have hidden states a thousand times as large as the others' (the
    first of a window, in most models) and would be all that one norm over a window measures.

    Args:
        outputs: tensors ``[windows, length, hidden]``.
        expected: as many of the same shapes.
    """
    errors = [
        ((output.to(wanted.device).float() - wanted.float()).norm(dim=-1))
        / wanted.float().norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
        for output, wanted in zip(outputs, expected, strict=True)
    ]
    return float(torch.cat([error.flatten() for error in errors]).double().mean())
