"""One invocation of a search: candidates until its budget is spent, and who is told of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prunerzero.evolution.judging import Judge
from prunerzero.evolution.loop import Deadline, Exhausted, Loop, OutOfTime
from prunerzero.evolution.settings import Budget
from prunerzero.evolution.steady import SteadyLoop
from prunerzero.evolution.updating import start
from prunerzero.recipe import Recipe
from prunerzero.study import Candidate, Study


class StopSearch(Exception):
    """Raised by a callback: the search ends as if its budget were spent, and is closed."""


@dataclass(frozen=True)
class Status:
    """How a search is doing, after each candidate.

    Attributes:
        candidates: rows of the study.
        duplicates: proposals avoided because an equivalent had been measured.
        best: the incumbent.
        start: name of the first candidate.
        gain: its fitness below the first candidate's, as a share of that.
        gain_over_published: the same against the published Pruner-Zero metric.
        seconds: search time of this invocation.
        budget: what it may take.
        recent: candidates measured by this invocation.
        candidate_seconds: what a candidate takes on this model, the mean so far.
    """

    candidates: int
    duplicates: int
    best: Recipe | None
    start: str
    gain: float | None
    gain_over_published: float | None
    seconds: float
    budget: Budget
    recent: int
    candidate_seconds: float


Observer = Callable[[Status], None]
Callback = Callable[[Study, Candidate], object]


class Session:
    """Drives a loop until the budget is spent or a callback stops it.

    Args:
        loop: the search, which has replayed what the study holds.
        study: its study.
        judge: its judge.
        budget: what this invocation may take.
        observe: called with a `Status` after each candidate.
        callbacks: called with the study and its new row.
    """

    def __init__(
        self,
        loop: Loop,
        study: Study,
        judge: Judge,
        budget: Budget,
        observe: Observer,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self._loop = loop
        self._study = study
        self._judge = judge
        self._budget = budget
        self._observe = observe
        self._callbacks = callbacks
        self._stopped = False
        counts = study.counts()
        self._rows = sum(counts.values()) - counts["pending"]
        self._before = self._rows
        self._began: float | None = None

    @property
    def _seconds(self) -> float:
        return 0.0 if self._began is None else time.perf_counter() - self._began

    def note(self, row: Candidate) -> None:
        """Tells of a candidate, which is in the study by now."""
        self._rows += 1
        self._observe(self._status())
        try:
            for callback in self._callbacks:
                callback(self._study, row)
        except StopSearch:
            self._stopped = True

    def run(self, deadline: Deadline) -> None:
        """Advances until the budget is spent; what workers are at by then is waited for."""
        self._began = time.perf_counter()
        self._before = self._rows
        if self._budget.seconds is not None:
            deadline.at = self._began + self._budget.seconds
        begun = {"budget": str(self._budget), "candidates": self._before}
        self._study.add_event("session-start", begun)
        steady = isinstance(self._loop, SteadyLoop)
        if isinstance(self._loop, SteadyLoop):
            self._loop.may_begin = self._may_begin
        while steady or self._may_begin():
            try:
                row = self._loop.advance()
            except Exhausted:
                self._study.add_event("exhausted", {"candidates": self._rows})
                break
            except OutOfTime:
                break
            self.note(row)
        ended = {"seconds": self._seconds, "candidates": self._rows}
        self._study.add_event("session-end", ended)

    def _may_begin(self) -> bool:
        rows, proposals = self._rows, self._loop.proposals
        if isinstance(self._loop, SteadyLoop):
            rows, proposals = self._loop.settled + self._loop.out, self._loop.begun
        return not (self._stopped or self._budget.spent(self._seconds, rows, proposals))

    def _status(self) -> Status:
        loop = self._loop
        best = loop.incumbent
        first = start(best.recipe.update if best else "none")

        def gain(name: str) -> float | None:
            other = loop.uniform.get(Recipe.named(name).expression)
            if other is None or best is None:
                return None
            return 1 - math.exp(self._judge.log_ratio(best.fitness, other))

        return Status(
            candidates=self._rows,
            duplicates=loop.duplicates,
            best=best.recipe if best else None,
            start=first.name,
            gain=gain(first.name),
            gain_over_published=gain("pruner-zero"),
            seconds=self._seconds,
            budget=self._budget,
            recent=self._rows - self._before,
            candidate_seconds=loop.seconds / max(1, len(loop.individuals)),
        )
