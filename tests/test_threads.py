"""Pieces of work on several threads: all done, one torch thread each, the first error wins."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from prunerzero.threads import for_each


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_item_is_worked_on_once(threads: int) -> None:
    done: list[int] = []
    for_each(done.append, range(100))
    assert sorted(done) == list(range(100))
    for_each(done.append, [])
    assert len(done) == 100


def test_torch_takes_one_thread_in_each_and_as_many_as_before_outside(threads: int) -> None:
    counts: list[int] = []
    for_each(lambda _: counts.append(torch.get_num_threads()), range(8))
    assert set(counts) == {1}
    assert torch.get_num_threads() == threads
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [threads]


def test_work_inside_work(threads: int) -> None:
    done: list[int] = []
    for_each(lambda _: for_each(done.append, range(5)), range(5))
    assert len(done) == 25


def test_the_first_items_error_is_raised_and_nothing_goes_on(threads: int) -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item in (7, 8):
            time.sleep(0.02 * (item == 7))  # the later item fails first
            raise ValueError(item)
        done.append(item)

    with pytest.raises(ValueError, match="7"):
        for_each(work, range(1000))
    count = len(done)
    assert 7 <= count < 1000
    time.sleep(0.02)
    assert len(done) == count
