"""The searches behind docs/results.md, as one resumable script.

    python benchmarks/bars.py [--only NAME ...] [--json]

Each run is a search with a study of its own in benchmarks/runs/; what it showed is added to
benchmarks/data/bars.json as soon as it is known. A run that was cut off goes on where it was, one
that is recorded is not repeated.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import quiet  # noqa: F401  before torch
import torch
from reference import LENGTH, MODEL, TEXT

from prunerzero import Pattern, Recipe, __version__, load_model, search
from prunerzero.data.sources import load_documents
from prunerzero.data.splits import Split
from prunerzero.data.windows import sample_windows
from prunerzero.evaluation.comparison import Comparison
from prunerzero.evaluation.perplexity import TextLoss, paired_interval
from prunerzero.evolution.rungs import beats_incumbent
from prunerzero.evolution.settings import (
    PAPER_ITERATIONS,
    PAPER_POPULATION,
    Budget,
    GenomeKind,
    Preset,
)
from prunerzero.evolution.texts import HELDOUT_WINDOWS
from prunerzero.files import read_json, write_json
from prunerzero.models import compute_for, find_blocks
from prunerzero.pruning.owl import owl_allocation
from prunerzero.statistics.cache import gather_statistics
from prunerzero.study import Study
from prunerzero.updates.names import Update

HERE = Path(__file__).parent
RECORD = HERE / "data" / "bars.json"
STUDIES = HERE / "runs"
SAMPLES = 16


@dataclass(frozen=True)
class Run:
    """One search.

    Attributes:
        pattern: what may be zero.
        seed: seed of the search.
        preset: its strategy.
        genome: what it varies.
        budget: its time.
        like: name of the run whose number of candidates it gets instead of a time.
        owl: Wanda with OWL's allocation is read on held-out text too.
        update: what happens to the kept weights of every candidate.
        texts: further texts that winner and Wanda are read on.
    """

    pattern: str
    seed: int = 0
    preset: Preset = "default"
    genome: GenomeKind = "recipe"
    budget: str = "10m"
    like: str | None = None
    owl: bool = False
    update: Update = "none"
    texts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Unique among the runs; part of file names."""
        parts = [self.pattern.replace("%", "").replace(":", "of"), self.preset, self.genome]
        parts += [self.update] if self.update != "none" else []
        return "-".join([*parts, self.budget, f"seed{self.seed}"])


UNSEEN = ("web", "news")  # C4 passages and news: texts that no search has seen
UNSEEN_WINDOWS = 14  # as many as the passages' held-out documents give

SEARCH = "5m"  # on one thread
WHOLE = "10m"  # what the aims allow, on two

RUNS = (
    Run("2:4", 0, budget=SEARCH, texts=UNSEEN),
    Run("50%", 0, budget=SEARCH, texts=UNSEEN),
    Run("60%", budget=SEARCH, owl=True),
    Run("2:4", 1, budget=SEARCH),
    Run("50%", 1, budget=SEARCH),
    Run("70%", budget=SEARCH, owl=True),
    Run("4:8", budget=SEARCH),
    Run("2:4", 2, budget=SEARCH),
    Run("50%", 2, budget=SEARCH),
    *(Run(pattern, seed, budget=WHOLE) for pattern, seed in (("2:4", 1), ("2:4", 2), ("4:8", 0))),
    Run("50%", preset="evopress", budget=SEARCH),
    Run("50%", genome="formula", budget=SEARCH),
    Run("50%", preset="random", like="50-default-recipe-5m-seed0"),
    *(
        Run(pattern, seed, budget=budget, update="sparsegpt-adaptive")
        for seed in range(3)
        for pattern, budget in (("50%", SEARCH), ("2:4", WHOLE))
    ),
)


