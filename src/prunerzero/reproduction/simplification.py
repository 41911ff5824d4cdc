"""What the removal of opposing operations does for diversity: distinct masks in the population."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from prunerzero.analysis.records import Principle
from prunerzero.evaluation.perplexity import Estimate, Interval, mean_estimate
from prunerzero.evolution.strategies import PaperStrategy
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.report.drawing import Figure, Line
from prunerzero.reproduction import arms
from prunerzero.reproduction.cells import Cell, Cells
from prunerzero.reproduction.claims import SEARCHES, judge
from prunerzero.reproduction.ground import Ground
from prunerzero.reproduction.options import Options
from prunerzero.reproduction.sections import Experiment, Published, Section

KIND = "population"
INITIAL, EVOLVED = "initial population", "after the search"


class DiversityRow(NamedTuple):
    """Populations with and without simplification.

    Attributes:
        when: ``initial population`` or ``after the search``.
        populations: how many of each.
        with_it: share of distinct masks with simplification, the mean.
        without: the mean without.
        difference: with minus without, paired by seed, with a bootstrap interval over seeds.
    """

    when: str
    populations: int
    with_it: float
    without: float
    difference: Estimate


def _initial_cell(options: Options, number: int, simplified: bool) -> Cell:
    return Cell(
        KIND,
        {
            "simplified": simplified,
            "seed": number,
            "population": options.population,
            "pattern": options.pattern,
            "samples": options.samples,
            "sequence_length": options.sequence_length,
            "calibration": options.calibration,
            "statistics_seed": options.seed,
        },
    )


def measure(what: Mapping[str, Any], ground: Ground) -> dict[str, Any]:
    """Draws an initial population of trees that can rank weights, and tells their masks apart."""
    masker = ground.masker(what["statistics_seed"], arms.TERMINALS)
    strategy = PaperStrategy(what["seed"], what["population"], simplified=what["simplified"])
    masks: list[str] = []
    keys = set()
    drawn = 0
    while len(masks) < what["population"]:
        recipe = strategy.fresh().recipe
        drawn += 1
        try:
            masks.append(masker.sketch(recipe).fingerprint)
        except UnusableScores:
            continue
        keys.add(masker.key(recipe))
    return {"distinct": len(set(masks)), "formulas": len(keys), "drawn": drawn}


def _cells(options: Options, seed: int) -> list[Cell]:
    evolved = [arms.cell(options, arm, seed) for arm in (arms.EVOLUTION, arms.UNSIMPLIFIED)]
    if seed != options.seed:
        return evolved
    return [
        *(
            _initial_cell(options, number, simplified)
            for number in range(options.populations)
            for simplified in (True, False)
        ),
        *evolved,
    ]


def _section(cells: Cells, options: Options, _published: Published) -> Section:
    initial = _pairs(
        [
            [cells.result(_initial_cell(options, number, one)) for one in (True, False)]
            for number in range(options.populations)
        ]
    )
    evolved = _pairs(
        [
            [
                cells.result(arms.cell(options, arm, seed))
                for arm in (arms.EVOLUTION, arms.UNSIMPLIFIED)
            ]
            for seed in options.all_seeds
        ]
    )
    size = options.population
    shares = {
        INITIAL: [tuple(one["distinct"] / size for one in pair) for pair in initial],
        EVOLVED: [tuple(one["shares"][-1] for one in pair) for pair in evolved],
    }
    rows = [_row(when, found, options.seed) for when, found in shares.items() if found]
    labels = ("with simplification", "without")
    lines = [
        _course(label, [pair[place]["shares"] for pair in evolved])
        for place, label in enumerate(labels)
        if evolved
    ]
    figure = Figure(
        "simplification", "proposals", "share of distinct masks in the population", tuple(lines)
    )
    claims = [_claim(row, shares[row.when]) for row in rows]
    return Section(
        "simplification",
        "Opposing-operation simplification and diversity",
        {"simplification": rows},
        (figure,),
        tuple(claims),
    )


def _pairs(results: Sequence[Sequence[Mapping[str, Any] | None]]) -> list[list[Mapping[str, Any]]]:
    """The pairs of which both are finished."""
    return [[one for one in pair if one is not None] for pair in results if None not in pair]


def _row(when: str, shares: Sequence[Sequence[float]], seed: int) -> DiversityRow:
    differences = [own - other for own, other in shares]
    return DiversityRow(
        when,
        len(shares),
        float(np.mean([own for own, _ in shares])),
        float(np.mean([other for _, other in shares])),
        mean_estimate(differences, [1.0] * len(differences), seed=seed),
    )


def _claim(row: DiversityRow, shares: Sequence[Sequence[float]]) -> Principle:
    found = row.difference
    differences = [own - other for own, other in shares]
    above, below = (sum(one * sign > 0 for one in differences) for sign in (1, -1))
    interval = Interval(found.mean, found.low, found.high)
    # Populations differ by chance, so an interval over few of them decides nothing.
    return judge(
        f"Simplification makes the population more diverse, {row.when}",
        interval if len(shares) >= SEARCHES[0] else None,
        [found.mean] * len(shares),
        [
            f"distinct masks {row.with_it:.1%} with, {row.without:.1%} without it; difference "
            f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f}) over {row.populations} "
            f"populations, larger in {above}, smaller in {below}"
        ],
        negative_confirms=False,
        seeds_for=SEARCHES,
    )


def _course(label: str, shares: Sequence[Sequence[float]]) -> Line:
    count = min(map(len, shares))
    curves = np.array([one[:count] for one in shares])
    places = tuple(float(number) for number in range(count))
    low, high = curves.min(0), curves.max(0)
    return Line(
        label, places, tuple(curves.mean(0).tolist()), tuple(low.tolist()), tuple(high.tolist())
    )


SIMPLIFICATION = Experiment(_cells, _section)
