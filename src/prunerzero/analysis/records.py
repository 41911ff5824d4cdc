"""What an analysis finds, as data: the rows behind its tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np

from prunerzero.analysis.inference import Effect, RankAgreement
from prunerzero.evaluation.perplexity import Interval


class MeasuredRecipe(NamedTuple):
    """One recipe of the sample, and all that was read of it.

    Attributes:
        name: ``candidate 7``, or the zoo's name of one that the study has not.
        expression: its formulas.
        fitness: the search's; None if the study has not measured it.
        rungs: its reading on each rung that it reached, on the scale of the fitness.
        perplexity: after pruning.
        reconstruction: as in `ProxyReading`.
        block_divergence: likewise.
        score_correlation: likewise.
        family: number of its mask family.
    """

    name: str
    expression: str
    fitness: float | None
    rungs: tuple[float, ...]
    perplexity: float
    reconstruction: float
    block_divergence: float | None
    score_correlation: float
    family: int


class ProxyAgreement(NamedTuple):
    """How far a cheap reading orders recipes as their perplexity after pruning does.

    Attributes:
        pattern: what was pruned.
        proxy: the cheap reading: ``reconstruction error``, ``rung 0 of the search``, ...
        among: ``all`` recipes of the sample, or the ``better half`` by perplexity, whose order is
            harder to tell and matters more.
        agreement: with the log perplexity; positive where both rise together.
    """

    pattern: str
    proxy: str
    among: str
    agreement: RankAgreement


class FamilyBest(NamedTuple):
    """The best recipe of one mask family.

    Attributes:
        family: its number.
        size: recipes of the sample in it.
        name: the recipe's name.
        expression: its formulas.
        perplexity: after pruning.
        beats_wanda: whether that is below Wanda's.
    """

    family: int
    size: int
    name: str
    expression: str
    perplexity: float
    beats_wanda: bool


class AblatedNode(NamedTuple):
    """What one edit of the best recipe does.

    Attributes:
        edit: what was left out, or replaced by what; constants as ``c``.
        kinds: kinds of matrices whose formula has it; ``("",)`` for a single formula.
        perplexity: of the edited recipe.
        change: relative change of the perplexity by the edit; positive: the node was useful.
    """

    edit: str
    kinds: tuple[str, ...]
    perplexity: float
    change: Interval


class Factorial(NamedTuple):
    """Formula against allocation: Wanda's and the found of each.

    Attributes:
        name: the recipe that formula and allocation are of.
        perplexity: by formula (``wanda``, ``found``) and allocation (``uniform``, ``found``).
        formula: change of perplexity by the found formula, under the uniform allocation.
        allocation: change by the found allocation, with Wanda's formula.
        both: change by both.
        interaction: how far ``both`` differs from the two changes multiplied.
    """

    name: str
    perplexity: dict[str, dict[str, float]]
    formula: Interval
    allocation: Interval
    both: Interval
    interaction: Interval


class SensitivityReading(NamedTuple):
    """The perplexity of a recipe by the calibration that its statistics come from.

    Attributes:
        recipe: its name.
        samples: calibration windows.
        sequence_length: tokens in each.
        perplexity: after pruning.
        change: relative change against the study's own calibration.
    """

    recipe: str
    samples: int
    sequence_length: int
    perplexity: float
    change: Interval


class Transfer(NamedTuple):
    """Whether recipes keep their order under another pattern, text or model.

    Attributes:
        what: ``pattern``, ``text`` or ``model``.
        name: which one.
        agreement: of the log perplexities here and there; None for too few recipes.
        best_here_rank_there: place that the best recipe here takes there, 1 the first.
        recipes: how many were measured in both.
    """

    what: str
    name: str
    agreement: RankAgreement | None
    best_here_rank_there: int
    recipes: int


class Principle(NamedTuple):
    """A statement, and the numbers behind it.

    Attributes:
        statement: one sentence.
        source: ``paper`` for a claim of Pruner-Zero's paper, ``study`` for what the numbers show.
        verdict: ``confirmed``, ``refuted`` or ``not decided``; ``found`` for a study's own.
        confidence: ``high``, ``moderate`` or ``low``.
        evidence: the numbers, a line each.
        effect: the deciding effect; None where nothing could be tested.
        q: its p value after correction.
    """

    statement: str
    source: str
    verdict: str
    confidence: str
    evidence: tuple[str, ...]
    effect: Effect | None = None
    q: float | None = None


def as_json(value: Any) -> Any:
    """Records as JSON values: named tuples and dataclasses as objects, arrays as lists."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return as_json(value._asdict())
    if is_dataclass(value) and not isinstance(value, type):
        return as_json({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, Mapping):
        return {key: as_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(entry) for entry in value]
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
