"""Running a model one block at a time: capture each block's arguments once, then replay.

A block's hidden states change as the blocks before it are pruned; everything else it is given
(masks, rotary tensors, position ids) does not. So one full pass records, for *every* block, its
own arguments (layer types differ in masks, Gemma's say), and replay substitutes only the hidden
states. For windows of one shape these arguments usually do not depend on the tokens; that is
checked on two batches, and then two full passes serve however many batches there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from prunerzero.errors import InputError
from prunerzero.models.blocks import Block
from prunerzero.models.compute import Compute
from prunerzero.models.passes import PROBED_TOKENS, refuse_nan, run_base
from prunerzero.models.running import BlockCall, run_block, show_inputs

HIDDEN = "hidden_states"
# Norm of the difference over the norm of the block's input; the same products in the same order
# differ by nothing, another computation by percents.
TOLERANCE = 1e-3


class FirstBlockReached(Exception):
    """Ends a forward pass once the first block's input is known."""


class Replay:
    """Hidden states of a batch of windows, moved through the model block by block.

    Attributes:
        compute: device and precision of the passes.
        hidden: one tensor ``[batch, length, hidden_size]`` a batch: the next block's input.
    """

    def __init__(
        self, model: nn.Module, blocks: list[Block], tokens: Tensor, batch: int, compute: Compute
    ) -> None:
        """Captures the arguments of every block.

        Args:
            model: the causal LM the blocks belong to.
            blocks: all its blocks, in order.
            tokens: token ids ``[windows, length]``.
            batch: windows a forward pass.
            compute: device and precision of the passes.

        Raises:
            InputError: if the model is no chain of its blocks.
        """
        check_chain(model, blocks, tokens[:1, :PROBED_TOKENS], compute)
        self.compute = compute
        self.hidden: list[Tensor] = []
        self._calls: list[list[BlockCall]] = []
        batches = list(tokens.split(batch))
        endings: list[Ending] = []
        shared = False
        for position, ids in enumerate(batches):
            if position == 1 and ids.shape == batches[0].shape:
                # What is the same for other tokens and other hidden states depends on neither.
                with _passing(blocks, endings):
                    _, calls = capture_blocks(model, blocks, ids, compute)
                shared = same_arguments(self._calls[0], calls)
            if shared and ids.shape == batches[0].shape:
                self.hidden.append(_first_hidden(model, blocks[0], ids, compute))
                self._calls.append(self._calls[0])
            else:
                with _noting(blocks, endings if position == 0 else []):
                    hidden, calls = capture_blocks(model, blocks, ids, compute)
                self.hidden.append(hidden)
                self._calls.append(calls)
        self._first = list(self.hidden)

    def rewind(self) -> None:
        """Goes back before the first block."""
        self.hidden = list(self._first)

    @torch.no_grad()
    def run(self, block: Block) -> list[Tensor]:
        """Runs one block on the current hidden states and returns its outputs, a batch each."""
        outputs = []
        for hidden, calls in zip(self.hidden, self._calls, strict=True):
            outputs.append(run_block(block, hidden, calls[block.index], self.compute))
        return outputs

    def show(self, block: Block) -> None:
        """Runs one block on them for what hooks see of its matrices' inputs."""
        show_inputs(block, self.hidden, self._calls, self.compute)

    def advance(self, outputs: Iterable[Tensor]) -> None:
        """Makes ``outputs`` of a block the input of the next one."""
        self.hidden = list(outputs)


# The container in which a block returns its hidden states, and what follows them in it.
Ending = Callable[[Tensor], Any]


