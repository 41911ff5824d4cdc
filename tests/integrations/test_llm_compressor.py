"""The modifier in the installed llm-compressor: its own pipeline gives our masks."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny_models import make_tokenizer, make_tokens, save_model

from prunerzero import Metric, Pattern, Recipe, load_model, prune
from prunerzero.errors import InputError
from prunerzero.models.blocks import prunable_matrices

llmcompressor = pytest.importorskip("llmcompressor")
module = pytest.importorskip("prunerzero.integrations.llm_compressor")

TOKENS = make_tokens(4)


@pytest.fixture
def model(tmp_path: Path) -> torch.nn.Module:
    """Of a directory, which llm-compressor reads the configuration from."""
    return load_model(str(save_model(tmp_path / "tiny")), dtype="float32")[0]


def loader() -> torch.utils.data.DataLoader:
    rows = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in TOKENS]
    return torch.utils.data.DataLoader(rows, batch_size=1)


def compressed(recipe: object, model: torch.nn.Module) -> torch.nn.Module:
    pruned = copy.deepcopy(model)
    llmcompressor.oneshot(model=pruned, tokenizer=make_tokenizer(), dataset=loader(), recipe=recipe)
    return pruned


def ours(recipe: Recipe | Metric, pattern: str, model: torch.nn.Module) -> torch.nn.Module:
    pruned = copy.deepcopy(model)
    prune(pruned, None, recipe, Pattern.parse(pattern), calibration=TOKENS, dtype="float32")
    return pruned


def agreement(first: torch.nn.Module, second: torch.nn.Module) -> float:
    """Share of weights that are zero in both models or in neither."""
    pairs = zip(prunable_matrices(first), prunable_matrices(second), strict=True)
    same = [(a.weight == 0) == (b.weight == 0) for a, b in pairs]
    return float(torch.cat([part.flatten() for part in same]).float().mean())


@pytest.mark.parametrize(
    ("metric", "pattern"),
    [
        ("W * sqrt(X)", "50%"),
        ("W * A", "2:4"),
        ("W", "50%"),
        ("W * A * F", "50%"),
        ("W * B", "2:4"),
    ],
)
def test_its_pipeline_gives_our_masks(metric: str, pattern: str, model: torch.nn.Module) -> None:
    theirs = compressed([module.RecipePruningModifier(recipe=metric, pattern=pattern)], model)
    expected = ours(Metric.parse(metric), pattern, model)
    assert agreement(theirs, expected) > 0.999
    assert agreement(theirs, model) == pytest.approx(0.5, abs=0.01)


def test_a_recipe_with_formulas_by_kind_an_allocation_and_an_update(model: torch.nn.Module) -> None:
    recipe = Recipe.from_json(
        {
            "metric": {"attention": "W * A", "mlp": "W * sqrt(A)"},
            "allocation": {"name": "curves", "curves": {"q_proj": [0.1, -0.1], "up_proj": [0.05]}},
            "update": "sparsegpt",
        }
    )
    theirs = compressed([module.RecipePruningModifier(recipe=recipe, pattern="50%")], model)
    expected = ours(recipe, "50%", model)
    assert agreement(theirs, expected) > 0.995
    for a, b in zip(prunable_matrices(theirs), prunable_matrices(expected), strict=True):
        both = (a.weight != 0) & (b.weight != 0)
        torch.testing.assert_close(a.weight[both], b.weight[both], rtol=1e-2, atol=1e-3)


def test_named_in_yaml(tmp_path: Path, model: torch.nn.Module) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "pruning_stage:\n  pruning_modifiers:\n    RecipePruningModifier:\n"
        "      recipe: wanda\n      pattern: '2:4'\n      exclude: ['*.o_proj']\n"
    )
    theirs = compressed(str(file), model)
    for matrix in prunable_matrices(theirs):
        zeros = float((matrix.weight == 0).float().mean())
        assert zeros == (0.0 if matrix.kind == "o_proj" else 0.5)


def test_wrong_input_is_one_line() -> None:
    with pytest.raises((InputError, ValueError), match="did you mean 'wanda'"):
        module.RecipePruningModifier(recipe="wnada", pattern="50%")
    with pytest.raises((InputError, ValueError), match="pattern '50'"):
        module.RecipePruningModifier(recipe="wanda", pattern="50")
