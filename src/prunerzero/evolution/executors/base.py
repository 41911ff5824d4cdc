"""The protocol of executors: give an idle worker a task, collect answers and losses."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from prunerzero.errors import InputError
from prunerzero.evolution.executors.tasks import Answer, Lost, Task, Workplace
from prunerzero.evolution.settings import ExecutorKind

MOST_FALSE_STARTS = 5


class Executor(ABC):
    """Workers that each do one task at a time; a context manager that ends them.

    A worker that is lost is replaced by one of another name; what it was at is reported as `Lost`.
    """

    _false_starts = 0

    def _note_start(self, reason: str | None = None) -> None:
        """Takes note that a worker is ready, or why it never was.

        Raises:
            InputError: several in a row were not, so that the next would do no better.
        """
        self._false_starts = 0 if reason is None else self._false_starts + 1
        if reason is not None and self._false_starts >= MOST_FALSE_STARTS:
            raise InputError(
                f"workers: {self._false_starts} in a row ended before they could begin ({reason}); "
                "is there memory for so many, and the same prunerzero everywhere?"
            )

    @abstractmethod
    def start(self, workplace: Workplace) -> None:
        """Gives workers what they work with; the models are dense now. They start meanwhile."""

    @abstractmethod
    def idle(self) -> list[str]:
        """The names of workers that are ready and have no task."""

    @abstractmethod
    def submit(self, worker: str, task: Task) -> None:
        """Gives an idle worker a task."""

    @abstractmethod
    def collect(self, seconds: float) -> list[tuple[str, Answer | Lost]]:
        """What has ended: waits until something has, at most so long; also for workers to start.

        Raises:
            InputError: no worker can be started, or none knows what the search is about.
        """

    @abstractmethod
    def dismiss(self, worker: str) -> None:
        """Ends a worker at once, and has it replaced; nothing more is heard of it."""

    @abstractmethod
    def close(self) -> None:
        """Ends all workers; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_executor(
    kind: ExecutorKind, workers: int | None, address: str | None, own: Sequence[str] = ()
) -> Executor | None:
    """The executor of a kind; None for ``serial``.

    Args:
        kind: which.
        workers: how many; by default one for each core, or as many as a Ray cluster has room for.
        address: of a Ray cluster that runs already.
        own: operators and terminals of the user's own that workers must know.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: the cluster cannot be reached; workers cannot come by something of the user's.
    """
    if kind == "serial":
        return None
    if kind == "process":
        from prunerzero.evolution.executors.process import ProcessExecutor

        return ProcessExecutor(workers or usable_cores(), own=own)
    from prunerzero.evolution.executors.cluster import RayExecutor

    return RayExecutor(workers, address, own=own)
