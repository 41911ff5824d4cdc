import sqlite3
from dataclasses import replace

import pytest

from prunerzero.errors import InputError
from prunerzero.study import Candidate, Measurement, Study, store

SETTINGS = {"seed": 0}
READING = Measurement(purpose="fitness", windows="w", tokens=8, loss=3.0)


def pending(key="W", **changes):
    values = {"step": 1, "status": "pending", "recipe": {"metric": key}, "expression": key}
    return Candidate(key=key, size=1, origin="random", **{**values, **changes})


def evaluated(key="W", fitness=0.5):
    return pending(key, status="evaluated", fitness=fitness, seconds=2.0)


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when a test says so."""

    class Clock:
        now = 1000.0

        def time(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(store, "time", clock)
    return clock


@pytest.fixture
def study(tmp_path, clock):
    with Study.create(tmp_path / "s.db", SETTINGS) as study:
        yield study


def test_a_leased_candidate_is_settled(study):
    first, second = study.lease(pending(), "a", 60), study.lease(pending("A"), "b", 60)
    assert study.counts()["pending"] == 2
    assert study.expire() == []
    assert study.settle(second, evaluated("A"), [READING])
    failed = pending("W", status="failed", reason="raised")
    assert study.settle(first, failed)
    rows = study.candidates()
    assert [(row.id, row.key, row.status) for row in rows] == [
        (1, "W", "failed"),
        (2, "A", "evaluated"),
    ]
    assert rows[1].seconds == 2.0
    assert [row.candidate_id for row in study.measurements()] == [2]
    assert study.heartbeat("a", 60) == study.heartbeat("b", 60) == []
    assert study.check() == []


def test_a_silent_worker_loses_its_candidates_and_a_beating_one_does_not(study, clock):
    silent, beating = study.lease(pending(), "silent", 60), study.lease(pending("A"), "beat", 60)
    clock.now += 50
    assert study.heartbeat("beat", 60) == [beating]
    clock.now += 20
    (free,) = study.expire()
    assert free.id == silent
    assert study.lease(free, "beat", 60) == silent
    assert study.heartbeat("silent", 60) == []
    assert study.heartbeat("beat", 60) == [silent, beating]
    assert study.counts()["pending"] == 2


def test_of_two_results_the_first_counts(study, clock):
    identifier = study.lease(pending(), "slow", 60)
    clock.now += 61
    (free,) = study.expire()
    study.lease(free, "fast", 60)
    assert study.settle(identifier, evaluated(fitness=0.25), [READING])
    assert not study.settle(identifier, evaluated(fitness=0.75), [READING])
    assert study.best.fitness == 0.25
    assert len(study.measurements()) == 1
    assert study.check() == []


def test_one_candidate_is_leased_once(study):
    identifier = study.lease(pending(), "a", 60)
    with pytest.raises(sqlite3.IntegrityError):
        study.lease(pending(step=2), "b", 60)
    with pytest.raises(sqlite3.IntegrityError):
        study.lease(study.candidate(identifier), "b", 60)
    assert len(study.candidates()) == 1
    with pytest.raises(InputError, match="is 'W'"):
        study.settle(identifier, evaluated("A"), [READING])
    with pytest.raises(sqlite3.IntegrityError):  # a refused settlement leaves the lease
        study.settle(identifier, evaluated(), [replace(READING, purpose="other")])
    assert study.heartbeat("a", 60) == [identifier]
    assert study.candidate(identifier).status == "pending"


def test_the_next_coordinator_does_not_wait_for_the_last_ones_workers(study, tmp_path):
    study.lease(pending(), "a", 1e9)
    study.close()
    with Study.open(tmp_path / "s.db") as reader:
        assert reader.check() == []
    with Study.open_or_create(tmp_path / "s.db", SETTINGS) as following:
        assert [row.key for row in following.expire()] == ["W"]


def test_check_finds_a_lease_of_a_settled_candidate(study, tmp_path):
    study.add_candidate(evaluated(), [READING])
    study.close()
    with sqlite3.connect(tmp_path / "s.db") as raw:
        raw.execute("INSERT INTO lease VALUES (1, 'a', 0)")
    raw.close()
    with Study.open(tmp_path / "s.db") as reader:
        assert reader.check() == ["leased and yet settled: candidate 1"]
