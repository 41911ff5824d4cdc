"""What SparseGPT costs on the matrices of one block, against the textbook's loop over columns.

    OMP_NUM_THREADS=1 python benchmarks/update.py --json

The textbook is the public code's manner: blocks of 128 columns, inside a block one column after the
other, the inverse factored from an inverted Gram matrix. Both choose their own mask, and factor the
Gram matrix of every matrix. Gram matrices are of made-up, correlated inputs. A repeat takes both in
turn, so that a busy machine disturbs them alike; figures are medians over repeats. Before anything
is timed, the two reconstruction errors are compared.
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
from prunerzero.models.blocks import find_blocks
from prunerzero.updates import sparsegpt

PATTERNS = {"unstructured": Pattern.parse("50%"), "2:4": Pattern.parse("2:4")}
BLOCK, DAMPING = 128, 0.01
TOKENS, RANK = 4096, 64
TOLERANCE = 1e-2  # relative; rounding decides what is pruned where saliencies all but tie

Way = Callable[[Tensor, Tensor, Pattern], Tensor]


@torch.no_grad()
def textbook(weight: Tensor, gram: Tensor, pattern: Pattern) -> Tensor:
    """SparseGPT column by column, for inputs none of which is dead."""
    weight = weight.float().clone()
    size = weight.shape[1]
    damped = gram + DAMPING * gram.diagonal().mean() * torch.eye(size)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor = torch.linalg.cholesky(inverse, upper=True)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        block = weight[:, start:stop].clone()
        kept, errors = torch.zeros_like(block), torch.zeros_like(block)
        inner = factor[start:stop, start:stop]
        roots = inner.diagonal()
        pruned = torch.zeros_like(block, dtype=torch.bool)
        if pattern.m is None:
            saliency = block**2 / roots[None] ** 2
            ordered = torch.sort(saliency.flatten()).values
            pruned = saliency <= ordered[pattern.count(saliency.numel())]
        for column in range(stop - start):
            if pattern.n is not None and pattern.m is not None and column % pattern.m == 0:
                group = slice(column, column + pattern.m)
                saliency = block[:, group] ** 2 / roots[None, group] ** 2
                lowest = torch.topk(saliency, pattern.m - pattern.n, dim=1, largest=False).indices
                pruned.scatter_(1, column + lowest, True)
            values = block[:, column].masked_fill(pruned[:, column], 0.0)
            error = (block[:, column] - values) / inner[column, column]
            block[:, column:] -= error[:, None] @ inner[column, column:][None]
            kept[:, column], errors[:, column] = values, error
        weight[:, start:stop] = kept
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    return weight


def made_up_gram(size: int, generator: torch.Generator) -> Tensor:
    """X^T X of inputs that vary in size and go along with one another."""
    inputs = torch.randn(TOKENS, size, generator=generator)
    inputs += torch.randn(TOKENS, RANK, generator=generator) @ torch.randn(
        RANK, size, generator=generator
    )
    inputs *= torch.rand(size, generator=generator) + 0.1
    return inputs.T @ inputs


def measure(model_name: str, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds over one block's matrices of each way, and their ratio, by kind of pattern."""
    matrices = find_blocks(load_model(model_name)[0])[0].matrices
    generator = torch.Generator().manual_seed(0)
    widths = {matrix.shape.columns for matrix in matrices}
    grams = {width: made_up_gram(width, generator) for width in sorted(widths)}
    jobs = [(matrix.weight.float(), grams[matrix.shape.columns]) for matrix in matrices]
    ways: dict[str, Way] = {"update_seconds": sparsegpt, "textbook_seconds": textbook}
    report: dict[str, dict[str, float]] = {}
    for kind, pattern in PATTERNS.items():
        for weight, gram in jobs:  # which also warms both up
            ours, theirs = sparsegpt(weight, gram, pattern), textbook(weight, gram, pattern)
            mine, other = (lost(weight, result, gram) for result in (ours, theirs))
            if abs(mine - other) > TOLERANCE * other:
                sys.exit(f"{kind}: reconstruction errors {mine:.5g} and {other:.5g} differ")
        sums: list[dict[str, float]] = []
        for repeat in range(repeats):
            print(f"{kind}, repeat {repeat + 1} of {repeats}", file=sys.stderr)
            sums.append({name: seconds(way, jobs, pattern) for name, way in ways.items()})
        figures = {name: statistics.median(total[name] for total in sums) for name in ways}
        figures["ratio"] = figures["update_seconds"] / figures["textbook_seconds"]
        report[kind] = figures
    return report


def lost(weight: Tensor, result: Tensor, gram: Tensor) -> float:
    """The squared reconstruction error of the outputs."""
    change = result - weight
    return float(((change @ gram) * change).sum())


def seconds(way: Way, jobs: list[tuple[Tensor, Tensor]], pattern: Pattern) -> float:
    begin = time.perf_counter()
    for weight, gram in jobs:
        way(weight, gram, pattern)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    report = measure(arguments.model, arguments.repeats)
    threads = torch.get_num_threads()
    if arguments.json:
        print(json.dumps({**report, "threads": threads}))
        return
    print(f"the matrices of one block of {arguments.model}, seconds, threads: {threads}")
    for kind, figures in report.items():
        print(f"{kind:>12}", *(f"{name} {value:.3f}" for name, value in figures.items()), sep="   ")


if __name__ == "__main__":
    main()
