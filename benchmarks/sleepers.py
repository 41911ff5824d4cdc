"""Workers that sleep as long as recorded candidates took, so that the coordinator is left."""

from __future__ import annotations

import json
import queue
import threading
import time
from pathlib import Path
from random import Random

import numpy as np
import quiet  # noqa: F401  before torch

from prunerzero.evolution.arena import Arena
from prunerzero.evolution.default import DefaultStrategy
from prunerzero.evolution.executors.base import Executor
from prunerzero.evolution.executors.tasks import (
    Answer,
    Look,
    Lost,
    Measure,
    Measured,
    Task,
    Workplace,
)
from prunerzero.evolution.genome import FACTORS
from prunerzero.evolution.guidance import Guidance
from prunerzero.evolution.judging import IncumbentJudge, RungPlan, Verdict
from prunerzero.evolution.masking import Masker, Sketch
from prunerzero.evolution.steady import SteadyLoop
from prunerzero.pruning.allocation import MatrixShape
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.study import Measurement, Study

RECORDED = Path(__file__).parent / "data" / "candidate_seconds.json"
LOOKING = 0.05  # share of a candidate's time that its masks on the probe matrices take
DERIVING = 3.0  # candidates' times that derivatives take
FAMILIES = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "attention") | dict.fromkeys(
    ("gate_proj", "up_proj", "down_proj"), "mlp"
)
SHAPES = [
    MatrixShape(f"{block}.{kind}", kind, block, 30, 576, 576)
    for block in range(30)
    for kind in FAMILIES
]
PATTERN = Pattern.parse("50%")
SKETCHED = 6 << 8  # words of 64 bits, as of six probe matrices


def recorded_seconds() -> list[float]:
    """What candidates of a real search took, one worker with one thread."""
    found: list[float] = json.loads(RECORDED.read_text())["seconds"]
    return found


class Sleepers(Executor):
    """Threads that answer without a model, after a candidate's time.

    Args:
        workers: how many.
        seconds: of candidates; each sleeps one of them.
    """

    def __init__(self, workers: int, seconds: list[float]) -> None:
        self._naps: list[tuple[float, float]] = []  # when each began, and how long it was to be
        self._seconds = seconds
        self._random = Random(0)
        self._noise = np.random.default_rng(0)
        self._done: queue.SimpleQueue[tuple[str, Answer | Lost]] = queue.SimpleQueue()
        self._tasks: dict[str, queue.SimpleQueue[tuple[float, Answer] | None]] = {
            f"sleeper {number}": queue.SimpleQueue() for number in range(workers)
        }
        self._idle = list(self._tasks)

    def start(self, _: Workplace | None) -> None:
        """See `Executor.start`."""
        for name in self._tasks:
            threading.Thread(target=self._sleep, args=(name,), daemon=True).start()

    def idle(self) -> list[str]:
        """See `Executor.idle`."""
        return list(self._idle)

    def submit(self, worker: str, task: Task) -> None:
        """See `Executor.submit`."""
        if worker in self._idle:
            self._idle.remove(worker)
        share = LOOKING if isinstance(task, Look) else 1.0
        share = share if isinstance(task, (Look, Measure)) else DERIVING
        took = share * self._random.choice(self._seconds)
        self._naps.append((time.perf_counter(), took))
        self._tasks[worker].put((took, self._answer(task)))

    def collect(self, seconds: float) -> list[tuple[str, Answer | Lost]]:
        """See `Executor.collect`."""
        try:
            found = [self._done.get(timeout=seconds)]
        except queue.Empty:
            return []
        while not self._done.empty():
            found.append(self._done.get())
        self._idle += [worker for worker, _ in found]
        return found

    def slept(self) -> float:
        """Seconds that workers have slept by now."""
        now = time.perf_counter()
        return sum(min(took, now - began) for began, took in self._naps)

    def dismiss(self, worker: str) -> None:
        """See `Executor.dismiss`; sleepers are never stuck."""
        raise NotImplementedError

    def close(self) -> None:
        """See `Executor.close`."""
        for tasks in self._tasks.values():
            tasks.put(None)

    def _sleep(self, name: str) -> None:
        while (task := self._tasks[name].get()) is not None:
            time.sleep(task[0])
            self._done.put((name, task[1]))

    def _answer(self, task: Task) -> Answer:
        if isinstance(task, Look):
            bits = np.frombuffer(self._noise.bytes(8 * SKETCHED), np.uint64)
            return Sketch(bits[:2].tobytes().hex(), bits, np.full(len(SHAPES), 0.5))
        if isinstance(task, Measure):
            assert task.stance is not None
            return Measured((behind(self._random, task.stance.round),), task.stance)
        slopes = {kind: dict.fromkeys(FACTORS, 0.0) for kind in FAMILIES}
        return Guidance(0.5, {shape.name: 1.0 for shape in SHAPES}, slopes)


def behind(random: Random, number: int) -> Measurement:
    """The reading of a candidate that loses at a glance."""
    ratio = random.uniform(0.06, 1.0)
    data = {"kl": [0.5, 0.6], "slack": 0.0, "round": number, "log_ratio": ratio}
    return Measurement(
        purpose="fitness",
        windows="w",
        tokens=254,
        loss=4.0,
        kl=0.55,
        data=data | {"standard_error": 0.01},
    )


class ModelLess(IncumbentJudge):
    """Judges what sleepers measure; the first candidate without measuring."""

    def __init__(self) -> None:
        super().__init__([Arena(None, None, None, RungPlan())])  # type: ignore[arg-type]

    def judge(self, recipe: Recipe) -> Verdict:
        """See `Judge.judge`."""
        return self.recall(recipe, [behind(Random(0), 0)])


class Keys(Masker):
    """Tells recipes apart by their formulas alone."""

    def __init__(self) -> None:
        self.pattern = PATTERN

    def sketch(self, recipe: Recipe) -> Sketch:
        """See `Masker.sketch`; of the first candidate."""
        bits = np.zeros(SKETCHED, np.uint64)
        return Sketch(recipe.key(PATTERN)[:32], bits, np.full(len(SHAPES), 0.5))


def sleeping_loop(study: Study, crew: Sleepers) -> SteadyLoop:
    """A search by our strategy, without a model; its first candidate is measured."""
    strategy = DefaultStrategy(0, (), SHAPES, FAMILIES, _never, PATTERN)
    loop = SteadyLoop(study, strategy, ModelLess(), Keys())
    loop.advance()
    crew.start(None)
    loop.crew = crew
    return loop


def _never(_: Recipe) -> Guidance:
    raise AssertionError("derivatives are asked of the workers")
