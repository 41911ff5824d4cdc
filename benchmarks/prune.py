"""Our pruner against the public code's manner at the same job: same data, precision and threads.

    python benchmarks/prune.py --json
    python benchmarks/prune.py --windows 8      # a quick look
    python benchmarks/prune.py --metric wanda --pattern 2:4     # one case of the four

Wanda and the published metric, 50 % and 2:4, 64 windows of 512 tokens. The textbook manner: two
forwards a block, one window at a time, a full sort, a loop over the columns of an N:M pattern;
gradients are gathered beforehand for both. The floor is what sequential pruning cannot avoid: of a
recipe with activations, each block's forward on the dense weights up to its last product, and
another on the pruned ones.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import quiet  # noqa: F401  before torch
import torch
from reference import Setting, prune_as_published
from torch import Tensor

from prunerzero import Pattern, Recipe
from prunerzero.models.replay import Replay
from prunerzero.pruning.pruner import plan_sparsities, run_loop, sums_by_pass
from prunerzero.pruning.shared import replay_batch

METRICS = ("wanda", "pruner-zero")
PATTERNS = ("50%", "2:4")


def main() -> None:
    """Measures every metric and pattern, one way after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--metric", choices=METRICS, help="this one alone")
    parser.add_argument("--pattern", choices=PATTERNS, help="this one alone")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    setting = Setting.load()
    setting.calibration = setting.calibration.subset(0, arguments.windows)
    patterns = [arguments.pattern] if arguments.pattern else PATTERNS
    metrics = [arguments.metric] if arguments.metric else METRICS
    rows = [measured(setting, name, text) for text in patterns for name in metrics]
    ours = sum(row["seconds"] for row in rows)
    textbook = sum(row["textbook_seconds"] for row in rows)
    floor = two_forwards(setting)
    result: dict[str, Any] = {
        "rows": rows,
        "seconds": ours,
        "textbook_seconds": textbook,
        "ratio": ours / textbook,
        "two_forwards_seconds": floor,
        "wanda_over_two_forwards": max(
            row["seconds"] / floor for row in rows if row["metric"] == "wanda"
        ),
        "windows": arguments.windows,
        "threads": torch.get_num_threads(),
        "dtype": str(setting.compute.dtype),
    }
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    for row in rows:
        print("   ".join(f"{name} {value}" for name, value in row.items()))
    print("   ".join(f"{name} {value}" for name, value in result.items() if name != "rows"))


def measured(setting: Setting, name: str, text: str) -> dict[str, Any]:
    """Seconds of both ways, and the share of mask entries in which they differ."""
    recipe, pattern = Recipe.named(name), Pattern.parse(text)

    def ours() -> None:
        tokens = setting.calibration.tokens
        _, replayed = sums_by_pass(recipe, sequential=True)
        replay = None
        if replayed:
            batch = replay_batch(tokens)
            replay = Replay(setting.model, setting.blocks, tokens, batch, setting.compute)
        run_loop(
            setting.blocks,
            recipe,
            pattern,
            plan_sparsities(setting.blocks, recipe, pattern),
            tokens,
            setting.statistics,  # gradients, as in the textbook manner
            replay,
            {},
        )

    theirs_seconds, theirs = timed(setting, lambda: prune_as_published(setting, recipe, pattern))
    seconds, masks = timed(setting, ours)
    different = sum(int((a != b).sum()) for a, b in zip(masks, theirs, strict=True))
    row = {
        "metric": name,
        "pattern": text,
        "seconds": seconds,
        "textbook_seconds": theirs_seconds,
        "ratio": seconds / theirs_seconds,
        "different": different / sum(mask.numel() for mask in masks),
    }
    print(row, file=sys.stderr, flush=True)
    return row


def timed(setting: Setting, way: Callable[[], None]) -> tuple[float, list[Tensor]]:
    """Seconds of one way and its masks; the model is dense before and after."""
    began = time.perf_counter()
    try:
        way()
        seconds = time.perf_counter() - began
        return seconds, [matrix.weight != 0 for matrix in setting.matrices]
    finally:
        setting.dense.restore()


def two_forwards(setting: Setting) -> float:
    """Seconds of two bare forwards of every block over the calibration windows."""
    replay = Replay(setting.model, setting.blocks, setting.calibration.tokens, 2, setting.compute)
    began = time.perf_counter()
    for block in setting.blocks:
        replay.run(block)
        replay.advance(replay.run(block))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
