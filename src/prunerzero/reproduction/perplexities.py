"""Perplexity after pruning: what three experiments measure, for one recipe and one seed a cell."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from prunerzero.evaluation.perplexity import Interval, TextLoss, paired_interval, perplexity_of
from prunerzero.evolution.masking import under
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.reproduction.cells import Cell, Cells
from prunerzero.reproduction.ground import Ground
from prunerzero.reproduction.names import WANDA
from prunerzero.reproduction.options import Options

KIND = "perplexity"
DENSE = "dense"


class PerplexityRow(NamedTuple):
    """A method under one pattern and number of calibration windows, over all seeds.

    Attributes:
        method: as given; ``dense`` for the model as it is.
        pattern: what may be zero.
        samples: calibration windows.
        seeds: how many have been measured.
        perplexity: from the mean loss over seeds.
        lowest: of the seeds.
        highest: of the seeds.
        change: relative to Wanda with the same seeds, mean over seeds, with a paired bootstrap
            interval over held-out windows; None for Wanda itself and what cannot be compared.
        seed_changes: the change of each seed.
        sparsity: share of zeros.
        seconds: of pruning, the mean over seeds.
        published: of this model, text, context and pattern; None where there is none.
    """

    method: str
    pattern: str
    samples: int
    seeds: int
    perplexity: float
    lowest: float
    highest: float
    change: Interval | None
    seed_changes: tuple[float, ...]
    sparsity: float
    seconds: float
    published: float | None = None


def dense_cell(options: Options) -> Cell:
    """The perplexity of the dense model."""
    return Cell(KIND, {"method": DENSE, **_windows(options)})


def cell(options: Options, method: str, pattern: str, samples: int, seed: int) -> Cell:
    """The perplexity of the model pruned by one method."""
    recipe = under(Recipe.from_text(method), Pattern.parse(pattern))
    return Cell(
        KIND,
        {
            "method": method,
            "recipe": recipe.key(Pattern.parse(pattern)),
            "pattern": pattern,
            "samples": samples,
            "seed": seed,
            "sequential": options.sequential,
            "calibration": options.calibration,
            **_windows(options),
        },
    )


def _windows(options: Options) -> dict[str, Any]:
    return {
        "text": options.text or options.calibration,
        "windows": options.windows,
        "windows_seed": options.seed,
        "sequence_length": options.sequence_length,
    }


def measure(what: Mapping[str, Any], ground: Ground) -> dict[str, Any]:
    """Takes the measurement of a cell."""
    if what["method"] == DENSE:
        loss = ground.loss(ground.heldout)
        return {"losses": loss.losses, "tokens": loss.tokens, "sparsity": 0.0, "seconds": 0.0}
    pattern = Pattern.parse(what["pattern"])
    recipe = under(Recipe.from_text(what["method"]), pattern)
    comparison = ground.comparison(what["samples"], what["seed"])
    try:
        outcome = comparison.measure(what["method"], recipe, pattern, ground.heldout)
    except UnusableScores as error:
        return {"failed": str(error)}
    if not math.isfinite(outcome.loss.mean):
        return {"failed": "the pruned model's predictions are not finite"}
    return {
        "losses": outcome.loss.losses,
        "tokens": outcome.loss.tokens,
        "sparsity": outcome.sparsity,
        "seconds": outcome.pruning_seconds,
    }


def row(
    cells: Cells,
    options: Options,
    method: str,
    pattern: str,
    samples: int,
    published: Callable[[str, str], float | None] = lambda *_: None,
) -> PerplexityRow | None:
    """What the finished seeds say of one method; None if none is finished.

    Args:
        cells: the finished cells.
        options: of the reproduction.
        method: which.
        pattern: what may be zero.
        samples: calibration windows.
        published: a method's published perplexity under a pattern.
    """

    def found(name: str) -> dict[int, Mapping[str, Any]]:
        results = {
            seed: cells.result(cell(options, name, pattern, samples, seed))
            for seed in options.all_seeds
        }
        return {seed: one for seed, one in results.items() if one and "losses" in one}

    own = found(method)
    if not own:
        return None
    reference = found(WANDA) if WANDA in options.methods and method != WANDA else {}
    paired = sorted(own.keys() & reference.keys())
    change = None
    if paired:
        change = paired_interval(
            _mean_losses([own[seed] for seed in paired]),
            _mean_losses([reference[seed] for seed in paired]),
            seed=options.seed,
        )
    means = {seed: float(np.mean(one["losses"])) for seed, one in own.items()}
    return PerplexityRow(
        method=method,
        pattern=pattern,
        samples=samples,
        seeds=len(own),
        perplexity=perplexity_of(float(np.mean(list(means.values())))),
        lowest=perplexity_of(min(means.values())),
        highest=perplexity_of(max(means.values())),
        change=change,
        seed_changes=tuple(
            math.expm1(means[seed] - float(np.mean(reference[seed]["losses"]))) for seed in paired
        ),
        sparsity=next(iter(own.values()))["sparsity"],
        seconds=float(np.mean([one["seconds"] for one in own.values()])),
        published=published(method, pattern),
    )


def dense_row(cells: Cells, options: Options) -> PerplexityRow | None:
    """The dense model's row."""
    result = cells.result(dense_cell(options))
    if result is None:
        return None
    perplexity = TextLoss(tuple(result["losses"]), result["tokens"]).perplexity
    return PerplexityRow(
        DENSE, "", 0, 1, perplexity, perplexity, perplexity, None, (), 0.0, 0.0
    )  # fmt: skip


def _mean_losses(results: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """The mean over seeds of each held-out window's loss."""
    return tuple(np.mean([one["losses"] for one in results], axis=0).tolist())
