"""The whole way on the bundled real model and real text."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from prunerzero import Metric, Pattern, evaluate, load_model, prune
from prunerzero.cli.app import main
from prunerzero.data.sources import evaluation_documents
from prunerzero.data.splits import Split
from prunerzero.data.windows import sample_windows
from prunerzero.evaluation import measure_loss
from prunerzero.models import prunable_matrices


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, Any]:
    return load_model("smollm2")


def test_what_can_be_pruned_in_the_demo_model(smollm2: tuple[Any, Any]) -> None:
    matrices = prunable_matrices(smollm2[0])
    assert len(matrices) == 30 * 7
    assert sum(matrix.weight.numel() for matrix in matrices) == 106_168_320


@pytest.mark.parametrize("source", ["wikipedia", "news", "web"])
def test_perplexity_equals_an_independent_computation(
    smollm2: tuple[Any, Any], tmp_path: Path, source: str
) -> None:
    """From text to perplexity in float32, with nothing of ours."""
    model, tokenizer = smollm2
    path = tmp_path / "text.txt"
    text = "\n\n".join(document.text for document in evaluation_documents(source))[:1500]
    path.write_text(text)
    found = evaluate(model, tokenizer, [str(path)], sequence_length=128, dtype="float32")

    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    total, count = 0.0, 0
    for start in range(0, ids.shape[1] - 127, 128):
        window = ids[:, start : start + 128]
        with torch.no_grad():
            logits = model(window).logits
        total += torch.nn.functional.cross_entropy(logits[0, :-1], window[0, 1:], reduction="sum")
        count += 127
    assert count >= 254
    assert found.perplexity["text.txt"] == pytest.approx(math.exp(total / count), rel=1e-4)
    length = len(tokenizer.decode(ids[0, : count // 127 * 128]).encode())
    bits = float(total) / math.log(2) / length
    assert found.bits_per_byte["text.txt"] == pytest.approx(bits, rel=0.02)


def test_wanda_beats_magnitude_and_hits_the_pattern(smollm2: tuple[Any, Any]) -> None:
    model, tokenizer = smollm2
    windows = sample_windows("wikipedia", tokenizer, Split.HELDOUT, 4, 128)
    dense = {matrix.name: matrix.weight.clone() for matrix in prunable_matrices(model)}
    perplexities = {}
    try:
        for name in ("magnitude", "wanda"):
            result = prune(
                model,
                tokenizer,
                Metric.named(name),
                Pattern.parse("50%"),
                samples=4,
                sequence_length=128,
            )
            # The quantisation grid has zeros of its own, so a little more than half is zero.
            assert 0.5 <= result.sparsity < 0.52
            perplexities[name] = measure_loss(model, windows).perplexity
            for matrix in prunable_matrices(model):
                matrix.weight.copy_(dense[matrix.name])
    finally:
        for matrix in prunable_matrices(model):
            matrix.weight.copy_(dense[matrix.name])
    assert perplexities["wanda"] < perplexities["magnitude"]


@pytest.mark.slow
def test_search_finds_what_prune_and_evaluate_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.db"
    size = ["--samples", "4", "--sequence-length", "128"]
    run = ["search", "smollm2", "--pattern", "50%", "--candidates", "16", "--study", str(study)]
    assert main([*run, *size, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["candidates"] == 16
    assert (
        found["best"]["heldout_perplexity"] < found["baselines"]["magnitude"]["heldout_perplexity"]
    )
    output = tmp_path / "pruned"
    recipe = found["best"]["recipe"]
    pruning = ["prune", "smollm2", "--recipe", recipe, "--pattern", "50%", "--output", str(output)]
    assert main([*pruning, *size, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sparsity"] == pytest.approx(0.5, abs=0.02)
    evaluation = ["evaluate", str(output), "--windows", "24", "--sequence-length", "128", "--json"]
    assert main(evaluation) == 0
    measured = json.loads(capsys.readouterr().out)["perplexity"]["wikipedia"]
    # Same recipe, calibration and held-out windows as in the search's closing table.
    assert measured == pytest.approx(found["best"]["heldout_perplexity"], rel=1e-3)
