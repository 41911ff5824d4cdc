"""The walk of docs/one-weight.md, on a tiny model: its figures fit one another."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from documented import ROOT
from tiny_models import make_text, save_model

from prunerzero import Recipe


@pytest.fixture
def walk(tmp_path: Path, own_cache: Path) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("one_weight", ROOT / "benchmarks/one_weight.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(make_text(number, 2100) for number in range(12)))
    model = str(save_model(tmp_path / "model"))
    recipe = Recipe.from_text("W * A * F ** 0.5")
    found: dict[str, Any] = module.walk(model, recipe, str(text), 2, 32, -4)
    return found


def test_the_figures_fit_one_another(walk: dict[str, Any]) -> None:
    count, length = walk["windows"]
    assert (count, length) == (2, 32)
    # X is a sum a window, A a root mean square over the same tokens.
    assert walk["X"] == pytest.approx(walk["A"] ** 2 * length, rel=1e-4)
    assert walk["wanda_score"] == pytest.approx(abs(walk["weight"]) * walk["X"] ** 0.5, rel=1e-4)
    formula = abs(walk["weight"]) * walk["A"] * walk["F"] ** 0.5
    assert walk["found_score"] == pytest.approx(formula, rel=1e-4)
    for each in ("wanda", "found"):
        assert walk[f"{each}_keeps"] == (walk[f"{each}_rank"] >= walk[f"{each}_pruned_of_row"])
    assert (walk["wanda_keeps"], walk["found_keeps"]) == (False, True)
    assert sum(walk["two_of_four"]["kept"]) == 2
    assert walk["place"][1] in walk["two_of_four"]["columns"]
    readings = walk["readings"]
    assert readings["dense"]["kl"] == pytest.approx(0, abs=1e-5)
    assert readings["wanda"]["kl"] > 0
    assert readings["wanda"]["kl"] != readings["found"]["kl"]
