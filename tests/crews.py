"""An executor that works in the test's own process, in an order that a test decides."""

from __future__ import annotations

from random import Random

from prunerzero.evolution.executors.base import Executor
from prunerzero.evolution.executors.parcel import filled, pack
from prunerzero.evolution.executors.tasks import Lost, Measure


class RandomCrew(Executor):
    """Workers of which a random one ends first.

    Args:
        workers: how many.
        seed: of the order.
        before: called with a worker's name and its task before that is done; what it returns, if
            anything, is the answer.
    """

    def __init__(self, workers, seed=0, before=lambda worker, task: None):
        self.measured = []
        self.lost = []
        self._count = workers
        self._random = Random(seed)
        self._before = before
        self._tasks = {}

    def start(self, workplace):
        parcel, tensors = pack(workplace)
        buffer = bytearray(max(1, parcel.size))
        for start, content in filled(parcel, tensors):
            buffer[start : start + len(content)] = content
        self.names = [f"worker {number}" for number in range(self._count)]
        self.places = {name: parcel.open(bytearray(buffer), writable=True) for name in self.names}

    def idle(self):
        return [name for name in self.names if name not in self._tasks]

    def submit(self, worker, task):
        assert worker not in self._tasks
        self._tasks[worker] = task

    def collect(self, seconds):
        worker = self._random.choice(sorted(self._tasks))
        task = self._tasks.pop(worker)
        answer = self._before(worker, task)
        if isinstance(answer, Lost):
            self.dismiss(worker)
            return [(worker, answer)]
        if isinstance(task, Measure):
            self.measured.append(task)
        return [(worker, answer or self.places[worker].do(task))]

    def dismiss(self, worker):
        self._tasks.pop(worker, None)
        self.lost.append(worker)
        self.names.remove(worker)
        self.names.append(f"worker {self._count + len(self.lost)}")
        self.places[self.names[-1]] = self.places.pop(worker)

    def close(self):
        self._tasks.clear()
