"""How long a comparison will take and how much memory, before it starts.

The speed of passes is the one that the dense model has just shown; that of products in float32,
which Gram matrices and updates are made of, is tried out on one. The rest is counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from prunerzero.data.windows import Windows
from prunerzero.evaluation.trials import Laboratory, Trial
from prunerzero.models.blocks import Block, Matrix
from prunerzero.models.compute import Compute
from prunerzero.models.passes import run_base
from prunerzero.pruning.memory import peak_rss_bytes
from prunerzero.pruning.pruner import sums_by_pass
from prunerzero.recipe import Recipe
from prunerzero.statistics.collectors import BACKWARD, GRAM, INSIDE, forward, raw_sums

# Passes in units of a forward one, measured on the demo model.
BACKWARD_PASSES, REGIONAL_PASSES = 3.5, 4.0
SCORING = 2.5e-8  # seconds a weight: score, selection, write and reading of statistics
PROBE = 512  # size of the product that is tried out
WORTH_SAYING = 20.0  # seconds from which a command says beforehand what it will take
NUMBER = 4  # bytes of a float32


@dataclass(frozen=True)
class Speed:
    """What the machine has shown.

    Attributes:
        tokens: a second, in a forward pass of the whole model.
        products: multiplications and additions a second in a float32 matrix product.
    """

    tokens: float
    products: float

    @classmethod
    def measured(cls, tokens: int, seconds: float, device: torch.device) -> Speed:
        """From a forward pass over so many tokens, and a product tried now."""
        square = torch.ones(PROBE, PROBE, device=device)
        best = min(_timed(square) for _ in range(4))
        return cls(tokens / max(seconds, 1e-6), 2 * PROBE**3 / best)


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes of resident memory."""

    seconds: float
    bytes: int

    def __str__(self) -> str:
        return f"about {duration(self.seconds)} and {self.bytes / 1e9:.1f} GB of memory"


def duration(seconds: float) -> str:
    """A time in words: ``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def recipe_seconds(
    recipe: Recipe,
    blocks: Iterable[Block],
    speed: Speed,
    tokens: int,
    evaluated: int,
    *,
    sequential: bool,
) -> float:
    """Seconds of one pruning and its evaluation, without the passes that recipes share.

    Args:
        recipe: what to prune by.
        blocks: of the model.
        speed: of the machine.
        tokens: calibration tokens.
        evaluated: tokens that are evaluated.
        sequential: as in `prunerzero.prune`.
    """
    matrices = [matrix for block in blocks for matrix in block.matrices]
    _, replayed = sums_by_pass(recipe, sequential)
    seconds = evaluated / speed.tokens + SCORING * sum(m.weight.numel() for m in matrices)
    if replayed:
        seconds += 2 * tokens / speed.tokens  # before and after each block is pruned
    if GRAM in raw_sums(recipe.terminals):
        work = sum(2 * tokens * width**2 + 2 * width**3 for width in _inputs(matrices))
        if recipe.new_values:
            work += sum(m.shape.rows * m.shape.columns**2 for m in matrices)
        seconds += work / speed.products
    return seconds


def shared_seconds(recipes: Iterable[Recipe], speed: Speed, tokens: int) -> float:
    """Seconds of the passes of the dense model that these recipes share."""
    sums = raw_sums(frozenset[str]().union(*(recipe.terminals for recipe in recipes)))
    passes = BACKWARD_PASSES * bool(sums & BACKWARD) + REGIONAL_PASSES * bool(sums & INSIDE)
    return passes * tokens / speed.tokens


def memory(
    model: nn.Module,
    blocks: list[Block],
    recipes: Iterable[Recipe],
    tokens: int,
    *,
    sequential: bool,
) -> int:
    """Bytes that pruning by the most demanding of these recipes takes, the process as it is now.

    Args:
        model: the dense model, loaded.
        blocks: its blocks.
        recipes: what to prune by.
        tokens: calibration tokens.
        sequential: as in `prunerzero.prune`.
    """
    matrices = [matrix for block in blocks for matrix in block.matrices]
    weights = sum(matrix.weight.numel() for matrix in matrices)
    config = getattr(model, "config", None)
    width = int(getattr(config, "hidden_size", 0) or 0)
    sums = raw_sums(frozenset[str]().union(*(recipe.terminals for recipe in recipes)))
    total = sum(matrix.weight.nbytes for matrix in matrices)  # the dense copy
    total += NUMBER * weights * max(len(sums & BACKWARD), len(sums & INSIDE))
    if forward(sums) and sequential:
        total += 3 * NUMBER * tokens * width
    if GRAM in sums:
        held = blocks[:1] if sequential else blocks
        total += 2 * NUMBER * sum(sum(w**2 for w in _inputs(block.matrices)) for block in held)
    return total + peak_rss_bytes()


def cost_of_pruning(
    model: nn.Module,
    blocks: list[Block],
    recipe: Recipe,
    compute: Compute,
    samples: int,
    length: int,
    *,
    sequential: bool,
) -> Cost:
    """What one pruning will take, after a forward pass over one window that is not counted.

    Args:
        model: the dense model, loaded.
        blocks: its blocks.
        recipe: what to prune by.
        compute: device and precision.
        samples: calibration windows.
        length: tokens in each.
        sequential: as in `prunerzero.prune`.
    """
    window = torch.zeros(1, length, dtype=torch.int64)
    began = time.perf_counter()
    run_base(model, window, compute)
    speed = Speed.measured(length, time.perf_counter() - began, compute.device)
    tokens = samples * length
    seconds = recipe_seconds(recipe, blocks, speed, tokens, 0, sequential=sequential)
    seconds += shared_seconds([recipe], speed, tokens)
    return Cost(seconds, memory(model, blocks, [recipe], tokens, sequential=sequential))


def cost_of_trials(
    laboratory: Laboratory,
    dense_seconds: float,
    trials: Sequence[Trial],
    draws: Mapping[tuple[str, int], Windows],
) -> Cost:
    """What the trials of a comparison will take.

    Args:
        laboratory: what they are measured with.
        dense_seconds: what the dense model took to measure.
        trials: those left.
        draws: calibration windows by text and seed.
    """
    evaluated = laboratory.windows.tokens.numel()
    speed = Speed.measured(evaluated, dense_seconds, laboratory.compute.device)
    seconds = 0.0
    for draw, windows in draws.items():
        mine = [trial for trial in trials if (trial.calibration, trial.seed) == draw]
        tokens = windows.tokens.numel()
        seconds += shared_seconds([trial.recipe for trial in mine], speed, tokens)
        for trial in mine:
            seconds += (trial.evolve or 0.0) + recipe_seconds(
                trial.recipe,
                laboratory.blocks,
                speed,
                tokens,
                evaluated,
                sequential=laboratory.sequential,
            )
    tokens = max(windows.tokens.numel() for windows in draws.values())
    recipes = [trial.recipe for trial in trials]
    room = memory(
        laboratory.model, laboratory.blocks, recipes, tokens, sequential=laboratory.sequential
    )
    return Cost(seconds, room)


def _inputs(matrices: Iterable[Matrix]) -> list[int]:
    """Widths of the different inputs: of one block, matrices of one width mostly share theirs."""
    found = {(m.block, m.family, m.siblings, m.shape.columns): m.shape.columns for m in matrices}
    return list(found.values())


def _timed(square: torch.Tensor) -> float:
    began = time.perf_counter()
    float((square @ square)[0, 0])
    return time.perf_counter() - began
