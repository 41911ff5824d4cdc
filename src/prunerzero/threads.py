"""Independent pieces of work on as many threads as torch uses.

Torch shares one operation among its threads, which does not pay for the small operations on a
block that stays in cache. Here every thread has a piece of its own, and torch a single thread in
each.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import lru_cache
from typing import Generic, TypeVar

import torch

from prunerzero.timelimit import check_time

Item = TypeVar("Item")


def for_each(work: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Calls ``work`` on every item; all calls have ended when it returns or raises.

    Args:
        work: what to do; it may be called from several threads at once.
        items: begun in this order.

    Raises:
        Exception: of the calls that failed, the error of the first item; items not yet begun
            are left out then. Whatever the number of threads, it is the same one.
        TooSlow: a time limit was over before an item.
    """
    available = torch.get_num_threads()
    threads = min(available, len(items))
    if threads <= 1:
        for item in items:
            check_time()
            work(item)
        return
    crew = _Crew(work, items)
    pool = _pool(available)
    # Each thread in a copy of the caller's context, which has the time limit.
    others = [pool.submit(copy_context().run, crew.work_on) for _ in range(threads - 1)]
    torch.set_num_threads(1)
    try:
        crew.work_on()  # the caller works too: short work may be done before the others wake
    finally:
        crew.stop()  # after an interrupt, nothing may go on behind the caller's back
        wait([other for other in others if not other.cancel()])
        torch.set_num_threads(available)
    if crew.errors:
        raise crew.errors[min(crew.errors)]


class _Crew(Generic[Item]):
    """Threads that take items from one queue."""

    def __init__(self, work: Callable[[Item], None], items: Sequence[Item]) -> None:
        self.errors: dict[int, BaseException] = {}
        self._work = work
        self._items = items
        self._next = 0
        self._lock = threading.Lock()
        self._stopped = False

    def work_on(self) -> None:
        """Works until nothing is left, or a piece has failed."""
        while not self._stopped:
            with self._lock:
                index = self._next
                self._next += 1
            if index >= len(self._items):
                return
            try:
                check_time()
                self._work(self._items[index])
            except BaseException as error:
                self.errors[index] = error
                self.stop()

    def stop(self) -> None:
        """Lets no further piece begin."""
        self._stopped = True


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """A pool of the caller's helpers, all of them started, with one torch thread each."""
    helpers = threads - 1
    ready = threading.Barrier(helpers + 1)

    def start() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread's first call takes over what was set last, by anyone
        ready.wait()

    pool = ThreadPoolExecutor(helpers, thread_name_prefix="prunerzero")
    for _ in range(helpers):
        pool.submit(start)
    ready.wait()
    torch.set_num_threads(threads)  # what threads that start later will have
    return pool


if hasattr(os, "register_at_fork"):  # a forked child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
