"""The paper's search and what it is compared with: one arm and one seed a cell.

An arm is a loop over the paper's space with the paper's fitness, in a study of its own, so that a
run that is killed goes on with the next candidate.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prunerzero.evaluation.perplexity import measure_loss
from prunerzero.evolution.controls import PaperRandomStrategy
from prunerzero.evolution.judging import PerplexityJudge
from prunerzero.evolution.loop import Deadline, Exhausted, Loop
from prunerzero.evolution.masking import Masker
from prunerzero.evolution.population import Individual
from prunerzero.evolution.strategies import Outcome, PaperStrategy, Proposal, Strategy
from prunerzero.files import json_text
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.reproduction.cells import Cell, Cells
from prunerzero.reproduction.ground import Ground
from prunerzero.reproduction.names import PUBLISHED, WANDA
from prunerzero.reproduction.options import Options
from prunerzero.study import Study

KIND = "search"
EVOLUTION, RANDOM, UNSIMPLIFIED = "evolution", "random", "evolution without simplification"
TERMINALS = frozenset("WGX")
REFERENCES = (WANDA, PUBLISHED)  # whose fitness is measured, too


def cell(options: Options, arm: str, seed: int) -> Cell:
    """One arm of the search."""
    return Cell(
        KIND,
        {
            "arm": arm,
            "pattern": options.pattern,
            "seed": seed,
            "proposals": options.proposals,
            "population": options.population,
            "samples": options.samples,
            "sequence_length": options.sequence_length,
            "fitness_windows": options.fitness_windows,
            "calibration": options.calibration,
            "text": options.text or options.calibration,
            "windows": options.windows,
            "windows_seed": options.seed,
            "sequential": options.sequential,
        },
    )


class Watched(Strategy):
    """A strategy of the paper's, and how many of its population are distinct as it goes on.

    Attributes:
        shares: distinct candidates in the population over its size, before each proposal.
    """

    def __init__(self, strategy: PaperStrategy) -> None:
        self._strategy = strategy
        self.shares: list[float] = []

    def ask(self) -> Proposal:
        """See `Strategy.ask`."""
        self.shares.append(self.share())
        return self._strategy.ask()

    def tell(
        self, individual: Individual, outcome: Outcome, proposal: Proposal | None = None
    ) -> None:
        """See `Strategy.tell`."""
        self._strategy.tell(individual, outcome, proposal)

    def share(self) -> float:
        """Distinct candidates in the population over its size; 1 for an empty one."""
        members = self._strategy.members
        return len({member.id for member in members}) / len(members) if members else 1.0


def measure(
    what: Mapping[str, Any], ground: Ground, cells: Cells, studies: Path, deadline: Deadline
) -> dict[str, Any]:
    """Runs an arm to its end.

    The random arm takes as many distinct candidates as evolution of the same seed came to, whose
    cell must be finished.

    Args:
        what: of the cell.
        ground: the model.
        cells: the finished cells.
        studies: directory of the arms' studies.
        deadline: checked before each candidate.

    Raises:
        OutOfTime: the deadline passed; the study holds what was measured by then.
    """
    arm, seed = what["arm"], what["seed"]
    windows = ground.selection(seed)
    masker = ground.masker(seed, TERMINALS)
    judge = PerplexityJudge(masker, windows, ground.model.compute)
    kind = PaperRandomStrategy if arm == RANDOM else PaperStrategy
    strategy = Watched(kind(seed, what["population"], simplified=arm != UNSIMPLIFIED))
    most = math.inf
    if arm == RANDOM:
        evolution = Cell(KIND, {**what, "arm": EVOLUTION})
        most = len(cells[evolution]["fitness"])
    settings = _determining(what, ground)
    digest = hashlib.sha256(json_text(settings).encode()).hexdigest()[:8]
    name = f"{arm.replace(' ', '-')}-seed{seed}-{digest}.db"
    with Study.open_or_create(studies / name, settings) as study:
        loop = Loop(study, strategy, judge, masker, alike=0.0)
        try:
            found = _run(loop, what["proposals"] if arm != RANDOM else math.inf, most, deadline)
        finally:
            masker.restore()
    best = min(found, key=lambda one: one.fitness)
    return {
        "fitness": [one.fitness for one in found],
        "proposals": loop.proposals,
        "shares": [*strategy.shares, strategy.share()][: what["proposals"] + 1],
        "expression": best.recipe.expression,
        "recipe": best.recipe.to_json(),
        "losses": _heldout(ground, best.recipe, what),
        "references": _references(ground, masker, windows),
    }


def _determining(what: Mapping[str, Any], ground: Ground) -> dict[str, Any]:
    """What determines the candidates and their fitness; how many, and how judged, does not."""
    later = ("text", "windows", "windows_seed", "proposals", "sequential")
    model = ground.model
    return {
        **{name: value for name, value in what.items() if name not in later},
        "model": model.name,
        "model_hash": model.hash,
        "selection": asdict(model.selection),
        "compute": str(model.compute),
        "calibration_hash": ground.calibration(what["samples"], what["seed"]).hash,
        "fitness_hash": ground.selection(what["seed"]).hash,
    }


def _run(loop: Loop, proposals: float, most: float, deadline: Deadline) -> Sequence[Individual]:
    """The distinct candidates that could be measured, in their order."""
    found: list[Individual] = []
    while loop.proposals < proposals and len(found) < most:
        deadline.check()
        try:
            row = loop.advance()
        except Exhausted:
            break
        if row.id in loop.individuals:
            found.append(loop.individuals[row.id])
    return found


def _heldout(ground: Ground, recipe: Recipe, what: Mapping[str, Any]) -> tuple[float, ...]:
    """Losses of the held-out windows, pruned as the other experiments do."""
    comparison = ground.comparison(what["samples"], what["seed"])
    pattern = Pattern.parse(what["pattern"])
    return comparison.measure("best", recipe, pattern, ground.heldout).loss.losses


def _references(ground: Ground, masker: Masker, windows: Any) -> dict[str, float]:
    """The published metrics' fitness on the same windows."""
    found = {}
    for name in REFERENCES:
        try:
            masker.apply(Recipe.named(name))
            loss = measure_loss(ground.model.network, windows, ground.model.compute)
            found[name] = loss.perplexity
        except UnusableScores:
            continue
        finally:
            masker.restore()
    return found
