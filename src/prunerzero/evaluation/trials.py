"""The trials of a comparison: every method with every pattern, calibration text and seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from prunerzero.data.windows import Windows
from prunerzero.errors import UnusableScores
from prunerzero.evaluation.comparison import Comparison
from prunerzero.evaluation.measurements import Measurement, Measurements, key_of
from prunerzero.evaluation.perplexity import TextLoss
from prunerzero.models.blocks import Block
from prunerzero.models.compute import Compute
from prunerzero.models.snapshot import DenseWeights
from prunerzero.progress import Report, silent
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.planning import needs_data
from prunerzero.recipe import Recipe
from prunerzero.statistics.cache import model_hash
from prunerzero.statistics.collectors import BACKWARD, INSIDE, raw_sums

# What says where a recipe comes from, not what it does.
DESCRIPTION = frozenset({"name", "source", "note", "provenance"})


@dataclass(frozen=True)
class Trial:
    """One method under one pattern, calibrated on one draw.

    Attributes:
        method: what the user calls it.
        recipe: what it prunes by.
        pattern: what may be zero.
        calibration: the text's name.
        seed: of the draw of its windows.
        allocation: what the user calls the recipe's allocation.
        evolve: seconds to evolve an allocation in; None takes the recipe's.
        permuted: whether input channels are reordered first (N:M patterns only).
    """

    method: str
    recipe: Recipe
    pattern: Pattern
    calibration: str
    seed: int
    allocation: str = "uniform"
    evolve: float | None = None
    permuted: bool = False

    @property
    def label(self) -> str:
        """What progress reports call it."""
        parts = [self.method]
        parts += [self.recipe.update] if self.recipe.update != "none" else []
        parts += [self.allocation] if self.allocation != "uniform" else []
        parts += ["permuted"] if self.permuted else []
        return f"{', '.join(parts)} {self.pattern}"


@dataclass(frozen=True)
class Laboratory:
    """What all trials are measured with.

    Attributes:
        model: the dense causal LM.
        blocks: its blocks.
        compute: device and precision.
        windows: what is measured on.
        sequential: as in `prunerzero.prune`.
        report: called with a step's name, the parts done and their number.
        asked: what else is asked of every model, for the names of measurements.
        allocate: makes the recipe of a trial whose allocation is evolved; given the comparison that
            the trial is about to be part of, the trial, and its name for progress.
    """

    model: nn.Module
    blocks: list[Block]
    compute: Compute
    windows: Windows
    sequential: bool
    report: Report = silent
    asked: str = ""
    allocate: Callable[[Comparison, Trial, str], Recipe] | None = None

    def key(self, hash_: str, trial: Trial | None, tokens: str) -> str:
        """Names a measurement by everything that determines it; the dense model's without trial."""
        described: dict[str, Any] | None = None
        more: dict[str, Any] = {}
        if trial is not None:
            if trial.evolve is None and not needs_data(trial.recipe, trial.pattern):
                tokens = ""  # whatever the text, it prunes alike
            described = trial.recipe.model_dump(
                mode="json", exclude_defaults=True, exclude=set(DESCRIPTION)
            )
            if trial.permuted:
                more["permuted"] = True
            if trial.evolve is not None:
                more["evolve"] = [trial.evolve, trial.seed]
        return key_of(
            model=hash_,
            matrices=[matrix.name for block in self.blocks for matrix in block.matrices],
            recipe=described,
            pattern="" if trial is None else str(trial.pattern),
            calibration=tokens,
            windows=self.windows.hash,
            compute=str(self.compute),
            sequential=self.sequential,
            asked=self.asked,
            **more,
        )


