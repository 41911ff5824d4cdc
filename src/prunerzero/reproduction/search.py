"""The paper's evolution against random search, by the best of equally many distinct candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from prunerzero.analysis.records import Principle
from prunerzero.evaluation.perplexity import Interval, paired_interval, perplexity_of
from prunerzero.report.drawing import Figure, Line
from prunerzero.reproduction import arms
from prunerzero.reproduction.cells import Cell, Cells
from prunerzero.reproduction.claims import SEARCHES, judge, percent
from prunerzero.reproduction.names import PUBLISHED, WANDA
from prunerzero.reproduction.options import Options
from prunerzero.reproduction.sections import Experiment, Published, Section


class SearchRow(NamedTuple):
    """Evolution and random search of one seed.

    Attributes:
        seed: of windows and trees.
        candidates: distinct ones, as many of each.
        proposals: what evolution proposed for them, duplicates included.
        random_proposals: what random search did.
        evolution_fitness: perplexity of evolution's best on the windows that it was chosen on.
        random_fitness: the same of random search.
        wanda_fitness: Wanda's on these windows.
        published_fitness: the published metric's.
        evolution_heldout: held-out perplexity of evolution's best.
        random_heldout: of random search's.
        change: of the former against the latter, with an interval over held-out windows.
        evolution_best: its formula.
        random_best: likewise.
    """

    seed: int
    candidates: int
    proposals: int
    random_proposals: int
    evolution_fitness: float
    random_fitness: float
    wanda_fitness: float | None
    published_fitness: float | None
    evolution_heldout: float
    random_heldout: float
    change: Interval
    evolution_best: str
    random_best: str


def _cells(options: Options, seed: int) -> list[Cell]:
    return [arms.cell(options, arm, seed) for arm in (arms.EVOLUTION, arms.RANDOM)]


def _section(cells: Cells, options: Options, _published: Published) -> Section:
    pairs = {}
    for seed in options.all_seeds:
        evolution, random = (cells.result(one) for one in _cells(options, seed))
        if evolution is not None and random is not None:
            pairs[seed] = (evolution, random)
    rows = [_row(seed, *pair, options.seed) for seed, pair in pairs.items()]
    lines = [
        _best_so_far(label, [pair[place] for pair in pairs.values()])
        for place, label in enumerate((arms.EVOLUTION, arms.RANDOM))
        if pairs
    ]
    figure = Figure(
        "search",
        "distinct candidates",
        f"best fitness so far (perplexity at {options.pattern})",
        tuple(lines),
        y_scale="log",
    )
    return Section(
        "search",
        f"Evolution against random search at {options.pattern}",
        {"search": rows},
        (figure,),
        tuple(_claims(rows, list(pairs.values()), options.seed)),
    )


def _row(
    seed: int, evolution: Mapping[str, Any], random: Mapping[str, Any], resampling: int
) -> SearchRow:
    references = evolution["references"]
    return SearchRow(
        seed=seed,
        candidates=min(len(evolution["fitness"]), len(random["fitness"])),
        proposals=evolution["proposals"],
        random_proposals=random["proposals"],
        evolution_fitness=min(evolution["fitness"]),
        random_fitness=min(random["fitness"]),
        wanda_fitness=references.get(WANDA),
        published_fitness=references.get(PUBLISHED),
        evolution_heldout=_perplexity(evolution["losses"]),
        random_heldout=_perplexity(random["losses"]),
        change=_change(evolution["losses"], random["losses"], resampling),
        evolution_best=evolution["expression"],
        random_best=random["expression"],
    )


def _perplexity(losses: Sequence[float]) -> float:
    return perplexity_of(math.fsum(losses) / len(losses))


def _change(own: Sequence[float], other: Sequence[float], seed: int) -> Interval:
    return paired_interval(tuple(own), tuple(other), seed=seed)


def _best_so_far(label: str, results: Sequence[Mapping[str, Any]]) -> Line:
    """The geometric mean over seeds of the best so far, with the seeds' range."""
    count = min(len(one["fitness"]) for one in results)
    curves = np.log([list(accumulate(one["fitness"][:count], min)) for one in results])
    return Line(
        label,
        tuple(float(number) for number in range(1, count + 1)),
        tuple(np.exp(curves.mean(0)).tolist()),
        tuple(np.exp(curves.min(0)).tolist()),
        tuple(np.exp(curves.max(0)).tolist()),
    )


def _claims(
    rows: Sequence[SearchRow],
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    seed: int,
) -> list[Principle]:
    statement = "Evolution beats random search at equal distinct candidates, on held-out text"
    if not rows:
        return []
    losses = [np.mean([pair[place]["losses"] for pair in pairs], axis=0) for place in (0, 1)]
    difference = _change(losses[0].tolist(), losses[1].tolist(), seed)
    evidence = [f"{percent(difference)}, mean of {len(rows)} seeds"]
    evidence += [
        f"seed {row.seed}, {row.candidates} candidates each: fitness {row.evolution_fitness:.2f} "
        f"against {row.random_fitness:.2f}; held-out {row.evolution_heldout:.2f} against "
        f"{row.random_heldout:.2f}"
        for row in rows
    ]
    changes = [row.change.change for row in rows]
    return [judge(statement, difference, changes, evidence, seeds_for=SEARCHES)]


SEARCH = Experiment(_cells, _section)
