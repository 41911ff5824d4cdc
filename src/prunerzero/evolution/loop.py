"""The steady-state loop: ask for a candidate, measure it, tell the result, write it down.

The loop is deterministic in the strategy's seed and in the measurements. A study therefore needs no
snapshot of the search: to go on, the same questions are asked again and those that the study
answers already are not measured.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from prunerzero.errors import InputError, is_interrupt
from prunerzero.evolution.arena import Arena
from prunerzero.evolution.executors.tasks import CANDIDATES_FAULTS, reason_of
from prunerzero.evolution.guidance import Guidance, MeasureGuidance, guidance_on
from prunerzero.evolution.judging import Judge
from prunerzero.evolution.masking import Masker, Maskers, Sketch
from prunerzero.evolution.patience import Patience
from prunerzero.evolution.population import Individual
from prunerzero.evolution.strategies import Outcome, Proposal, Strategy
from prunerzero.pruning.allocation import UniformAllocation
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.study import Candidate, Study
from prunerzero.study.records import Status
from prunerzero.timelimit import time_limit

GUIDANCE_EVENT = "guidance"
# Proposals in a row that were all known: the space within reach is exhausted.
MOST_DUPLICATES = 2000

# Recipes that treat fewer weights than this share differently count as one, if the known one is
# this near the incumbent (log ratio): those that are far behind lose at a glance anyway.
ALIKE = 0.005
REACH = 0.05


class Exhausted(Exception):
    """The strategy proposes nothing new any more."""


class OutOfTime(Exception):
    """The session's time is over in the middle of a question to the strategy."""


@dataclass
class Deadline:
    """When the session's search time is over, on the clock of `time.perf_counter`."""

    at: float = math.inf

    def check(self) -> None:
        """Returns while there is time.

        Raises:
            OutOfTime: it is over.
        """
        if time.perf_counter() >= self.at:
            raise OutOfTime


class RecordedGuide:
    """Derivatives at a recipe, from the study where an earlier session measured them.

    Of several targets they are the mean (`prunerzero.evolution.guidance.mean_guidance`).

    Args:
        study: the study.
        arenas: one for each target; they give windows that no rung uses.
        measure: measures the derivatives (`prunerzero.evolution.guidance.measure_guidance`).
        deadline: after which nothing is measured; what a descent has recorded by then is not lost.
    """

    def __init__(
        self,
        study: Study,
        arenas: Sequence[Arena],
        measure: MeasureGuidance,
        deadline: Deadline,
    ) -> None:
        self._study = study
        self._arenas = list(arenas)
        self._measure = measure
        self._deadline = deadline
        self._recorded = deque(study.events(GUIDANCE_EVENT))
        self._asked = 0

    def __call__(self, recipe: Recipe) -> Guidance:
        """See `prunerzero.evolution.guidance.Guide`."""
        index = self._asked
        self._asked += 1
        if self._recorded:
            return Guidance.from_json(self._recorded.popleft().data)
        self._deadline.check()
        guidance = guidance_on(self._arenas, self._measure, recipe, index)
        self._study.add_event(GUIDANCE_EVENT, {"index": index, **guidance.to_json()})
        return guidance


