"""How results show themselves: as HTML, and as data frames."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest
from tiny_models import make_model, make_text, make_tokenizer, make_tokens, save_model

from prunerzero import Metric, Pattern, Recipe, evaluate, prune, search
from prunerzero.evaluation.zeroshot.results import Accuracy, TaskResult, ZeroShot
from prunerzero.evolution import Budget

pytestmark = pytest.mark.usefixtures("own_cache")
pd = pytest.importorskip("pandas")
HALF = Pattern.parse("50%")


def cells(html: str) -> list[str]:
    """The texts of all cells of a table."""
    return [
        unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall(r"<t[hd].*?</t[hd]>", html)
    ]


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": make_text(n, 1200)}) for n in range(12)))
    return str(path)


def test_pruning_and_its_evaluation(text: str) -> None:
    model, dense = make_model(), make_model()
    result = prune(model, None, Metric.parse("W * A"), HALF, calibration=make_tokens(3))
    assert "50%" in cells(result._repr_html_())
    frame = result.to_frame()
    assert list(frame["name"]) == [matrix.name for matrix in result.matrices]
    assert frame["sparsity"].mean() == pytest.approx(0.5, abs=0.02)
    options = {"windows": 2, "sequence_length": 32}
    found = evaluate(model, make_tokenizer(), [text], against=dense, **options)
    [row] = found.to_frame().to_dict("records")
    name, perplexity = next(iter(found.perplexity.items()))
    assert (row["text"], row["perplexity"]) == (name, perplexity)
    assert row["low"] <= row["change"] <= row["high"]
    assert f"{perplexity:.5g}" in cells(found._repr_html_())
    alone = evaluate(dense, make_tokenizer(), [text], **options)
    assert row["dense_perplexity"] == alone.perplexity[name]
    assert list(alone.to_frame().columns) == ["text", "perplexity", "bits_per_byte"]


def test_a_search(text: str, tmp_path: Path) -> None:
    result = search(
        str(save_model(tmp_path / "tiny")), "50%", study=tmp_path / "s.db", calibration=text,
        budget=Budget(candidates=3), samples=2, sequence_length=32,
    )  # fmt: skip
    frame = result.to_frame()
    assert frame["recipe"].iloc[-1] == "best found"
    assert frame["perplexity"].iloc[-1] == result.closing.best.loss.perplexity
    assert {"dense", *result.to_json()["baselines"]} <= set(frame["recipe"])
    shown = cells(result._repr_html_())
    assert {"best found", "wanda", f"{result.closing.dense.loss.perplexity:.5g}"} <= set(shown)
    assert result.best.expression in " ".join(shown)


def test_tasks() -> None:
    accuracy = Accuracy((1, 0, 1, 1), 0.25)
    task = TaskResult({"acc": accuracy, "acc_norm": accuracy}, 9, "hash", 0, "1")
    [row] = ZeroShot({"order": task}, {}).to_frame().to_dict("records")
    assert (row["task"], row["items"], row["acc"]) == ("order", 4, 0.75)
    assert row["acc_chance"] == 0.25
    assert cells(ZeroShot({"order": task}, {})._repr_html_())[-1] == "0.25"


def test_recipes_are_typeset_and_their_text_is_escaped() -> None:
    pytest.importorskip("sympy")
    recipe = Recipe.from_json(
        {"name": "<b>", "metric": {"attention": "W * A", "mlp": "sqrt(W)"}, "update": "sparsegpt"}
    )
    html = recipe._repr_html_()
    assert html.count("<math>") == 2
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert {"attention", "mlp", "per row", "sparsegpt"} <= set(cells(html))