def run_trials(
    laboratory: Laboratory,
    draws: dict[tuple[str, int], Windows],
    trials: Sequence[Trial],
    measurements: Measurements,
    *,
    ask: Callable[[str], dict[str, Any]] = lambda _: {},
    tell: Callable[[str], None] = silent,
    estimate: Callable[[float, list[Trial]], None] = silent,
) -> tuple[TextLoss, dict[str, Any], list[Measurement]]:
    """Measures what is not measured yet, draw by draw.

    Args:
        laboratory: what all have in common.
        draws: calibration windows by text and seed.
        trials: what to measure.
        measurements: what was measured before; given what is measured now.
        ask: asked about the model as it is, for more to keep with a measurement.
        tell: told of trials that cannot be measured.
        estimate: told the seconds that the dense model took to measure, and the trials that are
            left.

    Returns:
        The dense model's loss, what else was asked of it, and a measurement a trial.

    Raises:
        InputError: as `prunerzero.prune`.
    """
    dense = DenseWeights(matrix for block in laboratory.blocks for matrix in block.matrices)
    hash_ = model_hash(laboratory.model)
    keys = [
        laboratory.key(hash_, trial, draws[trial.calibration, trial.seed].hash) for trial in trials
    ]
    left = [t for t, key in zip(trials, keys, strict=True) if measurements.get(key) is None]
    loss, more, seconds = _dense(laboratory, hash_, measurements, dense, ask)
    estimate(seconds, left)
    finished = 0
    for draw, windows in draws.items():
        mine = [
            (trial, key)
            for trial, key in zip(trials, keys, strict=True)
            if (trial.calibration, trial.seed) == draw and measurements.get(key) is None
        ]
        if not mine:
            continue
        comparison = Comparison(
            laboratory.model,
            laboratory.blocks,
            windows.tokens,
            laboratory.compute,
            sequential=laboratory.sequential,
            report=laboratory.report,
            dense=dense,
        )
        comparison.share(trial.recipe for trial, _ in mine)
        for trial, key in mine:
            if measurements.get(key) is None:  # two methods may be one
                where = f" ({draw[0]}, seed {draw[1]})" if len(draws) > 1 else ""
                measured = _measured(comparison, trial, trial.label + where, laboratory, ask, tell)
                measurements.add(key, measured)
            finished += 1
            if len(left) > 1:
                laboratory.report("comparison", finished, len(left))
    found = [measurements.get(key) for key in keys]
    return loss, more, [one for one in found if one is not None]


def _dense(
    laboratory: Laboratory,
    hash_: str,
    measurements: Measurements,
    dense: DenseWeights,
    ask: Callable[[str], dict[str, Any]],
) -> tuple[TextLoss, dict[str, Any], float]:
    key = laboratory.key(hash_, None, "")
    known = measurements.get(key)
    if known is not None:
        more = ask("dense")
    else:
        comparison = Comparison(
            laboratory.model,
            laboratory.blocks,
            laboratory.windows.tokens,
            laboratory.compute,
            report=laboratory.report,
            dense=dense,
        )
        began = time.perf_counter()
        loss = comparison.measure_dense(laboratory.windows)
        seconds = time.perf_counter() - began
        more = ask("dense")
        known = Measurement(loss.losses, loss.tokens, 0.0, seconds, 0.0, 0)
        measurements.add(key, known)
    return known.loss, more, known.seconds


def _measured(
    comparison: Comparison,
    trial: Trial,
    label: str,
    laboratory: Laboratory,
    ask: Callable[[str], dict[str, Any]],
    tell: Callable[[str], None],
) -> Measurement:
    shared = sum(
        comparison.shared.seconds.get(name, 0.0)
        for name, sums in (("gradients", BACKWARD), ("regional gradients", INSIDE))
        if raw_sums(trial.recipe.terminals) & sums
    )
    try:
        began = time.perf_counter()
        recipe = trial.recipe
        if trial.evolve is not None and laboratory.allocate is not None:
            recipe = laboratory.allocate(comparison, trial, label)
        evolving = time.perf_counter() - began
        with comparison.pruned(label, recipe, trial.pattern, permuted=trial.permuted) as seconds:
            outcome = comparison.outcome(label, laboratory.windows, seconds + evolving)
            more = ask(label)
    except UnusableScores as error:
        tell(f"{label}: {error}")
        return Measurement((), 0, 0.0, 0.0, shared, 0, str(error))
    loss = outcome.loss
    return Measurement(
        loss.losses,
        loss.tokens,
        outcome.sparsity,
        outcome.pruning_seconds,
        shared,
        outcome.peak_bytes,
        more=more,
    )
