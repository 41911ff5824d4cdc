"""What selecting masks costs: over all matrices of a model, against a sort and a loop.

    OMP_NUM_THREADS=1 python benchmarks/masking.py --json

Row selection at 50 % is set against a full stable sort, 2:4 against the public Pruner-Zero code's
loop over columns; both give the same masks where no scores tie. Scores are Wanda's with made-up
activations. A repeat takes every way in turn over all matrices, so that a busy machine disturbs
them alike; each figure is the median over repeats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import quiet  # noqa: F401  before torch
import torch
from torch import Tensor

from prunerzero import Pattern, load_model
from prunerzero.models.blocks import prunable_matrices

ROWS, NM = Pattern.parse("50%"), Pattern.parse("2:4")

WAYS: dict[str, dict[str, Callable[[Tensor], object]]] = {
    "rows": {
        "seconds": ROWS.mask,
        "sort_seconds": lambda scores: by_sorting(scores),
        "read_seconds": Tensor.sum,
    },
    "nm": {
        "seconds": NM.mask,
        "loop_seconds": lambda scores: by_loop(scores),
        "read_seconds": Tensor.sum,
    },
}
REFERENCE = {"rows": "sort_seconds", "nm": "loop_seconds"}


def by_sorting(scores: Tensor) -> Tensor:
    """The lower half of each row by a full stable sort."""
    order = torch.sort(scores, dim=1, stable=True).indices
    kept = torch.ones_like(scores, dtype=torch.bool)
    return kept.scatter_(1, order[:, : ROWS.count(scores.shape[1])], False)


def by_loop(scores: Tensor) -> Tensor:
    """2:4 as in the public code, one group of columns after the other."""
    pruned = torch.zeros_like(scores, dtype=torch.bool)
    for column in range(0, scores.shape[1], 4):
        group = scores[:, column : column + 4].float()
        lowest = torch.topk(group, 2, dim=1, largest=False)[1]
        pruned.scatter_(1, column + lowest, True)
    return pruned.logical_not_()


def seconds(way: Callable[[Tensor], object], scores: Tensor) -> float:
    begin = time.perf_counter()
    way(scores)
    return time.perf_counter() - begin


def measure(model_name: str, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds over all matrices of each way, and how many times ours is faster."""
    matrices = prunable_matrices(load_model(model_name)[0])
    generator = torch.Generator().manual_seed(0)
    activations = {
        columns: torch.rand(1, columns, generator=generator)
        for columns in {matrix.shape.columns for matrix in matrices}
    }

    def over_all_matrices(way: Callable[[Tensor], object]) -> float:
        total = 0.0
        for matrix in matrices:
            total += seconds(way, matrix.weight.float().abs() * activations[matrix.shape.columns])
        return total

    over_all_matrices(ROWS.mask)  # warms up
    sums: list[dict[tuple[str, str], float]] = []
    for repeat in range(repeats):
        print(f"repeat {repeat + 1} of {repeats}", file=sys.stderr)
        sums.append(
            {
                (kind, name): over_all_matrices(way)
                for kind, ways in WAYS.items()
                for name, way in ways.items()
            }
        )
    report = {
        kind: {name: statistics.median(total[kind, name] for total in sums) for name in ways}
        for kind, ways in WAYS.items()
    }
    for kind, reference in REFERENCE.items():
        report[kind]["speedup"] = report[kind][reference] / report[kind]["seconds"]
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    report = measure(arguments.model, arguments.repeats)
    threads = torch.get_num_threads()
    if arguments.json:
        print(json.dumps({**report, "threads": threads}))
        return
    print(f"all matrices of {arguments.model}, seconds, threads: {threads}")
    for kind, figures in report.items():
        print(f"{kind:>5}", *(f"{name} {value:.3f}" for name, value in figures.items()), sep="   ")


if __name__ == "__main__":
    main()
