"""Matrices whose input channels can be reordered, and what has to be reordered with them.

In a dense checkpoint that every engine loads, an order of one matrix's inputs must be that of
another's outputs: the hidden channels of an MLP (rows of gate and up, columns of down), or the
channels of a head (rows of the values, columns of the output projection, alike for all query heads
that share them). The residual stream has one order for the whole model, so matrices that read it
are left alone.

Nothing here knows an architecture. Every layout that shapes allow is tried on the block: with a
random order, its output must stay as it was, while the order at one end alone must change it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunerzero.models.blocks import Block
from prunerzero.models.matrices import Matrix

# Change of the output that rounding may cause, as a share of what a wrong order causes.
ROUNDING = 0.05


@dataclass(frozen=True)
class Fold:
    """Channels between matrices, in sets that each have an order of their own.

    Attributes:
        consumer: the matrix whose inputs they are.
        columns: their column numbers ``[sets, copies, width]``; all copies share a set's order.
        producers: the matrices whose outputs they are, with row numbers shaped alike.
        layout: how the rows lie, for messages and to try first in other blocks.
    """

    consumer: Matrix
    columns: Tensor
    producers: tuple[tuple[Matrix, Tensor], ...]
    layout: str

    @property
    def sets(self) -> int:
        """Number of sets."""
        return self.columns.shape[0]

    @property
    def width(self) -> int:
        """Channels of a set."""
        return self.columns.shape[2]

    def reorder(self, orders: Tensor) -> None:
        """Reorders both ends: channel i of a set is then what ``orders[set, i]`` was.

        Args:
            orders: ``[sets, width]``.
        """
        self.reorder_consumer(orders)
        for matrix, rows in self.producers:
            _reorder(matrix.weight, rows, orders)
            bias = _bias(matrix)
            if bias is not None:
                _reorder(bias, rows, orders)

    def reorder_consumer(self, orders: Tensor) -> None:
        """Reorders the consumer's end only."""
        _reorder(self.consumer.weight.T, self.columns, orders)


def find_folds(
    block: Block, heads: tuple[int, int], run: Callable[[], Tensor], known: dict[str, str]
) -> list[Fold]:
    """The folds of a block, each proven on its output.

    Args:
        block: the block; its weights are reordered and put back.
        heads: numbers of query heads and of key-value heads.
        run: runs the block on probe tokens: ``[windows, length, hidden]``.
        known: layout by kind of consumer, empty for none, as blocks before had it; added to.
    """
    consumers: dict[tuple[str, str], list[Matrix]] = defaultdict(list)
    for matrix in block.matrices:
        consumers[_owner(matrix), matrix.kind].append(matrix)
    before = run()
    found: list[Fold] = []
    for (owner, kind), experts in consumers.items():
        key = f"{owner.removeprefix(block.name)}.{kind}"
        candidates: dict[str, list[Fold]] = defaultdict(list)
        for consumer in experts:
            peers = [
                matrix
                for matrix in block.matrices
                if _owner(matrix) == owner and matrix.expert == consumer.expert
            ]
            for fold in _candidates(consumer, peers, heads):
                if known.get(key, fold.layout) == fold.layout:
                    candidates[fold.layout].append(fold)
        proven = next((folds for folds in candidates.values() if _holds(folds, run, before)), [])
        known.setdefault(key, proven[0].layout if proven else "")
        found += proven
    return found


def _candidates(
    consumer: Matrix, peers: Sequence[Matrix], heads: tuple[int, int]
) -> Iterator[Fold]:
    others = [peer for peer in peers if peer is not consumer]
    width = consumer.weight.shape[1]
    every = torch.arange(width).view(1, 1, -1)
    whole = [peer for peer in others if peer.weight.shape[0] == width]
    if whole:
        yield Fold(consumer, every, tuple((peer, every) for peer in whole), "whole")
    for peer in others:
        if peer.weight.shape[0] == 2 * width:  # gate and up in one
            halves = torch.arange(2 * width).view(1, 2, -1)
            yield Fold(consumer, every, ((peer, halves),), f"halves of {peer.kind}")
            pairs = torch.arange(2 * width).view(1, -1, 2).mT
            yield Fold(consumer, every, ((peer, pairs),), f"pairs of {peer.kind}")
        yield from _head_candidates(consumer, peer, heads)


def _head_candidates(consumer: Matrix, peer: Matrix, heads: tuple[int, int]) -> Iterator[Fold]:
    """Values of heads: a part of the rows of ``peer``, the last of each head or the last of all."""
    queries, width = heads[0], consumer.weight.shape[1]
    rows = peer.weight.shape[0]
    if width % queries:
        return
    size = width // queries
    for sets in sorted({heads[1], queries, 1}, reverse=True):
        if queries % sets or rows < sets * size:
            continue
        columns = torch.arange(width).view(sets, queries // sets, size)
        if rows % sets == 0:
            ends = torch.arange(rows).view(sets, 1, -1)[..., -size:]
            yield Fold(consumer, columns, ((peer, ends),), f"{sets} heads, ends in {peer.kind}")
        if rows > sets * size:
            last = torch.arange(rows - sets * size, rows).view(sets, 1, -1)
            yield Fold(consumer, columns, ((peer, last),), f"{sets} heads, last in {peer.kind}")


def _holds(folds: list[Fold], run: Callable[[], Tensor], before: Tensor) -> bool:
    """Whether random orders change nothing, though they would at one end alone."""
    generator = torch.Generator().manual_seed(0)
    orders = [
        torch.stack([torch.randperm(fold.width, generator=generator) for _ in range(fold.sets)])
        for fold in folds
    ]
    for fold, order in zip(folds, orders, strict=True):
        fold.reorder_consumer(order)
    alone = _distance(run(), before)
    for fold, order in zip(folds, orders, strict=True):
        fold.reorder_consumer(order.argsort(1))
        fold.reorder(order)
    both = _distance(run(), before)
    for fold, order in zip(folds, orders, strict=True):
        fold.reorder(order.argsort(1))
    return alone > 0 and both <= ROUNDING * alone


def _distance(output: Tensor, before: Tensor) -> float:
    """Median over tokens: a few of them have huge hidden states."""
    return float((output.float() - before.float()).norm(dim=-1).median())


@torch.no_grad()
def _reorder(stored: Tensor, places: Tensor, orders: Tensor) -> None:
    """Reorders along the first dimension, in place."""
    orders = orders.to(places.device)[:, None].expand_as(places)
    new = places.gather(2, orders).reshape(-1).to(stored.device)
    stored[places.reshape(-1).to(stored.device)] = stored[new]


def _bias(matrix: Matrix) -> Tensor | None:
    if matrix.expert is None:
        bias: Any = getattr(matrix.module, "bias", None)
    else:
        bias = getattr(matrix.module, f"{matrix.attribute}_bias", None)
        bias = None if bias is None else bias[matrix.expert]
    return None if bias is None else bias.detach()


def _owner(matrix: Matrix) -> str:
    """The module that matrices have in common which follow one another."""
    levels = 1 if matrix.expert is None else 2
    return matrix.name.rsplit(".", levels)[0]
