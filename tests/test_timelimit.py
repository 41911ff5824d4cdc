"""A time limit is looked at between the parts of the work, in whatever thread they are done."""

from __future__ import annotations

import pickle
import time
from types import SimpleNamespace

import pytest
import torch

from prunerzero import timelimit
from prunerzero.errors import TooSlow
from prunerzero.metric import Metric
from prunerzero.threads import for_each
from prunerzero.timelimit import Allowance, check_time, time_limit

OVER = Allowance(-1.0)


def test_without_a_limit_there_is_time() -> None:
    check_time()
    with time_limit(Allowance()):
        check_time()


def test_a_limit_that_is_over_is_over_for_this_work_only() -> None:
    with pytest.raises(TooSlow), time_limit(OVER):
        check_time()
    check_time()
    with time_limit(Allowance(3600.0)):
        with pytest.raises(TooSlow), time_limit(OVER):
            check_time()
        check_time()


def test_the_clock_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5.0]
    monkeypatch.setattr(timelimit, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with time_limit(Allowance(60.0, 0.25)):
        now[0] = 65.0
        check_time()
        now[0] = 65.1
        with pytest.raises(TooSlow, match=r"^took more than 60 s, 240 times the usual 0\.25 s$"):
            check_time()
    with time_limit(Allowance(60.0)):
        now[0] = 200.0
        with pytest.raises(TooSlow, match=r"^took more than 60 s$"):
            check_time()


@pytest.mark.parametrize("threads", [1, 3])
def test_all_threads_have_the_callers_limit(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    done: list[int] = []

    def work(item: int) -> None:
        time.sleep(0.001)  # so that no thread takes all
        done.append(item)

    try:
        with pytest.raises(TooSlow), time_limit(OVER):
            for_each(work, range(30))
        assert done == []
        with time_limit(Allowance(3600.0)):
            for_each(work, range(30))
        for_each(work, range(30))
        assert len(done) == 60
    finally:
        torch.set_num_threads(before)


def test_scoring_looks_at_the_time_between_operations() -> None:
    w = torch.rand(4, 8)
    with pytest.raises(TooSlow), time_limit(OVER):
        Metric.parse("sqrt(W)").score(W=w)
    Metric.parse("sqrt(W)").score(W=w)


def test_an_allowance_travels() -> None:
    for one in (Allowance(), Allowance(60.0, 0.5)):
        assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301  our own
