"""How well workers scale: processes, Ray, 64 sleepers, and the coordinator's cost a candidate.

    python benchmarks/scaling.py --json [--only process,ray,sleepers,coordinator]

Processes and Ray measure one list of candidates on the demo model, one thread a worker, so that
the rates can be compared. Sleepers sleep the times that these took (`data/candidate_seconds.json`,
written by the run with one process).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import quiet  # noqa: F401  before torch
import torch
from reference import Setting
from sleepers import RECORDED, SHAPES, SKETCHED, Sleepers, recorded_seconds, sleeping_loop

from prunerzero import Pattern
from prunerzero.evolution.controls import RandomStrategy
from prunerzero.evolution.executors.base import Executor
from prunerzero.evolution.executors.cluster import RayExecutor
from prunerzero.evolution.executors.process import ProcessExecutor
from prunerzero.evolution.executors.tasks import Workplace
from prunerzero.evolution.guidance import measure_guidance
from prunerzero.evolution.loop import OutOfTime
from prunerzero.evolution.masking import Maskers, Sketch
from prunerzero.evolution.steady import SteadyLoop
from prunerzero.study import Candidate, Study

PARTS = ("process", "ray", "sleepers", "coordinator")
WARM, MEASURED = 8, 80  # candidates; so many that each worker gets its share of the dear ones
SLEEPERS = (1, 8, 64)
SLEEPING = 20.0  # seconds
IN_STUDY, TIMED = 100_000, 1000
NEAR = 100  # candidates of the full study that each new one is compared with by its masks


def rate(setting: Setting, crew: Executor, workers: int) -> dict[str, Any]:
    """Candidates a minute, of one list whatever the number of workers, after some to warm up.

    A worker's clock stops with its own last candidate: to wait for the others at the end of the
    list is no part of a search, which has no end of the list.
    """
    masker = setting.masker(Pattern.parse("50%"))
    judge = setting.judge(masker)
    shapes = [matrix.shape for matrix in masker.matrices]
    with crew, tempfile.TemporaryDirectory() as folder, made(folder) as study:
        strategy = RandomStrategy(0, shapes, allocate=True)
        loop = SteadyLoop(study, strategy, judge, Maskers([masker]))
        loop.advance()
        masker.restore()
        crew.start(Workplace(judge, Maskers([masker]), judge.arenas, measure_guidance))
        loop.crew = crew
        while len(crew.idle()) < workers:
            crew.collect(1.0)
        settle(loop, 1 + WARM)
        began = time.perf_counter()
        rows, ends = settle(loop, 1 + WARM + MEASURED)
    took = [row.seconds for row in rows]
    seconds = sum(ends[-workers:]) / workers - began
    note(f"{type(crew).__name__}, {workers}: {60 * len(rows) / seconds:.1f} candidates a minute")
    return {"workers": workers, "seconds": seconds, "until_the_last": ends[-1] - began,
            "a_minute": 60 * len(rows) / seconds, "candidate_seconds": took,
            "list": hashlib.sha256(repr(sorted(row.key for row in rows)).encode()).hexdigest()[:16],
            }  # fmt: skip


def settle(loop: SteadyLoop, count: int) -> tuple[list[Candidate], list[float]]:
    """Goes on until so many candidates are settled; returns the new ones, and when each was."""
    loop.may_begin = lambda: loop.settled + loop.out < count
    rows, ends = [], []
    with suppress(OutOfTime):
        while True:
            rows.append(loop.advance())
            ends.append(time.perf_counter())
    return rows, ends


def utilisation(workers: int, seconds: list[float]) -> dict[str, Any]:
    """The share of their time that workers sleep."""
    crew = Sleepers(workers, seconds)
    with crew, tempfile.TemporaryDirectory() as folder, made(folder) as study:
        loop = sleeping_loop(study, crew)
        began = time.perf_counter()
        loop.may_begin = lambda: time.perf_counter() < began + SLEEPING
        rows = 0
        with suppress(OutOfTime):
            while loop.may_begin():
                loop.advance()
                rows += 1
        wall, busy = time.perf_counter() - began, crew.slept()
    note(f"{workers} sleepers: {busy / wall / workers:.1%} busy, {rows} candidates")
    return {"workers": workers, "seconds": wall, "candidates": rows,
            "utilisation": busy / wall / workers}  # fmt: skip


def coordinator_cost() -> dict[str, Any]:
    """Milliseconds of the coordinator for a candidate, with many in the study."""
    random, noise = Random(0), np.random.default_rng(0)
    crew = Sleepers(8, [0.0])
    with crew, tempfile.TemporaryDirectory() as folder, made(folder) as study:
        loop = sleeping_loop(study, crew)
        first = study.candidate(1)
        recipe, nothing = loop.individuals[1].recipe, np.zeros(0, np.uint64)
        began = time.perf_counter()
        for number in range(IN_STUDY):
            fitness = random.uniform(0, 0.05) if number < NEAR else random.uniform(0.06, 1.0)
            row = Candidate(
                step=1,
                key=f"{first.key} {number}",
                status="evaluated",
                recipe=first.recipe,
                expression=first.expression,
                size=first.size,
                origin="random",
                fitness=fitness,
                fingerprint=f"{number}",
            )
            row = study.candidate(study.add_candidate(row))
            bits = np.frombuffer(noise.bytes(8 * SKETCHED), np.uint64) if number < NEAR else nothing
            loop._settle(row, recipe, False)  # as if it had been measured
            if number < NEAR:
                assert row.id is not None
                loop._sketches[row.id] = Sketch("", bits, np.full(len(SHAPES), 0.5))
        note(f"{IN_STUDY} rows in {time.perf_counter() - began:.0f} s")
        began, processor = time.perf_counter(), time.process_time()
        for _ in range(TIMED):
            loop.advance()
        seconds = time.perf_counter() - began
        processor = time.process_time() - processor
    return {"in_study": IN_STUDY, "near": NEAR, "candidates": TIMED, "seconds": seconds,
            "cpu_seconds": processor, "coordinator_ms": 1000 * seconds / TIMED}  # fmt: skip


def made(folder: str) -> Study:
    """A new study."""
    return Study.create(Path(folder) / "s.db", {})


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS))
    options = parser.parse_args()
    parts = options.only.split(",")
    raw: dict[str, Any] = {}
    found: dict[str, Any] = {"raw": raw}
    setting = None
    if {"process", "ray"} & set(parts):
        torch.set_num_threads(1)
        setting = Setting.load()
    if setting is not None:
        raw["process"] = [rate(setting, ProcessExecutor(2, threads=1), 2)]
    if setting is not None and "process" in parts:
        one = rate(setting, ProcessExecutor(1, threads=1), 1)
        raw["process"].insert(0, one)
        found["process_speedup"] = raw["process"][1]["a_minute"] / one["a_minute"]
        record = {"source": "one process of scaling.py", "seconds": one["candidate_seconds"]}
        RECORDED.write_text(json.dumps(record) + "\n")
    if setting is not None and "ray" in parts:
        raw["ray"] = rate(setting, RayExecutor(2, None), 2)
        found["ray_ratio"] = raw["ray"]["a_minute"] / raw["process"][-1]["a_minute"]
    if "sleepers" in parts:
        raw["sleepers"] = [utilisation(count, recorded_seconds()) for count in SLEEPERS]
        found["simulated_utilisation"] = min(one["utilisation"] for one in raw["sleepers"])
    if "coordinator" in parts:
        raw["coordinator"] = coordinator_cost()
        found["coordinator_ms"] = raw["coordinator"]["coordinator_ms"]
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for name, value in found.items():
            if name != "raw":
                print(f"{name:<22} {value:.3g}")


if __name__ == "__main__":
    main()
