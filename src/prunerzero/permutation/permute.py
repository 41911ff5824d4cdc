"""Reorders a dense model's channels for an N:M pattern; what it computes stays the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prunerzero.errors import InputError
from prunerzero.models.blocks import Block
from prunerzero.models.compute import Compute
from prunerzero.models.passes import run_whole
from prunerzero.models.replay import capture_blocks
from prunerzero.models.running import run_block
from prunerzero.permutation.assignment import best_order, kept
from prunerzero.permutation.folds import Fold, find_folds
from prunerzero.permutation.pattern import check_permutable
from prunerzero.progress import Report, silent
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.statistics.cache import gather_statistics
from prunerzero.statistics.collectors import raw_sums

PROBE = (2, 24)  # windows and tokens that layouts are proven on
# Norm of the change in the model's logits over their norm; other sums' order, not another model.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}


@dataclass
class Permutation:
    """Orders that a model has been given.

    Attributes:
        gains: by matrix, what the pattern keeps of the scores more than before, relative.
    """

    gains: dict[str, float] = field(default_factory=dict)
    _applied: list[tuple[Fold, Tensor]] = field(default_factory=list)

    def apply(self, fold: Fold, orders: Tensor) -> None:
        """Reorders a fold's channels."""
        fold.reorder(orders)
        self._applied.append((fold, orders))

    def undo(self) -> None:
        """Gives all channels their old places."""
        while self._applied:
            fold, orders = self._applied.pop()
            fold.reorder(orders.argsort(1))

    def to_json(self) -> dict[str, Any]:
        """The matrices and gains as a JSON-serialisable dictionary."""
        return {"matrices": self.gains}


@torch.no_grad()
def permute(
    model: nn.Module,
    blocks: list[Block],
    recipe: Recipe,
    pattern: Pattern,
    tokens: Tensor | None,
    compute: Compute,
    report: Report = silent,
) -> Permutation:
    """Reorders channels so that the pattern keeps more of the recipe's scores, by RIA's method.

    Scores are of the dense model. What the model computes stays the same up to rounding, which is
    checked in every block, and at the end on the logits.

    Args:
        model: a dense causal LM; changed in place.
        blocks: its blocks.
        recipe: whose formula scores.
        pattern: an N:M pattern.
        tokens: calibration token ids ``[windows, length]``; None for a formula that needs none.
        compute: device and precision of the statistics.
        report: told of the statistics and of the blocks done.

    Returns:
        What was done, and can be undone.

    Raises:
        InputError: for an unstructured pattern, or a model none of whose matrices takes inputs
            that can be reordered.
    """
    check_permutable(pattern)
    assert pattern.n is not None
    assert pattern.m is not None
    probe = _probe(model)
    before = _logits(model, probe)
    folds = [fold for fold in _all_folds(model, blocks, probe) if fold.width % pattern.m == 0]
    if not folds:
        raise InputError(
            f"permutation: {type(model).__name__} has no matrix whose inputs can be reordered "
            f"in groups of {pattern.m} without changing what it computes; leave it out"
        )
    consumers = [fold.consumer for fold in folds]
    statistics = None
    if raw_sums(recipe.terminals):
        assert tokens is not None
        statistics = gather_statistics(
            model,
            consumers,
            tokens,
            recipe.terminals,
            compute,
            lambda done: report("permutation: statistics", done, len(tokens)),
        )
    done = Permutation()
    for number, fold in enumerate(folds, 1):
        matrix = fold.consumer
        metric = recipe.metric_for(matrix.kind, matrix.family)
        found = statistics.of(matrix, recipe.terminals) if statistics else {}
        own = {name: found[name] for name in metric.terminals if name in found}
        scores = metric.score(W=matrix.weight, **own)
        old = kept(scores, pattern.n, pattern.m)
        orders = torch.stack(
            [
                best_order(scores[:, columns].reshape(-1, fold.width), pattern.n, pattern.m)
                for columns in fold.columns
            ]
        )
        done.apply(fold, orders)
        scores[:, fold.columns.reshape(-1)] = scores[
            :, fold.columns.gather(2, orders[:, None].expand_as(fold.columns)).reshape(-1)
        ]
        done.gains[matrix.name] = kept(scores, pattern.n, pattern.m) / old - 1 if old else 0.0
        report("permutation", number, len(folds))
    change = float((_logits(model, probe) - before).norm() / before.norm())
    if not change <= TOLERANCE[next(model.parameters()).dtype]:
        done.undo()
        raise InputError(
            f"permutation: it would change the outputs of {type(model).__name__} (by "
            f"{change:.1e}), whose blocks share weights or read one another's; leave it out"
        )
    return done


def _all_folds(model: nn.Module, blocks: list[Block], probe: Tensor) -> list[Fold]:
    plain = _plain(model)
    hidden: list[Tensor] = []
    _, calls = capture_blocks(model, blocks, probe, plain, hidden)
    known: dict[str, str] = {}
    folds: list[Fold] = []
    for block, given, call in zip(blocks, hidden, calls, strict=True):
        folds += find_folds(
            block,
            _heads(model),
            lambda block=block, given=given, call=call: run_block(  # type: ignore[misc]
                block, given, call, plain
            ),
            known,
        )
    return folds


def _plain(model: nn.Module) -> Compute:
    """The weights' own precision: rounding shall not hide a wrong layout."""
    return Compute(next(model.parameters()).device, torch.float32)


def _heads(model: Any) -> tuple[int, int]:
    config = model.config
    queries = int(getattr(config, "num_attention_heads", 1) or 1)
    shared = getattr(config, "num_key_value_heads", None) or getattr(config, "num_kv_heads", None)
    return queries, int(shared or queries)


def _probe(model: Any) -> Tensor:
    vocabulary = model.get_input_embeddings().num_embeddings
    return torch.randint(vocabulary, PROBE, generator=torch.Generator().manual_seed(0))


def _logits(model: Any, probe: Tensor) -> Tensor:
    return run_whole(model, probe.to(next(model.parameters()).device)).float()
