"""Studies made up row by row, of any size: ``python tests/made_study.py 20000 big.db``."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prunerzero.study import Candidate, Measurement, Study

SETTINGS = {
    "model": "made-up",
    "model_hash": "0" * 64,
    "pattern": "50%",
    "preset": "default",
    "genome": "recipe",
    "seed": 0,
    "guesses": [],
    "calibration": "wikipedia",
    "samples": 16,
    "sequence_length": 512,
    "compute": "cpu, float32",
    "rungs": {"length": 128},
    "selection": {},
}
KINDS = ("q_proj", "o_proj", "up_proj", "down_proj")


def fitness_reading(loss: float = 3.0, rung: int = 0, **data: Any) -> Measurement:
    return Measurement(
        purpose="fitness", windows="w", tokens=508, loss=loss, kl=0.5, rung=rung, seconds=1.0,
        data={"kl": [0.5] * 4, **data},
    )  # fmt: skip


def evaluated(number: int, fitness: float | None, metric: Any = "W", **changes: Any) -> Candidate:
    text = metric if isinstance(metric, str) else "; ".join(f"{k}: {t}" for k, t in metric.items())
    values: dict[str, Any] = {
        "step": number, "key": f"key {number}", "status": "evaluated", "expression": text,
        "recipe": {"metric": metric, "group": "row", "allocation": {"name": "uniform"}},
        "size": len(text.split()), "origin": "mutation", "fitness": fitness, "seconds": 1.0,
    }  # fmt: skip
    return Candidate(**{**values, **changes})


def reading(name: str, losses: list[float], purpose: Any = "heldout", candidate: int | None = None):
    return Measurement(
        purpose=purpose, windows="held", tokens=100, loss=math.fsum(losses) / len(losses),
        name=name, data={"losses": losses}, candidate_id=candidate,
    )  # fmt: skip


def candidates(count: int, seed: int = 0) -> Iterator[tuple[Candidate, list[Measurement]]]:
    """Wanda, then recipes with a formula a kind of matrix; the better, the later, by and large."""
    yield (
        evaluated(0, 0.0, "W * sqrt(X)", key="W * sqrt(X) | 50% | row | uniform | none",
                  origin="zoo", size=4),
        [fitness_reading()],
    )  # fmt: skip
    draw = random.Random(seed)
    for number in range(1, count):
        powers = {kind: [round(draw.gauss(0, 0.4), 3) for _ in range(2)] for kind in KINDS}
        metric = {kind: f"W * A ** {a} * colmean(F) ** {b}" for kind, (a, b) in powers.items()}
        parents = tuple(sorted({draw.randint(1, number), draw.randint(1, number)}))
        fitness = draw.gauss(0.3, 0.2) - 0.5 * number / count
        if number % 50 == 0:
            yield (
                evaluated(number, None, metric, status="rejected",
                          reason=f"scores of model.layers.{number % 30}.mlp are not finite"),
                [],
            )  # fmt: skip
            continue
        climb = [fitness_reading(log_ratio=fitness + draw.gauss(0, 0.05), standard_error=0.05)]
        if number % 8 == 0:
            audit = {"audit": True} if number % 24 == 0 else {}
            climb.append(fitness_reading(rung=1, log_ratio=fitness, standard_error=0.03, **audit))
        yield (
            evaluated(number, fitness, metric, parents=parents, size=draw.randint(5, 90),
                      origin=draw.choice(("descent", "crossover", "mutation"))),
            climb,
        )  # fmt: skip


def make_study(path: Path, count: int, close: bool = False) -> Path:
    """A study of ``count`` candidates, closed with a held-out table if wished."""
    with Study.create(path, SETTINGS) as study:
        study._connection.execute("PRAGMA synchronous = OFF")
        study.add_event("session-start", {"budget": "600 s", "candidates": 0})
        for candidate, measurements in candidates(count):
            study.add_candidate(candidate, measurements)
        study.add_event("session-end", {"seconds": 600.0, "candidates": count})
        if close:
            best = study.best
            assert best is not None
            assert best.id is not None
            study.add_event("heldout", {"winner": best.id, "windows": "held"})
            name = f"candidate {best.id}"
            study.add_measurement(reading(name, [3.0, 3.2, 2.9, 3.3], candidate=best.id))
            study.add_measurement(reading("dense", [2.5, 2.6, 2.4, 2.7]))
            study.add_measurement(reading("wanda", [3.2, 3.45, 3.0, 3.6]))
    return path


if __name__ == "__main__":
    make_study(Path(sys.argv[2]), int(sys.argv[1]), close=True)