def main() -> None:
    """Runs what is not recorded yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=[run.name for run in RUNS])
    parser.add_argument("--json", action="store_true", help="print the record on stdout")
    arguments = parser.parse_args()
    for run in RUNS:
        if arguments.only and run.name not in arguments.only:
            continue
        result = _record().get(run.name)
        if result is None:
            print(f"{run.name} begins", file=sys.stderr, flush=True)
            result = measured(run)
            write_json(RECORD, _record() | {run.name: result})
            print(summary(run.name, result), file=sys.stderr, flush=True)
        if (run.owl or run.texts) and "further" not in result:
            write_json(RECORD, _record() | {run.name: result | {"further": further(run, result)}})
    if arguments.json:
        print(json.dumps(_record(), indent=1))
    else:
        for name, result in _record().items():
            print(summary(name, result))


def measured(run: Run) -> dict[str, Any]:
    """Searches, closes, and returns what the record keeps."""
    STUDIES.mkdir(parents=True, exist_ok=True)
    study = STUDIES / f"{run.name}.db"
    began = time.perf_counter()
    result = search(
        MODEL,
        run.pattern,
        study=study,
        budget=_budget(run, study),
        preset=run.preset,
        genome=run.genome,
        seed=run.seed,
        update=run.update,
        observe=_Observer(),
    )
    document = result.to_json()
    document["best"]["recipe"] = result.best.to_json()
    return document | {
        "model": MODEL,
        "pattern": run.pattern,
        "seed": run.seed,
        "preset": run.preset,
        "genome": run.genome,
        "update": run.update,
        "whole_seconds": time.perf_counter() - began,
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "best_so_far": read_curve(study),
    }


def further(run: Run, result: dict[str, Any]) -> dict[str, Any]:
    """The run's further readings: sequential pruning, the run's own calibration windows."""
    model, tokenizer = load_model(MODEL)
    compute, blocks = compute_for(model, None), find_blocks(model)
    pattern, wanda = Pattern.parse(run.pattern), Recipe.named("wanda")
    documents = load_documents(TEXT)
    calibration = sample_windows(
        documents, tokenizer, Split.CALIBRATION, SAMPLES, LENGTH, run.seed
    ).tokens
    comparison = Comparison(model, blocks, calibration, compute)
    windows_of = {TEXT: HELDOUT_WINDOWS} | dict.fromkeys(UNSEEN, UNSEEN_WINDOWS)

    def loss(recipe: Recipe, text: str) -> TextLoss:
        windows = sample_windows(
            load_documents(text), tokenizer, Split.HELDOUT, windows_of[text], LENGTH, 0
        )
        return comparison.measure("", recipe, pattern, windows, remember=True).loss

    found: dict[str, Any] = {}
    best = Recipe.from_json(result["best"]["recipe"])
    for text in run.texts:
        ours, theirs = loss(best, text), loss(wanda, text)
        interval = paired_interval(ours.losses, theirs.losses)
        found[text] = {"best": ours.perplexity, "wanda": theirs.perplexity} | interval.to_json()
    if run.owl:
        matrices = [matrix for block in blocks for matrix in block.matrices]
        statistics = gather_statistics(model, matrices, calibration, frozenset("A"), compute)
        owl = owl_allocation(blocks, statistics, pattern)
        theirs = loss(wanda.model_copy(update={"allocation": owl}), TEXT)
        ours = loss(best, TEXT)
        interval = paired_interval(ours.losses, theirs.losses)
        found["owl"] = {"best": ours.perplexity, "owl": theirs.perplexity} | interval.to_json()
    return found


def summary(name: str, result: dict[str, Any]) -> str:
    """One line: the best recipe and the best single formula against the baselines."""
    parts = [f"{name}: best {result['best']['heldout_perplexity']:.2f}"]
    alone = result["formula_alone"]
    if alone:
        parts.append(f"one formula {alone['heldout_perplexity']:.2f}")
    for baseline, entry in result["baselines"].items():
        change = entry["best_against_it"]
        part = f"{baseline} {entry['heldout_perplexity']:.2f} ({change['change']:+.1%}, "
        part += f"{change['low']:+.1%} to {change['high']:+.1%}"
        if alone:
            part += f"; one formula {entry['formula_against_it']['change']:+.1%}"
        parts.append(part + ")")
    return "; ".join(parts)


def _budget(run: Run, study: Path) -> Budget:
    if run.like is not None:
        return Budget(candidates=_record()[run.like]["candidates"])
    spent = 0.0
    if study.exists():
        with Study.open(study) as store:
            spent = sum(event.data["seconds"] for event in store.events("session-end"))
    whole = Budget.parse(run.budget)
    assert whole.seconds is not None
    proposals = PAPER_POPULATION + PAPER_ITERATIONS if run.preset == "paper" else None
    return Budget(seconds=max(0.0, whole.seconds - spent), proposals=proposals)


def read_curve(study: Path) -> list[dict[str, Any]]:
    """Each new incumbent of a study: its fitness, and the search time until it was in the study."""
    curve: list[dict[str, Any]] = []
    with Study.open(study) as store:
        starts = [_time(event.created) for event in store.events("session-start")]
        spent = [0.0, *(event.data["seconds"] for event in store.events("session-end"))]
        for row in store.candidates():
            if row.id is None or row.created is None or row.fitness is None:
                continue
            if curve and not beats_incumbent(list(store.measurements("fitness", row.id))):
                continue
            session = max((n for n, at in enumerate(starts) if at <= _time(row.created)), default=0)
            seconds = sum(spent[: session + 1]) + max(0.0, _time(row.created) - starts[session])
            curve.append({"candidate": row.id, "seconds": seconds, "fitness": row.fitness})
    return curve


def _time(created: str) -> float:
    return datetime.fromisoformat(created).timestamp()


class _Observer:
    """A line a minute on stderr."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, status: Any) -> None:
        if status.seconds - self._last < 60:
            return
        self._last = status.seconds
        gain = f"{status.gain:.1%}" if status.gain is not None else "?"
        line = f"{status.seconds:.0f} s, {status.candidates} candidates, below Wanda {gain}"
        print(line, file=sys.stderr, flush=True)


def _record() -> dict[str, Any]:
    return read_json(RECORD, "record") if RECORD.exists() else {}


if __name__ == "__main__":
    main()
