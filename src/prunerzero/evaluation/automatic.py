"""The choice of a recipe for one model and pattern, by measuring candidates on validation text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prunerzero.data.documents import Split
from prunerzero.data.windows import Windows
from prunerzero.errors import InputError, UnusableScores
from prunerzero.evaluation.comparison import Comparison, Outcome
from prunerzero.evaluation.estimate import Speed, duration, recipe_seconds, shared_seconds
from prunerzero.evaluation.perplexity import Interval, paired_interval
from prunerzero.progress import silent
from prunerzero.pruning.calibration import describe
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe

FIRST = "wanda"  # always measured: cheap, and what others are read against
VALIDATION_WINDOWS = 8


@dataclass(frozen=True)
class Choice:
    """Which recipe was taken, and why.

    Attributes:
        name: of the recipe.
        recipe: it, with the choice and the documents read in its provenance.
        perplexities: of every recipe measured, on the validation windows.
        against: the change that the choice brings against each other one, 95 % intervals.
        left_out: why others were not measured.
        seconds: what it took.
    """

    name: str
    recipe: Recipe
    perplexities: dict[str, float]
    against: dict[str, Interval]
    left_out: dict[str, str]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The choice as a JSON-serialisable dictionary."""
        return {
            "name": self.name,
            "perplexities": self.perplexities,
            "against": {name: one.to_json() for name, one in self.against.items()},
            "left_out": self.left_out,
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        rest = sorted(self.against, key=self.perplexities.__getitem__)
        said = f"takes {self.name}: perplexity {self.perplexities[self.name]:.3f} on validation"
        if rest:
            change = self.against[rest[0]]
            said += (
                f", {change.change:+.1%} ({change.low:+.1%} to {change.high:+.1%}) against "
                f"{rest[0]}, the next of {len(self.perplexities)}"
            )
        return f"{said}, in {duration(self.seconds)}"


def choose(
    comparison: Comparison,
    candidates: Sequence[tuple[str, Recipe]],
    pattern: Pattern,
    windows: Windows,
    seconds: float,
    *,
    left_out: dict[str, str] | None = None,
    tell: Callable[[str], None] = silent,
) -> Choice:
    """Measures recipes on validation windows within a time, the cheap ones first.

    A recipe is begun only if it is expected to end in time; expectations follow what earlier ones
    took. The first of them, `FIRST` where it is one, is measured in any case.

    Args:
        comparison: the dense model and its calibration windows.
        candidates: recipes that can prune it, by name.
        pattern: what may be zero.
        windows: of the validation split.
        seconds: the budget, of wall-clock time.
        left_out: why others are no candidates.
        tell: told of each measurement.

    Raises:
        InputError: windows of another split, or no candidate can be measured.
    """
    windows.require(Split.VALIDATION)
    began = time.perf_counter()
    comparison.measure_dense(windows)
    evaluated = windows.tokens.numel()
    calibrated = comparison.calibration.numel()
    device = comparison.compute.device
    speed = Speed.measured(evaluated, time.perf_counter() - began, device)
    skipped = dict(left_out or {})

    def expected(recipe: Recipe) -> float:
        alone = recipe_seconds(recipe, comparison.blocks, speed, calibrated, evaluated,
                               sequential=comparison.sequential)  # fmt: skip
        return alone + shared_seconds([recipe], speed, calibrated)

    ordered = sorted(candidates, key=lambda one: (one[0] != FIRST, expected(one[1]), one[0]))
    outcomes: dict[str, Outcome] = {}
    slower = 1.0  # than expected, so far
    for name, recipe in ordered:
        left = seconds - (time.perf_counter() - began)
        guess = slower * expected(recipe)
        if outcomes and guess > left:
            skipped[name] = f"would take {duration(guess)}, {duration(max(left, 0))} are left"
            continue
        start = time.perf_counter()
        try:
            outcomes[name] = comparison.measure(name, recipe, pattern, windows)
        except UnusableScores as error:
            skipped[name] = str(error)
            continue
        slower = max(slower / 2, (time.perf_counter() - start) / expected(recipe))
        tell(f"{name}: {outcomes[name].loss.perplexity:.3f} on validation")
    if not outcomes:
        raise InputError(f"metric 'auto': none can be measured; {'; '.join(skipped.values())}")
    best = min(outcomes, key=lambda name: outcomes[name].loss.mean)
    chosen = dict(candidates)[best]
    choice = Choice(
        best,
        chosen,
        {name: outcome.loss.perplexity for name, outcome in outcomes.items()},
        {
            name: paired_interval(outcomes[best].loss.losses, outcome.loss.losses)
            for name, outcome in outcomes.items()
            if name != best
        },
        skipped,
        time.perf_counter() - began,
    )
    return replace(choice, recipe=after_reading(chosen, windows, chosen_among=choice.to_json()))


def after_reading(recipe: Recipe, windows: Windows, **more: Any) -> Recipe:
    """The recipe with a text that it was chosen by in its provenance, so it is not evaluated on.

    Args:
        recipe: any recipe.
        windows: what was read.
        more: what else its provenance is to say.
    """
    texts: Any = recipe.provenance.get("texts", [])
    read = [*texts, describe(windows)]
    return recipe.model_copy(update={"provenance": {**recipe.provenance, **more, "texts": read}})
