"""What the blocks are called with, found without their weights.

The rest of the model runs as it is; every block is replaced by something that keeps its arguments
and passes the hidden states through. That is right as long as these arguments do not depend on
what blocks compute, which is checked with the real output of the first block of each kind.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prunerzero.errors import InputError
from prunerzero.models.blocks import Block
from prunerzero.models.compute import Compute
from prunerzero.models.passes import PROBED_TOKENS, refuse_nan, run_base, run_whole
from prunerzero.models.replay import (
    FirstBlockReached,
    more_than_once,
    same_arguments,
    split_call,
)
from prunerzero.models.running import BlockCall
from prunerzero.streaming.layout import Kind, kind_of
from prunerzero.streaming.store import IN_MEMORY, WeightStore

# Logits worked on at once by the head; a float32 copy and its gradient are 64 MiB each.
HEAD_LOGITS = 1 << 24

Calls = list[BlockCall]
# Called with a block's position, its hidden states and its other arguments; gives its output.
StandIn = Callable[[int, Tensor, BlockCall], Any]


class Frame:
    """A skeleton's embeddings, head and the arguments that it gives to its blocks."""

    def __init__(
        self, model: Any, blocks: Sequence[Block], store: WeightStore, compute: Compute
    ) -> None:
        """Reads nothing yet.

        Args:
            model: the skeleton.
            blocks: all its blocks.
            store: their weights.
            compute: device and precision of the passes.
        """
        self._model = model
        self._blocks = blocks
        self._store = store
        self._compute = compute
        self._outputs: dict[Kind, Any] = {}

    @torch.no_grad()
    def probe(self, ids: Tensor) -> None:
        """Runs the first block of each kind for real, and checks that blocks form a chain.

        Nothing else can be asked of the frame before. A second time it does nothing.

        Args:
            ids: a few token ids ``[1, length]``.

        Raises:
            InputError: if something happens between blocks, or a block's arguments depend on
                another block's output.
        """
        if self._outputs:
            return
        ids = ids[:1, :PROBED_TOKENS]
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []
        calls: Calls = []

        def real(index: int, hidden: Tensor, call: BlockCall) -> Any:
            block = self._blocks[index]
            kind = kind_of(block)
            inputs.append(hidden)
            calls.append(call)
            if kind in self._outputs:
                outputs.append(hidden)
                return self._wrapped(index, hidden)
            with self._store.loaded(block):
                forward = type(block.module).forward
                output = forward(block.module, hidden, *call.args, **call.kwargs)
            outputs.append(_hidden_of(block, output))
            refuse_nan(self._model, block.name, outputs[-1])
            self._outputs[kind] = output
            return output

        with self._store.loaded_outside(head=False):
            self._run(ids, real)
            passed = self._captured(ids)[1]
        for block, before, after in zip(self._blocks[1:], outputs, inputs[1:], strict=False):
            if before is not after and not torch.equal(before, after):
                raise InputError(
                    f"model {type(self._model).__name__}: {block.name} is given something else "
                    "than what the block before it returns, so blocks cannot be streamed; prune "
                    "in memory, one-shot (--no-stream --one-shot)"
                )
        extras = [
            id(tensor)
            for output in self._outputs.values()
            if not isinstance(output, Tensor)
            for tensor in _tensors(output[1:])
        ]
        reused = any(id(tensor) in extras for call in calls for tensor in _tensors(call))
        if reused or not same_arguments(calls, passed):
            raise InputError(
                f"model {type(self._model).__name__}: blocks are given more of what other blocks "
                f"compute than hidden states, so they cannot be streamed; {IN_MEMORY}"
            )

    @torch.no_grad()
    def capture(self, batches: Sequence[Tensor]) -> list[Calls]:
        """The calls of every block for each batch; of hidden states nothing is kept.

        Args:
            batches: token ids ``[batch, length]``; those of one shape share their calls where the
                first two do.
        """
        found: list[Calls] = []
        with self._store.loaded_outside(head=False):
            for position, ids in enumerate(batches):
                shared = position >= 2 and ids.shape == batches[0].shape
                if shared and same_arguments(found[0], found[1]):
                    found.append(found[0])
                else:
                    found.append(self._captured(ids)[1])
        return found

    @torch.no_grad()
    def embedded(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The first block's input for each batch, one after the other."""
        with self._store.loaded_outside(head=False):
            for ids in batches:
                found: list[Tensor] = []

                def stop(_: int, hidden: Tensor, __: BlockCall, keep: list[Tensor] = found) -> None:
                    keep.append(hidden)
                    raise FirstBlockReached

                with suppress(FirstBlockReached):
                    self._run(ids, stop)
                yield found[0]

    @torch.no_grad()
    def entered(self, ids: Tensor) -> tuple[Tensor, Calls]:
        """The first block's input for one batch, and what all blocks are called with.

        Args:
            ids: token ids ``[batch, length]``.
        """
        with self._store.loaded_outside(head=False):
            inputs, calls = self._captured(ids)
        return inputs[0], calls

    def logits(self, batches: Iterable[Tensor], last: Iterable[Tensor]) -> Iterator[Tensor]:
        """What the head makes of the last block's outputs; keeps the graph where gradients are on.

        Args:
            batches: token ids ``[batch, length]``.
            last: the last block's output for each of them.

        Yields:
            ``[batch, length, vocabulary]``.
        """
        with self._store.loaded_outside(head=True):
            for ids, hidden in zip(batches, last, strict=True):
                yield self._headed(ids.to(self._compute.device), hidden)

    def head_gradients(self, ids: Sequence[Tensor], states: Iterable[Tensor]) -> Iterator[Tensor]:
        """Gradients of the mean token loss of each window with respect to the last hidden states.

        Args:
            ids: token ids ``[1, length]`` of each window.
            states: the last block's output for each of them.
        """
        with self._store.loaded_outside(head=True):
            for window, hidden in zip(ids, states, strict=True):
                leaf = hidden.detach().requires_grad_(True)
                for positions in self._portions(window.shape[1]):
                    loss = self._loss(window.to(self._compute.device), leaf, positions)
                    loss.backward()
                assert leaf.grad is not None
                yield leaf.grad

    def _loss(self, window: Tensor, last: Tensor, positions: slice | None) -> Tensor:
        with self._compute.autocast():
            if positions is None:
                logits = self._headed(window, last)
                return F.cross_entropy(logits[0, :-1].float(), window[0, 1:])
            rows = torch.arange(window.shape[1], device=window.device)[positions]
            logits = self._headed(window, last, logits_to_keep=rows)
            total = F.cross_entropy(logits[0].float(), window[0, rows + 1], reduction="sum")
            return total / (window.shape[1] - 1)

    def _headed(self, ids: Tensor, last: Tensor, **kept: Any) -> Tensor:
        def stand_in(index: int, hidden: Tensor, _: BlockCall) -> Any:
            is_last = index == len(self._blocks) - 1
            return self._wrapped(index, last if is_last else hidden)

        with _replaced(self._blocks, stand_in), self._compute.autocast():
            return run_whole(self._model, ids, **kept)

    def _portions(self, length: int) -> list[slice | None]:
        """Positions whose logits are worked on at once; None for all of them."""
        size = max(1, HEAD_LOGITS // self._model.get_output_embeddings().weight.shape[0])
        if size >= length - 1 or not _keeps_logits(self._model):
            return [None]
        return [slice(start, min(start + size, length - 1)) for start in range(0, length - 1, size)]

    def _captured(self, ids: Tensor) -> tuple[list[Tensor], Calls]:
        inputs: list[Tensor] = []
        calls: Calls = []

        def keep(index: int, hidden: Tensor, call: BlockCall) -> Any:
            name = self._blocks[index].name
            if index < len(calls):
                raise more_than_once(name)
            if index > len(calls):
                raise InputError(f"block {name}: does not run in its turn; {IN_MEMORY}")
            inputs.append(hidden)
            calls.append(call)
            return self._wrapped(index, hidden)

        self._run(ids, keep)
        if len(calls) < len(self._blocks):
            raise InputError(f"block {self._blocks[len(calls)].name}: does not run; {IN_MEMORY}")
        return inputs, calls

    def _run(self, ids: Tensor, stand_in: StandIn) -> None:
        with _replaced(self._blocks, stand_in):
            run_base(self._model, ids, self._compute)

    def _wrapped(self, index: int, hidden: Tensor) -> Any:
        """Hidden states in the container that such a block returns them in."""
        like = self._outputs[kind_of(self._blocks[index])]
        return hidden if isinstance(like, Tensor) else type(like)((hidden, *like[1:]))


@contextmanager
def _replaced(blocks: Sequence[Block], stand_in: StandIn) -> Iterator[None]:
    def forward(index: int, *args: Any, **kwargs: Any) -> Any:
        return stand_in(index, *split_call(args, kwargs))

    for block in blocks:
        block.module.forward = partial(forward, block.index)
    try:
        yield
    finally:
        for block in blocks:
            del block.module.forward


def _hidden_of(block: Block, output: Any) -> Tensor:
    found = output[0] if isinstance(output, (tuple, list)) and output else output
    if not isinstance(found, Tensor):
        raise InputError(
            f"block {block.name}: returns {type(output).__name__}, of which no hidden states can "
            f"be taken; {IN_MEMORY}"
        )
    return found


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, BlockCall):
        yield from _tensors((value.args, value.kwargs))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _keeps_logits(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(model.forward).parameters
