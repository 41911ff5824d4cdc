"""How much sooner the default search gets where the paper's algorithm ends.

    python benchmarks/time_to_quality.py --json

The paper's 350 proposals are evaluated by our cheap fitness but charged at what one costs in the
public code's manner (`candidate_cost.py`), so their time is computed, not measured. Its winner is
pruned sequentially and read on held-out text. Then the default search's incumbents are read in
order, until one is as good; its time is the search's until then and that of the statistics. The
studies are those of `bars.py` (benchmarks/runs/); a missing one is made. Held-out text is read for
this comparison only; nothing is chosen by it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import quiet  # noqa: F401  before torch
from bars import RUNS, SAMPLES, STUDIES, measured, read_curve
from reference import LENGTH, MODEL, TEXT

from prunerzero import Pattern, Recipe, load_model
from prunerzero.data.sources import load_documents
from prunerzero.data.splits import Split
from prunerzero.data.windows import sample_windows
from prunerzero.evaluation.comparison import Comparison
from prunerzero.evolution.runner import HELDOUT_WINDOWS
from prunerzero.evolution.settings import PAPER_ITERATIONS, PAPER_POPULATION
from prunerzero.files import read_json, write_json
from prunerzero.models import compute_for, find_blocks
from prunerzero.study import Study

PAPER_RECORD = Path(__file__).parent / "data" / "paper_winner.json"


def main() -> None:
    """Measures the default search against the paper's winner."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference-seconds", type=float, required=True, help="candidate_cost.py")
    parser.add_argument("--statistics-seconds", type=float, default=0.0, help="of the search")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    default, paper = RUNS[0], next(run for run in RUNS if run.preset == "paper")
    for run in (default, paper):
        if not (STUDIES / f"{run.name}.db").exists():
            _note(f"{run.name} begins")
            measured(run)
    target = paper_winner(paper.name)
    reached = first_as_good(default.name, target["heldout_perplexity"])
    proposals = PAPER_POPULATION + PAPER_ITERATIONS
    charged = proposals * arguments.reference_seconds
    seconds = reached["seconds"] + arguments.statistics_seconds
    result = {
        "paper_expression": target["expression"],
        "paper_heldout_perplexity": target["heldout_perplexity"],
        "paper_seconds_computed": charged,
        "default_heldout_perplexity": reached["heldout_perplexity"],
        "default_seconds": seconds,
        "times_sooner": charged / seconds,
    }
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        print("\n".join(f"{name:28} {value}" for name, value in result.items()))


def paper_winner(name: str) -> dict[str, Any]:
    """The formula with the lowest fitness of the paper's study, and its held-out perplexity."""
    if PAPER_RECORD.exists():
        return dict(read_json(PAPER_RECORD, "record"))
    with Study.open(STUDIES / f"{name}.db") as study:
        rows = [row for row in study.candidates() if row.fitness is not None]
    best = min(rows, key=lambda row: row.fitness or 0.0)
    perplexity = heldout([Recipe.from_json(dict(best.recipe))])[0]
    found = {"expression": best.expression, "heldout_perplexity": perplexity, "rows": len(rows)}
    write_json(PAPER_RECORD, found)
    return found


def first_as_good(name: str, target: float) -> dict[str, Any]:
    """The first incumbent of a study whose held-out perplexity is not above the target."""
    path = STUDIES / f"{name}.db"
    curve = read_curve(path)
    with Study.open(path) as study:
        recipes = [Recipe.from_json(dict(study.candidate(p["candidate"]).recipe)) for p in curve]
    for point, recipe in zip(curve, recipes, strict=True):
        perplexity = heldout([recipe])[0]
        _note(f"candidate {point['candidate']}: {perplexity:.2f} at {point['seconds']:.0f} s")
        if perplexity <= target:
            return point | {"heldout_perplexity": perplexity}
    raise SystemExit("the default search never got as good as the paper's winner")


def heldout(recipes: list[Recipe]) -> list[float]:
    """Held-out perplexity after sequential pruning at 50 %, as in a search's closing table."""
    model, tokenizer = load_model(MODEL)
    documents = load_documents(TEXT)
    calibration = sample_windows(documents, tokenizer, Split.CALIBRATION, SAMPLES, LENGTH, 0)
    windows = sample_windows(documents, tokenizer, Split.HELDOUT, HELDOUT_WINDOWS, LENGTH, 0)
    comparison = Comparison(model, find_blocks(model), calibration.tokens, compute_for(model, None))
    half = Pattern.parse("50%")
    return [comparison.measure("", r, half, windows).loss.perplexity for r in recipes]


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