@contextmanager
def _noting(blocks: list[Block], endings: list[Ending]) -> Iterator[None]:
    """Notes how each block returns its hidden states, while they run in their order."""

    def note(_module: nn.Module, _arguments: object, output: Any) -> None:
        if isinstance(output, (tuple, list)):
            kind, rest = type(output), output[1:]
            endings.append(lambda hidden: kind((hidden, *rest)))
        else:
            endings.append(lambda hidden: hidden)

    handles = [block.module.register_forward_hook(note) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _passing(blocks: list[Block], endings: list[Ending]) -> Iterator[None]:
    """Lets blocks return the hidden states that they are given, which takes no time."""

    def forward(ending: Ending, *args: Any, **kwargs: Any) -> Any:
        return ending(split_call(args, kwargs)[0])

    # A model spread over several devices has forward methods of its instances' own.
    before = [vars(block.module).get("forward") for block in blocks]
    for block, ending in zip(blocks, endings, strict=True):
        block.module.forward = partial(forward, ending)
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            del block.module.forward
            if own is not None:
                block.module.forward = own


@torch.no_grad()
def check_chain(model: nn.Module, blocks: list[Block], tokens: Tensor, compute: Compute) -> None:
    """Checks that each block's input is the output of the block before it.

    Not so where something happens between blocks, or where blocks pass on more than one tensor.

    Args:
        model: the causal LM.
        blocks: all its blocks, in order.
        tokens: a few token ids ``[1, length]``.
        compute: device and precision of the passes.

    Raises:
        InputError: naming the first block whose input is something else, or the model cannot run.
    """
    inputs: list[Tensor] = []
    _, calls = capture_blocks(model, blocks, tokens, compute, inputs)
    for block, call, hidden, after in zip(blocks, calls, inputs, inputs[1:], strict=False):
        output = run_block(block, hidden, call, compute)
        refuse_nan(model, block.name, output)
        same = isinstance(output, Tensor) and output.shape == after.shape
        if not same or (output - after).norm() > TOLERANCE * after.norm():
            raise InputError(
                f"model {type(model).__name__}: {blocks[block.index + 1].name} is given something "
                f"else than what {block.name} returns, so blocks cannot be pruned one after the "
                "other; prune one-shot (--one-shot)"
            )


@torch.no_grad()
def capture_blocks(
    model: nn.Module,
    blocks: list[Block],
    ids: Tensor,
    compute: Compute,
    inputs: list[Tensor] | None = None,
) -> tuple[Tensor, list[BlockCall]]:
    """What every block is given in one pass.

    Args:
        model: the causal LM.
        blocks: all its blocks, in order.
        ids: token ids ``[windows, length]``.
        compute: device and precision.
        inputs: given every block's hidden states, where wanted.

    Returns:
        The first block's hidden states, and every block's call.

    Raises:
        InputError: if a block runs more than once, or not at all.
    """
    first: list[Tensor] = []
    calls: dict[int, BlockCall] = {}

    def record(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, call = split_call(args, kwargs)
        if index in calls:
            raise more_than_once(blocks[index].name)
        if index == 0:
            first.append(hidden)
        if inputs is not None:
            inputs.append(hidden)
        calls[index] = call

    handles = [
        block.module.register_forward_pre_hook(
            lambda _module, args, kwargs, index=block.index: record(index, args, kwargs),
            with_kwargs=True,
        )
        for block in blocks
    ]
    try:
        run_base(model, ids, compute)
    finally:
        for handle in handles:
            handle.remove()
    for block in blocks:
        if block.index not in calls:
            raise InputError(f"block {block.name}: does not run in a forward pass")
    return first[0], [calls[block.index] for block in blocks]


def more_than_once(block: str) -> InputError:
    """The error for a block that has no single input to be calibrated on."""
    return InputError(f"block {block}: runs more than once in a forward pass; not supported")


@torch.no_grad()
def _first_hidden(model: nn.Module, block: Block, ids: Tensor, compute: Compute) -> Tensor:
    found: list[Tensor] = []

    def stop(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(split_call(args, kwargs)[0])
        raise FirstBlockReached

    handle = block.module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with suppress(FirstBlockReached):
            run_base(model, ids, compute)
    finally:
        handle.remove()
    return found[0]


def split_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, BlockCall]:
    """A call's hidden states, and everything else in it.

    Raises:
        InputError: if the block is given no hidden states.
    """
    if args:
        return args[0], BlockCall(args[1:], kwargs)
    if HIDDEN not in kwargs:
        raise InputError(f"blocks are called without '{HIDDEN}', only with {', '.join(kwargs)}")
    rest = {name: value for name, value in kwargs.items() if name != HIDDEN}
    return kwargs[HIDDEN], BlockCall((), rest)


def same_arguments(first: Any, second: Any) -> bool:
    """Whether two captured structures hold equal tensors and equal plain values."""
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and torch.equal(first, second)
    if isinstance(first, BlockCall):
        return isinstance(second, BlockCall) and same_arguments(
            (first.args, first.kwargs), (second.args, second.kwargs)
        )
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(
            same_arguments(value, second[key]) for key, value in first.items()
        )
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same_arguments, first, second))
    # Objects whose content cannot be compared cheaply count as different: capture every batch.
    return first is second or (isinstance(first, (int, float, str, bool)) and first == second)