class Loop:
    """One search in progress; drive it with `advance`, one new row of the study a call.

    Args:
        study: where candidates go, and where those of earlier sessions are.
        strategy: proposes candidates.
        judge: measures them.
        masker: tells recipes apart by their masks.
        alike: a proposal that treats fewer weights than this share differently from a candidate
            near the incumbent is not measured: it would win or lose by noise alone.

    Attributes:
        individuals: evaluated candidates by id.
        incumbent: the one to beat.
        duplicates: proposals that were avoided.
        proposals: all that the strategy has made, the avoided ones too.
        uniform: fitness by formula, of its first candidate under uniform allocation.
        seconds: time that the evaluated candidates took.
    """

    def __init__(
        self,
        study: Study,
        strategy: Strategy,
        judge: Judge,
        masker: Masker | Maskers,
        alike: float = ALIKE,
    ) -> None:
        self.individuals: dict[int, Individual] = {}
        self.incumbent: Individual | None = None
        self.duplicates = 0
        self.proposals = 0
        self.uniform: dict[str, float] = {}
        self.seconds = 0.0
        self._study = study
        self._strategy = strategy
        self._judge = judge
        self._masker = masker
        self._recorded = deque(study.candidates())
        self._aliases = study.duplicates()
        self._by_key: dict[str, Individual] = {}
        self._by_fingerprint: dict[str, Individual] = {}
        self._refused: set[str] = set()
        self._alike = alike
        self._near: dict[int, Individual] = {}
        self._sketches: dict[int, Sketch] = {}
        self._skipped = 0
        self._patience = Patience()

    def replay(self) -> None:
        """Goes through what earlier sessions recorded, measuring nothing.

        Raises:
            InputError: if the study's candidates are not those that this search proposes.
        """
        while self._recorded:
            self.advance()

    def advance(self) -> Candidate:
        """Proposes until something new comes up, measures it, and returns its row.

        Raises:
            Exhausted: if nothing new comes up.
            OutOfTime: if the deadline passes while the strategy thinks.
        """
        for _ in range(MOST_DUPLICATES):
            proposal = self._strategy.ask()
            self.proposals += 1
            key = self._masker.key(proposal.recipe)
            if self._is_known(key):
                continue
            row = self._recall(key) if self._recorded else self._measure(proposal, key)
            if row is not None:
                return row
        raise Exhausted

    def _is_known(self, key: str, proposal: Proposal | None = None) -> bool:
        known = self._by_key.get(key)
        if known is None and key in self._aliases:
            known = self.individuals.get(self._aliases[key])
        if known is None and key not in self._refused:
            return False
        self._skipped += 1
        self.duplicates += 1
        if known is not None:
            self._strategy.tell(known, Outcome.KNOWN, proposal)
        return True

    def _recall(self, key: str) -> Candidate:
        row = self._recorded.popleft()
        if row.key != key:
            raise InputError(
                f"study {self._study.path}: cannot be continued, its candidate {row.id} is not "
                "what this version of the search proposes there; start a new study"
            )
        assert row.id is not None
        if row.status == "evaluated":
            recipe = Recipe.from_json(dict(row.recipe))
            found = self._study.measurements("fitness", row.id)
            verdict = self._judge.recall(recipe, found)
            self._patience.note(row.seconds)
            self._settle(row, recipe, verdict.incumbent)
        else:
            self._refused.add(key)
        self._skipped = 0
        return row

    def _measure(self, proposal: Proposal, key: str) -> Candidate | None:
        """Measures a new candidate and writes it down; None if its masks are known."""
        began = time.perf_counter()
        recipe = proposal.recipe
        fingerprint = reason = verdict = sketch = None
        status: Status = "failed"
        try:
            with time_limit(self._patience.allowance):
                sketch = self._masker.sketch(recipe)
                fingerprint = sketch.fingerprint
                twin = self._by_fingerprint.get(fingerprint) or self._much_like(sketch)
                if twin is not None:
                    self._study.add_duplicate(key, twin.id, self.proposals)
                    self._aliases[key] = twin.id
                    self._is_known(key)
                    return None
                verdict = self._judge.judge(recipe)
            status = "evaluated"
        except CANDIDATES_FAULTS as error:
            if is_interrupt(error):
                raise KeyboardInterrupt from error
            if sketch is None and isinstance(error, UnusableScores):
                status = "rejected"
            reason = reason_of(error)
        row = replace(
            self._pending(proposal, key),
            status=status,
            fitness=verdict.fitness if verdict else None,
            fingerprint=fingerprint,
            reason=reason,
            seconds=time.perf_counter() - began,
        )
        identifier = self._study.add_candidate(row, verdict.measurements if verdict else ())
        row = self._study.candidate(identifier)
        if verdict is None:
            self._refused.add(key)
        else:
            self._patience.note(row.seconds)
            self._settle(row, recipe, verdict.incumbent)
            if identifier in self._near and sketch is not None:
                self._sketches[identifier] = sketch
        return row

    def _pending(self, proposal: Proposal, key: str) -> Candidate:
        """The row of a proposal of which nothing is known yet."""
        recipe = proposal.recipe
        skipped, self._skipped = self._skipped, 0
        return Candidate(
            step=self.proposals,
            key=key,
            status="pending",
            recipe=recipe.to_json(),
            expression=recipe.expression,
            size=sum(metric.size for metric in recipe.formulas.values()),
            origin=proposal.origin,
            parents=proposal.parents,
            skipped=skipped,
        )

    def _much_like(self, sketch: Sketch) -> Individual | None:
        """A candidate near the incumbent that prunes nearly alike."""
        for individual in self._near.values() if self._alike else ():
            if individual.id not in self._sketches:  # all but those of a search that goes on
                self._sketches[individual.id] = self._masker.sketch(individual.recipe)
            if sketch.is_near(self._sketches[individual.id], self._alike):
                return individual
        return None

    def _settle(
        self, row: Candidate, recipe: Recipe, incumbent: bool, proposal: Proposal | None = None
    ) -> None:
        assert row.id is not None
        assert row.fitness is not None
        individual = Individual(row.id, recipe, row.fitness, row.size)
        self.individuals[row.id] = individual
        self.seconds += row.seconds
        self._near[individual.id] = individual
        if incumbent:
            self.incumbent = individual
        assert self.incumbent is not None
        best = self.incumbent.fitness
        for other in list(self._near.values()) if incumbent else [individual]:
            if self._judge.log_ratio(other.fitness, best) > REACH:
                del self._near[other.id]
                self._sketches.pop(other.id, None)
        if recipe.allocation == UniformAllocation():
            self.uniform.setdefault(recipe.expression, row.fitness)
        self._by_key[row.key] = individual
        if row.fingerprint:
            self._by_fingerprint[row.fingerprint] = individual
        outcome = Outcome.INCUMBENT if incumbent else Outcome.MEASURED
        self._strategy.tell(individual, outcome, proposal)
