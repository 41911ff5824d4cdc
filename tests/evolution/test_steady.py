"""Searches whose candidates are measured by several workers, in whatever order they end."""

import dataclasses
import math
import random
from collections import Counter

import pytest
from crews import RandomCrew
from killing import FatalWrites, Killed

from prunerzero.errors import InputError
from prunerzero.evaluation.divergence import Divergence
from prunerzero.evolution import runner as module
from prunerzero.evolution import steady
from prunerzero.evolution.executors.tasks import Derive, Fault, Look, Lost, Measure
from prunerzero.evolution.judging import Arena, RungPlan
from prunerzero.evolution.loop import GUIDANCE_EVENT
from prunerzero.evolution.patience import LEAST, TIMES
from prunerzero.evolution.runner import search
from prunerzero.evolution.session import StopSearch
from prunerzero.evolution.settings import Budget
from prunerzero.recipe import Recipe
from prunerzero.study import Study
from prunerzero.timelimit import Allowance

pytestmark = pytest.mark.usefixtures("own_cache")
CANDIDATES = 40
GUESS = "W * A ** 0.9"


@dataclasses.dataclass(frozen=True)
class ShortRounds(RungPlan):
    """So that a short search has many rounds."""

    round_length: int = 6


@pytest.fixture
def run(model_directory, text, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RungPlan", ShortRounds)

    def start(name="s.db", crew=None, candidates=CANDIDATES, pattern="50%", **more):
        monkeypatch.setattr(module, "open_executor", lambda *_: crew)
        return search(
            model_directory,
            pattern,
            study=tmp_path / name,
            budget=Budget(None, candidates),
            calibration=text,
            samples=4,
            sequence_length=32,
            executor="process" if crew else "serial",
            **more,
        )

    return start


def content(path):
    with Study.open(path) as study:
        assert study.check() == []
        rows = {row.id: row for row in study.candidates()}
        events = [(e.kind, e.data) for e in study.events() if e.kind in ("told", GUIDANCE_EVENT)]
        found = [dataclasses.replace(m, seconds=0.0, created=None) for m in study.measurements()]
    return rows, events, found


def same_rows(rows):
    return {
        number: dataclasses.replace(row, seconds=0.0, created=None) for number, row in rows.items()
    }


@pytest.mark.parametrize("pattern", ["50%", "2:4"])
def test_a_search(run, tmp_path, pattern):
    result = run(crew=RandomCrew(3), pattern=pattern)
    rows, events, _ = content(tmp_path / "s.db")
    assert len(rows) == result.candidates == CANDIDATES
    assert Counter(row.status for row in rows.values())["pending"] == 0
    evaluated = [row for row in rows.values() if row.status == "evaluated"]
    assert len({row.key for row in evaluated}) == len(evaluated)
    assert len({row.fingerprint for row in evaluated}) == len(evaluated)
    assert rows[1].expression == "W * sqrt(X)"
    assert min(row.fitness for row in evaluated) < 0
    assert any(row.origin == "descent" for row in evaluated)
    # While a descent is under way others are measured.
    kinds = [kind for kind, _ in events]
    first, last = kinds.index(GUIDANCE_EVENT), len(kinds) - 1 - kinds[::-1].index(GUIDANCE_EVENT)
    assert "told" in kinds[first:last]
    told = [data["candidate"] for kind, data in events if kind == "told" and "key" not in data]
    assert sorted(told) == sorted(rows)
    assert told != sorted(told)  # in the order of their ends


def test_one_worker_is_told_what_the_serial_search_is(run, tmp_path):
    run("serial.db")
    run("one.db", RandomCrew(1))
    serial, one = content(tmp_path / "serial.db")[0], content(tmp_path / "one.db")[0]
    assert [(row.key, row.status, row.fitness, row.parents) for row in one.values()] == [
        (row.key, row.status, row.fitness, row.parents) for row in serial.values()
    ]


def test_a_callback_may_stop_it_and_what_is_out_is_waited_for(run, tmp_path):
    seen = []

    def stop_at_seven(study, row):
        seen.append(row.id)
        if len(seen) >= 7:
            raise StopSearch

    run(crew=RandomCrew(4), callbacks=[stop_at_seven])
    rows, _ = content(tmp_path / "s.db")[:2]
    assert sorted(seen) == sorted(rows)
    assert 7 <= len(seen) <= 7 + 3
    assert "pending" not in {row.status for row in rows.values()}


def test_the_same_order_gives_the_same_study(run, tmp_path):
    for name in ("a.db", "b.db"):
        run(name, RandomCrew(4, seed=1))
    first, second = content(tmp_path / "a.db"), content(tmp_path / "b.db")
    assert same_rows(first[0]) == same_rows(second[0])
    assert first[1:] == second[1:]


WRITES = ("add_candidate", "add_duplicate", "add_event", "lease", "settle")


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_coordinator_loses_no_result(run, tmp_path, monkeypatch, seed):
    """Stops before or after one of the writes, many times, and goes on with other workers."""
    moments = random.Random(seed)
    writes = FatalWrites(monkeypatch, WRITES)
    before, stops = {}, 0
    for attempt in range(40):
        writes.left = moments.choice([1, 2, 3, 5, 8, 13, 21]) if stops < 12 else 10**9
        crew = RandomCrew(moments.randint(1, 5), seed=attempt)
        try:
            run("s.db", crew)
            break
        except Killed:
            stops += 1
        finally:
            known = [row.recipe for row in before.values() if row.status == "evaluated"]
            assert not any(task.recipe.to_json() in known for task in crew.measured)
        if not (tmp_path / "s.db").exists():
            continue
        rows = content(tmp_path / "s.db")[0]
        settled = {n: row for n, row in rows.items() if row.status != "pending"}
        assert before.items() <= settled.items()  # nothing that was measured is lost or changed
        before = settled
    rows = content(tmp_path / "s.db")[0]
    assert stops == 12
    assert before.items() <= rows.items()
    assert len(rows) == CANDIDATES
    assert {row.status for row in rows.values()} <= {"evaluated", "rejected", "failed"}
    assert run("s.db", RandomCrew(2)).candidates == CANDIDATES


def test_a_lost_workers_candidate_is_measured_by_another(run, tmp_path):
    moments = random.Random(0)
    seen = {}

    def before(worker, task):
        about = str(task.recipe.to_json())
        if about not in seen and moments.random() < 0.3:
            seen[about] = type(task)
            return Lost("ended by signal 9")
        return None

    crew = RandomCrew(3, before=before)
    run(crew=crew)
    rows, *_ = content(tmp_path / "s.db")
    assert len(crew.lost) == len(seen) > 5
    assert set(seen.values()) == {Look, Measure, Derive}
    assert len(rows) == CANDIDATES
    assert not any("lost" in (row.reason or "") for row in rows.values())
    with Study.open(tmp_path / "s.db") as study:
        assert len(study.events(steady.LOST_EVENT)) == len(seen)


def test_a_candidate_that_kills_its_workers_fails(run, tmp_path):
    def before(worker, task):
        deadly = isinstance(task, Measure) and task.recipe.expression == GUESS
        return Lost("ended by signal 9") if deadly else None

    crew = RandomCrew(2, before=before)
    run(crew=crew, guesses=[Recipe.from_text(GUESS)])
    rows, *_ = content(tmp_path / "s.db")
    [failed] = [row for row in rows.values() if row.expression == GUESS]
    assert failed.status == "failed"
    assert failed.reason == "2 workers were lost over it; the last one ended by signal 9"
    assert len(crew.lost) == 2
    assert len(rows) == CANDIDATES


def test_derivatives_that_cannot_be_measured_end_nothing(run, tmp_path):
    def before(worker, task):
        return Fault("RuntimeError: out of memory") if isinstance(task, Derive) else None

    run(crew=RandomCrew(2, before=before))
    rows, events, _ = content(tmp_path / "s.db")
    assert len(rows) == CANDIDATES
    assert any(data.get("reason") == "RuntimeError: out of memory" for _, data in events)
    run(crew=RandomCrew(2), candidates=CANDIDATES + 2)  # and is replayed


def test_out_of_memory_in_a_worker_fails_its_candidate_alone(run, tmp_path):
    hit = []

    def before(worker, task):
        if isinstance(task, Measure) and len(hit) < 3:
            hit.append(task.recipe.expression)
            return Fault("MemoryError: ")
        return None

    run(crew=RandomCrew(2, before=before))
    rows, *_ = content(tmp_path / "s.db")
    failed = [row for row in rows.values() if row.status == "failed"]
    assert [row.reason for row in failed] == ["MemoryError: "] * 3
    assert len(rows) == CANDIDATES


def test_a_fault_of_ours_is_not_hidden(run):
    def before(worker, task):
        return Fault("KeyError: 'x'", candidates=False)

    with pytest.raises(RuntimeError, match="KeyError: 'x'"):
        run(crew=RandomCrew(2, before=before))


def test_workers_give_up_what_is_slow(run, tmp_path, monkeypatch):
    """By the limit that comes with a task: none before the first of theirs is known."""
    given = []

    def before(worker, task):
        if isinstance(task, Look | Measure):
            given.append(task.allowance)
            if len(given) in (15, 16):  # of every kind, some
                object.__setattr__(task, "allowance", Allowance(-1.0, 0.5))

    run(crew=RandomCrew(2, before=before))
    rows, *_ = content(tmp_path / "s.db")
    slow = [row for row in rows.values() if "took more than" in (row.reason or "")]
    assert [row.status for row in slow] == ["failed", "failed"]
    assert len(rows) == CANDIDATES
    assert math.isinf(given[0].seconds)
    assert given[-1].seconds == LEAST
    assert 0 < given[-1].usual < LEAST / TIMES


def test_a_stuck_worker_is_replaced(run, tmp_path, monkeypatch):
    """Its time is what it has been watched for, so none on a machine that slept."""
    monkeypatch.setattr(steady, "PATIENCE", -1.0)
    monkeypatch.setattr(steady, "BEYOND", -1.0)
    crew = RandomCrew(2)
    run(crew=crew, candidates=4)
    rows, *_ = content(tmp_path / "s.db")
    assert crew.lost
    assert any("it had not ended after" in (row.reason or "") for row in rows.values())


def test_how_long_the_first_tasks_may_take_goes_by_the_first_candidate(run, monkeypatch):
    monkeypatch.setattr(steady, "PATIENCE", -1.0)
    monkeypatch.setattr(steady, "BEYOND", 1e9)
    crew = RandomCrew(2)
    run(crew=crew, candidates=4)
    assert not crew.lost


class HoldingCrew(RandomCrew):
    """Ends no measurement of some formulas before those of all have begun."""

    def __init__(self, held, workers):
        super().__init__(workers)
        self.held = set(held)
        self.together = False

    def submit(self, worker, task):
        super().submit(worker, task)
        out = {one.recipe.expression for one in self._tasks.values() if isinstance(one, Measure)}
        self.together = self.together or self.held <= out

    def collect(self, seconds):
        def waits(task):
            return isinstance(task, Measure) and task.recipe.expression in self.held

        back = {} if self.together else {w: t for w, t in self._tasks.items() if waits(t)}
        self._tasks = {w: t for w, t in self._tasks.items() if w not in back}
        try:
            return super().collect(seconds)
        finally:
            self._tasks |= back


def test_winners_are_never_judged_against_an_old_incumbent(run, tmp_path, monkeypatch):
    """Two beat the first candidate at once: the later one is measured against the other."""
    shares = {"W * A ** 0.9": 0.5, "W * A ** 0.8": 0.25}
    honest = Arena.read

    def scripted(self, recipe, *where):
        reading, share = honest(self, recipe, *where), shares.get(recipe.expression, 1.0)
        return Divergence(tuple(share * kl for kl in reading.kl), reading.losses)

    monkeypatch.setattr(Arena, "read", scripted)
    crew = HoldingCrew(shares, 4)
    run(crew=crew, guesses=[Recipe.from_text(text) for text in shares], candidates=16)
    assert crew.together
    stances = {}
    for task in crew.measured:
        if task.recipe.expression in shares:
            stances.setdefault(task.recipe.expression, []).append(task.stance)
    once, again = sorted(stances, key=lambda text: len(stances[text]))
    [only], [old, new] = stances[once], stances[again]
    assert only.round == old.round < new.round
    assert old.incumbent.expression != new.incumbent.expression == once
    rows, _, found = content(tmp_path / "s.db")
    row = next(row for row in rows.values() if row.expression == again)
    mine = [m for m in found if m.candidate_id == row.id and m.purpose == "fitness"]
    assert {m.data["round"] for m in mine if "round" in m.data} == {new.round}
    # Chained through the other, it says what it would have said against the first.
    assert row.fitness == pytest.approx(math.log(shares[again]), abs=0.3)


def test_a_serial_study_and_workers_do_not_mix(run):
    run(candidates=3)
    with pytest.raises(InputError, match="asynchronous absent there, true here"):
        run(crew=RandomCrew(2), candidates=5)


@pytest.mark.parametrize("preset", ["paper", "random", "evopress"])
def test_other_presets(run, tmp_path, preset):
    candidates = 56 if preset == "paper" else 20
    run(crew=RandomCrew(3), candidates=10, preset=preset)
    result = run(crew=RandomCrew(2, seed=5), candidates=candidates, preset=preset)
    rows, *_ = content(tmp_path / "s.db")
    assert len(rows) == result.candidates == candidates
    assert all(row.status != "pending" for row in rows.values())


def test_several_targets(run, tmp_path):
    run(crew=RandomCrew(3), candidates=8, pattern=["50%", "2:4"], objective="worst")
    result = run(crew=RandomCrew(2), candidates=14, pattern=["50%", "2:4"], objective="worst")
    rows, *_ = content(tmp_path / "s.db")
    assert len(rows) == result.candidates == 14
    assert len(result.closings) == 2
