"""What one candidate costs, against the public code's manner, and how well the cheap order agrees.

    python benchmarks/candidate_cost.py --json          # re-measures three reference fitnesses
    python benchmarks/candidate_cost.py --full --json   # all of them, an hour or more

Reference fitnesses lie in benchmarks/data/reference_fitness.json and are added to it as they come.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import quiet  # noqa: F401  before torch
import torch
from reference import Setting, read_expressions, reference_perplexity

from prunerzero import Pattern, Recipe
from prunerzero.evaluation.batches import next_token_logits
from prunerzero.evaluation.divergence import DenseReference
from prunerzero.evolution.default import DefaultStrategy
from prunerzero.evolution.genome import FACTORS
from prunerzero.evolution.guidance import Guidance
from prunerzero.evolution.loop import Loop
from prunerzero.files import read_json, write_json
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.study import Study

PATTERN = Pattern.parse("50%")
RECORD = Path(__file__).parent / "data" / "reference_fitness.json"
CANDIDATES, CHECKED = 200, 3
FULL_WINDOWS, FULL_LENGTH = 8, 512


def main() -> None:
    """Measures everything and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="measure all reference fitnesses")
    parser.add_argument("--candidates", type=int, default=CANDIDATES)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    setting = Setting.load()
    result = {
        **full_evaluation(setting),
        **candidate_cost(setting, arguments.candidates),
        **reference_cost(setting, arguments.full),
        **agreement(setting),
        "threads": torch.get_num_threads(),
        "dtype": str(setting.compute.dtype),
    }
    result["speedup"] = result["reference_seconds"] / result["candidate_seconds"]
    print(json.dumps(result, indent=1) if arguments.json else _table(result))


def full_evaluation(setting: Setting) -> dict[str, float]:
    """Masks and divergence on 8 windows of 512 tokens, against the bare forwards; medians."""
    masker = setting.masker(PATTERN)
    windows = setting.evaluation.subset(0, FULL_WINDOWS)
    reference = DenseReference(setting.model, windows.tokens, setting.compute)
    recipe = Recipe.named("wanda")
    full, forward = [], []
    for _ in range(3):
        began = time.perf_counter()
        for _batch in next_token_logits(setting.model, windows.tokens, setting.compute):
            pass
        forward.append(time.perf_counter() - began)
        began = time.perf_counter()
        masker.apply(recipe)
        reference.measure(setting.model)
        full.append(time.perf_counter() - began)
        masker.restore()
    seconds = {
        "full_seconds": statistics.median(full),
        "forward_seconds": statistics.median(forward),
    }
    return seconds | {"floor_ratio": seconds["full_seconds"] / seconds["forward_seconds"]}


def candidate_cost(setting: Setting, count: int) -> dict[str, Any]:
    """Mean time of distinct candidates of a search, each measured on the first rung at least.

    The strategy is the default one without its gradients, which are no candidates.
    """
    masker = setting.masker(PATTERN)
    judge = setting.judge(masker)
    families = {matrix.kind: matrix.family for matrix in setting.matrices}
    shapes = [matrix.shape for matrix in setting.matrices]
    flat = {kind: dict.fromkeys(FACTORS, 0.0) for kind in families}
    nowhere = Guidance(1.0, {shape.name: 1.0 for shape in shapes}, flat)
    strategy = DefaultStrategy(0, (), shapes, families, lambda _: nowhere, PATTERN)
    study = Path("candidate_cost.db")
    study.unlink(missing_ok=True)
    seconds: list[float] = []
    with Study.open_or_create(study, {"benchmark": "candidate cost"}) as store:
        loop = Loop(store, strategy, judge, masker)
        began = time.perf_counter()
        while len(seconds) < count:
            row = loop.advance()
            if row.status == "evaluated":
                seconds.append(row.seconds)
                _note(f"{len(seconds)}/{count} {row.seconds:.2f} s {row.expression}")
        whole = time.perf_counter() - began
    study.unlink()
    masker.restore()
    return {
        "candidate_seconds": statistics.fmean(seconds),
        "candidates_per_minute": 60 * len(seconds) / whole,
        "distinct_candidates": len(seconds),
    }


def reference_cost(setting: Setting, full: bool) -> dict[str, Any]:
    """Time of the reference, whose fitnesses are compared with the recorded ones or recorded."""
    texts = read_expressions()
    record: dict[str, float | None] = read_json(RECORD, "record") if RECORD.exists() else {}
    chosen = texts if full else texts[:: math.ceil(len(texts) / CHECKED)]
    seconds, drifts = [], []
    for text in chosen:
        began = time.perf_counter()
        try:
            found: float | None = reference_perplexity(setting, Recipe.from_text(text), PATTERN)
            seconds.append(time.perf_counter() - began)
        except UnusableScores:
            found = None
        _note(f"reference {found} in {time.perf_counter() - began:.0f} s: {text}")
        if text not in record:
            record[text] = found
            write_json(RECORD, record)
        known = record[text]
        if found is not None and known is not None:
            drifts.append(abs(found / known - 1))
    return {
        "reference_seconds": statistics.fmean(seconds),
        "reference_measured": len(chosen),
        "reference_drift": max(drifts, default=0.0),
    }


def agreement(setting: Setting) -> dict[str, Any]:
    """Kendall's tau between the ladder's order and the recorded reference fitnesses.

    Recipes that prune alike are judged once, as in a search, and tie in both orders.
    """
    record: dict[str, float | None] = read_json(RECORD, "record")
    masker = setting.masker(PATTERN)
    judge = setting.judge(masker)
    pairs: list[tuple[float, float]] = []
    known: dict[str, float] = {}
    winner = None
    for text in read_expressions():
        dear = record.get(text)
        if dear is None:
            continue
        recipe = Recipe.from_text(text)
        key = recipe.key(PATTERN)
        if key not in known:
            try:
                verdict = judge.judge(recipe)
            except UnusableScores:
                continue
            known[key] = verdict.fitness
            winner = dear if verdict.incumbent else winner
        pairs.append((known[key], dear))
        _note(f"ladder {known[key]:+.3f}, reference {dear:.2f}: {text}")
    masker.restore()
    best = min(dear for _, dear in pairs)
    return {
        "kendall_tau": tau_b(pairs),
        "winner_gap": (winner or math.inf) / best - 1,
        "expressions_compared": len(pairs),
    }


def tau_b(pairs: list[tuple[float, float]]) -> float:
    """Kendall's tau-b of two readings of each: ties in one of them are left out of its count."""
    agreement = first = second = 0
    for (a, b), (c, d) in combinations(pairs, 2):
        agreement += int(np.sign(a - c) * np.sign(b - d))
        first += a != c
        second += b != d
    return agreement / math.sqrt(first * second)


def _table(result: dict[str, Any]) -> str:
    return "\n".join(f"{name:24} {value}" for name, value in result.items())


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
