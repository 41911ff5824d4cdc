"""How much sooner the default search gets where the paper's algorithm ends.

    python benchmarks/time_to_quality.py --json

The paper's 350 proposals are evaluated by our cheap fitness (the ladder of rungs) but charged at
what one costs in the public code's manner (Wanda's evaluation, timed here, or
`candidate_cost.py`'s `reference_seconds`), so their time is computed, not measured. Its winner is
pruned sequentially and read on held-out text. Then the default search's incumbents are read in
order, until one is as good; its time is that of its statistics (gathered here afresh) and its
search until then. The default search is `bars.py`'s at 50 % (made if it is missing, five minutes);
both studies are kept in benchmarks/runs/. Held-out text is read for this comparison only; nothing
is chosen by it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import quiet  # noqa: F401  before torch
from bars import RUNS, SAMPLES, STUDIES, measured, read_curve
from reference import LENGTH, MODEL, TERMINALS, TEXT, Setting, reference_perplexity

from prunerzero import Pattern, Recipe, load_model
from prunerzero.data.sources import load_documents
from prunerzero.data.splits import Split
from prunerzero.data.windows import sample_windows
from prunerzero.evaluation.comparison import Comparison
from prunerzero.evolution.loop import Loop
from prunerzero.evolution.settings import PAPER_ITERATIONS, PAPER_POPULATION
from prunerzero.evolution.strategies import PaperStrategy
from prunerzero.evolution.texts import HELDOUT_WINDOWS
from prunerzero.files import write_json
from prunerzero.models import compute_for, find_blocks
from prunerzero.statistics.cache import gather_statistics
from prunerzero.study import Study

HALF = Pattern.parse("50%")
PROPOSALS = PAPER_POPULATION + PAPER_ITERATIONS
DEFAULT = "50-default-recipe-5m-seed0"
PAPER_STUDY = STUDIES / "50-paper-cheap-seed0.db"
READINGS = Path(__file__).parent / "data" / "time_to_quality.json"


def main() -> None:
    """Measures the default search against the paper's winner."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference-seconds", type=float, help="default: one is timed")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    default = next(run for run in RUNS if run.name == DEFAULT)
    if not (STUDIES / f"{default.name}.db").exists():
        _note(f"{default.name} begins")
        measured(default)
    setting = Setting.load()
    reference = arguments.reference_seconds or timed_reference(setting)
    statistics = timed_statistics(setting)
    winner = paper_winner(setting)
    del setting
    heldout = Heldout()
    target = heldout.perplexity(winner)
    _note(f"paper's winner {winner.expression}: {target:.2f}")
    reached = first_as_good(STUDIES / f"{default.name}.db", target, heldout)
    charged = PROPOSALS * reference
    seconds = reached["seconds"] + statistics
    result = {
        "paper_expression": winner.expression,
        "paper_heldout_perplexity": target,
        "paper_proposals": PROPOSALS,
        "reference_seconds": reference,
        "paper_seconds_computed": charged,
        "default_candidate": reached["candidate"],
        "default_heldout_perplexity": reached["heldout_perplexity"],
        "default_search_seconds": reached["seconds"],
        "default_statistics_seconds": statistics,
        "default_seconds": seconds,
        "times_sooner": charged / seconds,
    }
    write_json(READINGS, result)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print("\n".join(f"{name:28} {value}" for name, value in result.items()))


def timed_reference(setting: Setting) -> float:
    """Seconds of one evaluation in the public code's manner."""
    began = time.perf_counter()
    reference_perplexity(setting, Recipe.named("wanda"), HALF)
    seconds = time.perf_counter() - began
    _note(f"reference: {seconds:.0f} s")
    return seconds


def timed_statistics(setting: Setting) -> float:
    """Seconds of gathering what a search's formulas may read, with nothing kept from before."""
    tokens = setting.calibration.tokens[:SAMPLES]
    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.dict(os.environ, {"PRUNERZERO_CACHE": folder}),
    ):
        gather_statistics(setting.model, setting.matrices, tokens, TERMINALS, setting.compute)
    return time.perf_counter() - began


def paper_winner(setting: Setting) -> Recipe:
    """The incumbent after the published algorithm's proposals; goes on where it was cut off."""
    masker = setting.masker(HALF)
    judge = setting.judge(masker)
    STUDIES.mkdir(parents=True, exist_ok=True)
    with Study.open_or_create(PAPER_STUDY, {"benchmark": "paper's search, cheap fitness"}) as store:
        loop = Loop(store, PaperStrategy(0), judge, masker, alike=0.0)
        loop.replay()
        while loop.proposals < PROPOSALS:
            row = loop.advance()
            if row.id is not None and row.id % 20 == 0:
                _note(f"{loop.proposals}/{PROPOSALS} {row.expression}")
    assert judge.incumbent is not None
    return judge.incumbent


class Heldout:
    """Held-out perplexity after sequential pruning at 50 %, as in a search's closing table."""

    def __init__(self) -> None:
        model, tokenizer = load_model(MODEL)
        documents = load_documents(TEXT)
        calibration = sample_windows(documents, tokenizer, Split.CALIBRATION, SAMPLES, LENGTH, 0)
        self._windows = sample_windows(
            documents, tokenizer, Split.HELDOUT, HELDOUT_WINDOWS, LENGTH, 0
        )
        self._comparison = Comparison(
            model, find_blocks(model), calibration.tokens, compute_for(model, None)
        )

    def perplexity(self, recipe: Recipe) -> float:
        """The perplexity of one recipe."""
        return self._comparison.measure("", recipe, HALF, self._windows).loss.perplexity


def first_as_good(path: Path, target: float, heldout: Heldout) -> dict[str, Any]:
    """The first incumbent of a study whose held-out perplexity is not above the target."""
    curve = read_curve(path)
    with Study.open(path) as study:
        recipes = [Recipe.from_json(dict(study.candidate(p["candidate"]).recipe)) for p in curve]
    for point, recipe in zip(curve, recipes, strict=True):
        perplexity = heldout.perplexity(recipe)
        _note(f"candidate {point['candidate']}: {perplexity:.2f} at {point['seconds']:.0f} s")
        if perplexity <= target:
            return point | {"heldout_perplexity": perplexity}
    raise SystemExit("the default search never got as good as the paper's winner")


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
