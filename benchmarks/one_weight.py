"""One weight of the demo model through the whole pipeline: the figures of docs/one-weight.md.

    python benchmarks/one_weight.py --json

Of the matrix's first row it takes the weight that Wanda prunes and the found recipe keeps by the
widest margin, so that the two masks have something to differ in. Nothing here is a measurement
to conclude from: the texts are short, so that it takes a minute or two.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import Any

from torch import Tensor

from prunerzero import Pattern, Recipe, load_model
from prunerzero.data.sources import load_documents
from prunerzero.data.splits import Split
from prunerzero.data.windows import sample_windows
from prunerzero.evaluation import measure_loss
from prunerzero.evaluation.divergence import DenseReference
from prunerzero.evolution.masking import Masker
from prunerzero.models import compute_for, prunable_matrices
from prunerzero.statistics.cache import gather_statistics


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--matrix", type=int, default=-4, help="which of the middle block's")
    parser.add_argument("--recipe", default="found-smollm2-50")
    parser.add_argument("--calibration", default="wikipedia")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = walk(
        arguments.model,
        Recipe.from_text(arguments.recipe),
        arguments.calibration,
        arguments.windows,
        arguments.sequence_length,
        arguments.matrix,
    )
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name}: {value}")
    return 0


def walk(
    name: str, recipe: Recipe, source: str, count: int, length: int, which: int
) -> dict[str, Any]:
    """All figures of the walk, by name."""
    model, tokenizer = load_model(name, dtype="float32")
    compute, matrices = compute_for(model, "float32"), prunable_matrices(model)
    documents = load_documents(source)

    def drawn(split: Split) -> Any:
        return sample_windows(documents, tokenizer, split, count, length)

    calibration, selection, heldout = map(
        drawn, (Split.CALIBRATION, Split.SELECTION, Split.HELDOUT)
    )
    wanda = Recipe.named("wanda")
    statistics = gather_statistics(
        model, matrices, calibration.tokens, recipe.terminals | frozenset("XAF"), compute
    )
    pattern = Pattern.parse("50%")
    masker = Masker(model, matrices, statistics, pattern)
    middle = [m for m in matrices if m.block == matrices[len(matrices) // 2].block]
    matrix = middle[which]
    sparsity = masker.sparsities(recipe)[matrix.name]

    scores = {"wanda": masker.scores(wanda, matrix), "found": masker.scores(recipe, matrix)}
    masks = {
        "wanda": masker.mask(wanda, matrix, pattern.sparsity),
        "found": masker.mask(recipe, matrix, sparsity),
    }
    columns = matrix.shape.columns
    places = {each: ranks(score[0]) for each, score in scores.items()}
    differing = (masks["found"] & ~masks["wanda"])[0]
    margin = (places["found"] - places["wanda"]).masked_fill(~differing, -columns)
    column = int(margin.argmax())
    tensors = statistics.of(matrix, frozenset("XAF"))
    weight = float(matrix.weight[0, column])
    start = column // 4 * 4
    reference = DenseReference(model, selection.tokens, compute)

    def readings(applied: Recipe | None) -> dict[str, float]:
        if applied is not None:
            masker.apply(applied)
        divergence = reference.measure(model)
        loss = measure_loss(model, heldout, compute)
        masker.restore()
        return {"kl": divergence.mean_kl, "heldout_perplexity": math.exp(loss.mean)}

    return {
        "text": tokenizer.decode(calibration.tokens[0, :24]),
        "tokens": calibration.tokens[0, :8].tolist(),
        "windows": [count, length],
        "matrix": matrix.name,
        "shape": [matrix.shape.rows, columns],
        "place": [0, column],
        "weight": weight,
        "magnitude_rank": int(ranks(matrix.weight[0].detach().abs())[column]),
        "X": float(tensors["X"].reshape(-1)[column]),
        "A": float(tensors["A"].reshape(-1)[column]),
        "A_median": float(tensors["A"].median()),
        "F": float(tensors["F"][0, column]),
        "F_median_of_row": float(tensors["F"][0].median()),
        "wanda_score": float(scores["wanda"][0, column]),
        "wanda_rank": int(places["wanda"][column]),
        "wanda_pruned_of_row": columns // 2,
        "wanda_keeps": bool(masks["wanda"][0, column]),
        "two_of_four": {
            "columns": list(range(start, start + 4)),
            "scores": scores["wanda"][0, start : start + 4].tolist(),
            "kept": Pattern.parse("2:4").mask(scores["wanda"])[0, start : start + 4].tolist(),
        },
        "found_formula": str(recipe.metric_for(matrix.kind, matrix.family)),
        "found_score": float(scores["found"][0, column]),
        "found_rank": int(places["found"][column]),
        "found_sparsity": float(sparsity),
        "found_pruned_of_row": math.floor(columns * sparsity),
        "found_keeps": bool(masks["found"][0, column]),
        "same_in_matrix": float((masks["wanda"] == masks["found"]).float().mean()),
        "readings": {
            "dense": readings(None),
            "wanda": readings(wanda),
            "found": readings(recipe),
        },
    }


def ranks(row: Tensor) -> Tensor:
    """How many scores of the row go first: place 0 is the lowest."""
    return row.argsort(stable=True).argsort()


if __name__ == "__main__":
    sys.exit(main())
