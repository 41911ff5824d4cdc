"""The loop where workers measure: several candidates are out at once, and no one waits for another.

What the strategy is asked and told, and in which order, decides what it proposes. Serially each
proposal is followed by its result; here results come when they come, so the study notes each as an
event, with the number of questions that the strategy had been asked by then. To go on, the
same questions are asked and the same answers given in that order; what was still out is measured
now.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from prunerzero.errors import InputError
from prunerzero.evolution.executors.base import Executor
from prunerzero.evolution.executors.tasks import (
    Answer,
    Derive,
    Fault,
    Look,
    Lost,
    Measure,
    Measured,
    Task,
)
from prunerzero.evolution.guidance import Guidance
from prunerzero.evolution.judging import Verdict
from prunerzero.evolution.loop import GUIDANCE_EVENT, MOST_DUPLICATES, Exhausted, Loop, OutOfTime
from prunerzero.evolution.masking import Sketch
from prunerzero.evolution.patience import TIMES, Patience
from prunerzero.evolution.strategies import Proposal, Question
from prunerzero.recipe import Recipe
from prunerzero.study import Candidate
from prunerzero.study.records import Status

TOLD_EVENT = "told"
LOST_EVENT = "worker-lost"

TICK = 1.0  # seconds between two looks at workers that say nothing
HEARTBEAT, LEASE = 60.0, 600.0  # seconds
# A worker that takes so long, and so many times what a candidate is allowed, does not look at its
# time any more: it will not end.
PATIENCE, BEYOND = 600.0, 2.0
# A candidate whose worker was lost so often has probably killed them.
MOST_LOSSES = 2


@dataclass
class _Flight:
    """A proposal or a question that is out.

    Attributes:
        recipe: what it is about.
        asked: number of questions that the strategy had been asked with this one.
        proposal: None for a question.
        index: number of the question.
        row: what the study will hold; pending.
        sketch: its masks, once a worker has looked.
        leased: a worker has it for measuring.
        losses: workers that were lost with it.
        began: when a worker got the present task.
        watched: seconds that the worker has been seen at it.
        seconds: that workers took for it so far.
    """

    recipe: Recipe
    asked: int
    proposal: Proposal | None = None
    index: int = 0
    row: Candidate | None = None
    sketch: Sketch | None = None
    leased: bool = False
    losses: int = 0
    began: float = 0.0
    watched: float = 0.0
    seconds: float = 0.0


class SteadyLoop(Loop):
    """`Loop` whose candidates and derivatives are measured by an executor's workers.

    The first candidate, which others are compared with, is measured by this process.

    Attributes:
        crew: the workers, once they have been started.
        may_begin: whether the budget allows for another candidate or question.
        settled: candidates of which the study holds a result.
    """

    crew: Executor | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Takes what `Loop` takes."""
        super().__init__(*arguments, **options)
        self.may_begin: Callable[[], bool] = lambda: True
        self.settled = 0
        self._noted = self._aliases  # twins of earlier sessions, told or not
        self._asks = 0
        self._questions = 0
        self._open: dict[str | int, _Flight] = {}  # by key, or number of the question
        self._waiting: deque[_Flight] = deque()  # for a worker
        self._at: dict[str, _Flight] = {}  # by worker
        self._news: deque[Candidate] = deque()  # settled rows that `advance` has not returned yet
        self._last_look = self._last_heartbeat = time.monotonic()

    @property
    def out(self) -> int:
        """Candidates that workers have."""
        return sum(flight.proposal is not None for flight in self._at.values())

    @property
    def begun(self) -> int:
        """Proposals that were made and do not wait for a worker."""
        return self.proposals - sum(one.proposal is not None for one in self._waiting)

    # Going on

    def replay(self) -> None:
        """See `Loop.replay`; proposals that were out wait for workers now."""
        rows = {row.id: row for row in self._recorded}
        self._recorded.clear()
        self._aliases = {}  # known again as they are told
        try:
            for event in self._study.events():
                if event.kind in (TOLD_EVENT, GUIDANCE_EVENT):
                    self._ask_until(event.data["after"])
                    self._retell(event.kind, event.data, rows)
            # All that was asked had been asked before any of these could be told.
            self._ask_until(max((row.step for row in rows.values()), default=0))
            for row in rows.values():
                if row.status == "pending":
                    self._open[row.key].row = row
                else:  # killed before it was told
                    self._note(self._tell_row(self._open.pop(row.key), row))
        except KeyError as missing:
            raise InputError(
                f"study {self._study.path}: cannot be continued, this version of the search does "
                f"not propose {missing} there; start a new study"
            ) from None
        self._waiting.extend(self._open.values())
        self._skipped = 0

    def _retell(
        self, kind: str, data: Mapping[str, Any], rows: dict[int | None, Candidate]
    ) -> None:
        if kind == GUIDANCE_EVENT:
            del self._open[data["index"]]
            self._strategy.answer(Guidance.from_json(data))
        elif "question" in data:
            del self._open[data["question"]]
            self._strategy.answer(None)
        elif "key" in data:
            self._tell_twin(self._open.pop(data["key"]), data["key"], data["candidate"])
        else:
            row = rows.pop(data["candidate"])
            self._tell_row(self._open.pop(row.key), row)

    def _ask_until(self, number: int) -> None:
        while self._asks < number:
            self._ask()

    # Going

    def advance(self) -> Candidate:
        """See `Loop.advance`: waits until something has been measured.

        Raises:
            Exhausted: if nothing new comes up.
            OutOfTime: if nothing is out and nothing may begin.
        """
        if self._judge.incumbent is None:
            return self._first()
        assert self.crew is not None
        while not self._news:
            self._hand_out(self.crew)
            if not self._at and not self.may_begin():
                raise OutOfTime
            for worker, answer in self.crew.collect(TICK):
                self._take(self.crew, worker, answer)
            self._look_after(self.crew)
        return self._news.popleft()

    def _first(self) -> Candidate:
        """What others are compared with, measured here."""
        for _ in range(MOST_DUPLICATES):
            flight = self._ask()
            if flight is None or flight.proposal is None:
                continue
            assert flight.row is not None
            del self._open[flight.row.key]
            row = self._measure(flight.proposal, flight.row.key)
            if row is not None:
                self._note({"candidate": row.id})
                self.settled += 1
                self._patience = Patience()  # workers have another number of threads
                return row
        raise Exhausted

    def _ask(self) -> _Flight | None:
        """Asks the strategy; None if what it proposes is known."""
        self._asks += 1
        wanted = self._strategy.ask_ahead()
        if isinstance(wanted, Question):
            flight = _Flight(wanted.recipe, self._asks, index=self._questions)
            self._open[self._questions] = flight
            self._questions += 1
            return flight
        self.proposals += 1
        key = self._masker.key(wanted.recipe)
        if key in self._open or key in self._refused:
            self._skipped += 1
            self.duplicates += 1
            self._strategy.fail(wanted)
            return None
        if self._is_known(key, wanted):
            return None
        flight = self._open[key] = _Flight(wanted.recipe, self._asks, wanted)
        flight.row = replace(self._pending(wanted, key), step=self._asks)
        return flight

    def _next(self) -> _Flight | None:
        for _ in range(MOST_DUPLICATES):
            if not self.may_begin():
                return None
            flight = self._waiting.popleft() if self._waiting else self._ask()
            if flight is not None:
                return flight
        if self._at:
            return None  # what is out may open new ways
        raise Exhausted

    def _hand_out(self, crew: Executor) -> None:
        for worker in crew.idle():
            flight = self._next()
            if flight is None:
                return
            self._give(crew, worker, flight)

    def _give(self, crew: Executor, worker: str, flight: _Flight) -> None:
        task: Task
        if flight.proposal is None:
            task = Derive(flight.recipe, flight.index)
        elif flight.sketch is None:
            task = Look(flight.recipe, self._patience.allowance)
        else:
            assert flight.row is not None
            stance = self._judge.stance(self.out)
            task = Measure(flight.recipe, stance, self._patience.allowance)
            if not flight.leased:
                row = flight.row
                flight.row = replace(row, id=self._study.lease(row, worker, LEASE))
                flight.leased = True
        flight.began, flight.watched = time.monotonic(), 0.0
        self._at[worker] = flight
        crew.submit(worker, task)

    def _look_after(self, crew: Executor) -> None:
        """Ends workers that are stuck, and prolongs the others' leases."""
        now = time.monotonic()
        # Not the time itself: a machine that slept has not been watched.
        watched = min(now - self._last_look, 2 * TICK)
        self._last_look = now
        allowed = self._patience.allowance.seconds
        if math.isinf(allowed):  # by what is known of others: the first, or an earlier session's
            allowed = TIMES * self.seconds / len(self.individuals)
        patience = max(PATIENCE, BEYOND * allowed)
        for worker, flight in list(self._at.items()):
            flight.watched += watched
            if flight.watched > patience:
                crew.dismiss(worker)
                self._take(crew, worker, Lost(f"it had not ended after {flight.watched:.0f} s"))
        if now - self._last_heartbeat > HEARTBEAT:
            self._last_heartbeat = now
            for worker, flight in self._at.items():
                if flight.leased:
                    self._study.heartbeat(worker, LEASE)

    # What comes back

    def _take(self, crew: Executor, worker: str, answer: Answer | Lost) -> None:
        flight = self._at.pop(worker)
        took = time.monotonic() - flight.began
        flight.seconds += took
        if isinstance(answer, Lost):
            self._lose(worker, flight, answer)
            return
        if isinstance(answer, Fault):
            if not answer.candidates:
                raise RuntimeError(f"worker {worker}: {answer.reason}")
            self._fail(flight, answer.reason, unusable=answer.unusable)
        elif isinstance(answer, Guidance):
            self._answer(flight, answer)
        elif isinstance(answer, Sketch):
            flight.sketch = answer
            if not self._is_twin(flight, answer):
                self._give(crew, worker, flight)
        else:
            self._finish(crew, worker, flight, answer)

    def _lose(self, worker: str, flight: _Flight, lost: Lost) -> None:
        """Has it done again, unless it has cost too many workers."""
        flight.losses += 1
        if flight.leased:
            self._study.heartbeat(worker, 0.0)
            self._study.expire()
            flight.leased = False
        self._study.add_event(LOST_EVENT, {"worker": worker, "reason": lost.reason})
        if flight.losses < MOST_LOSSES:
            self._waiting.appendleft(flight)
        else:
            reason = f"{flight.losses} workers were lost over it; the last one {lost.reason}"
            self._fail(flight, reason)

    def _answer(self, flight: _Flight, guidance: Guidance) -> None:
        del self._open[flight.index]
        data = {"index": flight.index, "after": self._asks, **guidance.to_json()}
        self._study.add_event(GUIDANCE_EVENT, data)
        self._strategy.answer(guidance)

    def _is_twin(self, flight: _Flight, sketch: Sketch) -> bool:
        """Whether it prunes as another does; if so, that is told."""
        assert flight.row is not None
        if flight.row.id is not None:  # an earlier session found it new, and no row may be lost
            return False
        key = flight.row.key
        twin = self._by_fingerprint.get(sketch.fingerprint) or self._much_like(sketch)
        if key in self._noted:  # killed before it was told
            twin = self.individuals[self._noted[key]]
        if twin is not None:
            self._study.add_duplicate(key, twin.id, flight.asked)
        elif all(
            other is flight or not other.sketch or other.sketch.fingerprint != sketch.fingerprint
            for other in self._open.values()
        ):
            return False
        del self._open[key]
        self._note(self._tell_twin(flight, key, twin.id if twin else None))
        return True

    def _fail(self, flight: _Flight, reason: str, *, unusable: bool = False) -> None:
        if flight.proposal is None:
            del self._open[flight.index]
            self._strategy.answer(None)
            self._note({"question": flight.index, "reason": reason})
            return
        assert flight.row is not None
        status: Status = "rejected" if unusable and not flight.sketch else "failed"
        self._write(flight, replace(flight.row, status=status, reason=reason), None)

    def _finish(self, crew: Executor, worker: str, flight: _Flight, found: Measured) -> None:
        if found.learnt is not None:
            self._judge.learn(found.learnt)
        if self._judge.is_outdated(found.measurements):
            self._give(crew, worker, flight)
            return
        assert flight.row is not None
        self._patience.note(flight.seconds)
        verdict = self._judge.recall(flight.recipe, found.measurements)
        row = replace(flight.row, status="evaluated", fitness=verdict.fitness)
        self._write(flight, row, verdict)

    def _write(self, flight: _Flight, row: Candidate, verdict: Verdict | None) -> None:
        fingerprint = flight.sketch.fingerprint if flight.sketch else None
        row = replace(row, fingerprint=fingerprint, seconds=flight.seconds)
        if row.id is None:
            row = self._study.candidate(self._study.add_candidate(row))
        else:
            self._study.settle(row.id, row, verdict.measurements if verdict else ())
            row = self._study.candidate(row.id)
        del self._open[row.key]
        self._note({"candidate": row.id})
        self._tell(flight, row, verdict)
        self._news.append(row)

    # What the strategy is told

    def _note(self, told: Mapping[str, Any]) -> None:
        self._study.add_event(TOLD_EVENT, {**told, "after": self._asks})

    def _tell(self, flight: _Flight, row: Candidate, verdict: Verdict | None) -> None:
        assert flight.proposal is not None
        assert row.id is not None
        self.settled += 1
        if verdict is None:
            self._refused.add(row.key)
            self._strategy.fail(flight.proposal)
            return
        self._settle(row, flight.recipe, verdict.incumbent, flight.proposal)
        if row.id in self._near and flight.sketch is not None:
            self._sketches[row.id] = flight.sketch

    def _tell_row(self, flight: _Flight, row: Candidate) -> dict[str, Any]:
        """Tells what an earlier session measured; returns what is noted of it."""
        verdict = None
        if row.status == "evaluated":
            found = self._study.measurements("fitness", row.id)
            verdict = self._judge.recall(flight.recipe, found)
        self._tell(flight, row, verdict)
        return {"candidate": row.id}

    def _tell_twin(self, flight: _Flight, key: str, twin: int | None) -> dict[str, Any]:
        """Tells of a candidate with the same masks; None for one that is still out."""
        assert flight.proposal is not None
        if twin is None:
            self._refused.add(key)
            self._strategy.fail(flight.proposal)
        else:
            self._aliases[key] = twin
        self._is_known(key, flight.proposal)
        return {"key": key, "candidate": twin}
