import pytest
import torch

from prunerzero import zoo
from prunerzero.errors import InputError
from prunerzero.metric import Metric
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.statistics.collectors import (
    ABSOLUTE_GRADIENT,
    ACTIVATION,
    GRADIENT,
    GRAM,
    REGIONAL,
    SIGNED_GRADIENT,
    TOKENS,
    Sample,
    finish,
)

NATIVE_GROUP = {
    "gblm": "row",
    "magnitude": "matrix",
    "pruner-zero": "row",
    "ria": "matrix",
    "wanda": "row",
}
# What a search neither starts from nor is compared with: more statistics, or an update.
OTHERS = {
    "dsnot": "dsnot",
    "gblm-l1": "none",
    "llm-pruner": "none",
    "obs": "none",
    "sparsegpt": "sparsegpt-adaptive",
    "wanda-plus-plus": "none",
    "wanda-sparsegpt": "sparsegpt",
}


def test_names_and_native_groups() -> None:
    assert {recipe.name: recipe.group for recipe in zoo.published()} == NATIVE_GROUP
    assert {r.name for r in zoo.published(mixture=True)} == NATIVE_GROUP.keys() | {"moe-pruner"}
    assert [recipe.name for recipe in zoo.published()] == sorted(NATIVE_GROUP)
    assert [recipe.name for recipe in zoo.entries()] == list(zoo.names()) == sorted(zoo.names())


@pytest.mark.parametrize("name", sorted(set(zoo.names()) - {*NATIVE_GROUP, *OTHERS, "moe-pruner"}))
def test_a_found_recipe_says_how_it_was_found(name: str) -> None:
    provenance = Recipe.named(name).provenance
    assert provenance.keys() >= {"study", "candidate", "date", "settings", "texts", "versions"}
    assert provenance["settings"]["seed"] >= 0
    assert {text["split"] for text in provenance["texts"]} == {
        "calibration",
        "validation",
        "selection",
    }
    assert Recipe.named(name).key(Pattern.parse(provenance["settings"]["pattern"]))


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_other_methods_are_complete(name: str) -> None:
    recipe = Recipe.named(name)
    assert recipe.update == OTHERS[name]
    assert recipe not in zoo.published(mixture=True)
    assert "arXiv" in recipe.source or "IEEE" in recipe.source
    assert ("github.com" in recipe.source) != ("note on the paper" in recipe.source)
    assert recipe.key(Pattern.parse("2:4")).endswith(recipe.update)


@pytest.mark.parametrize("name", sorted(NATIVE_GROUP))
def test_every_entry_is_complete(name: str) -> None:
    recipe = Recipe.named(name)
    assert recipe == zoo.load(name.upper())
    assert Metric.named(name) == recipe.metric
    assert "github.com" in recipe.source
    assert recipe.terminals <= {"W", "G", "X"}  # the paper's
    assert recipe.key(Pattern.parse("50%"))


def test_formulas_are_those_of_the_public_codes() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 8, generator=generator)
    gradient = torch.rand(6, 8, generator=generator)
    squares = torch.rand(1, 8, generator=generator)
    w = weight.abs()
    scaled = (gradient - gradient.min()) / (gradient.max() - gradient.min())
    expected = {
        "magnitude": w,
        "wanda": w * squares.sqrt(),
        "gblm": w * squares.sqrt() + w * gradient,
        "ria": (w / w.sum(dim=0) + w / w.sum(dim=1).reshape(-1, 1)) * squares.sqrt() ** 0.5,
        "pruner-zero": w * w * scaled,
    }
    given = {"W": weight, "G": gradient, "X": squares}
    for name, scores in expected.items():
        metric = Metric.named(name)
        needed = {terminal: given[terminal] for terminal in metric.terminals}
        torch.testing.assert_close(metric.score(**needed), scores, rtol=1e-5, atol=1e-7)


def test_formulas_follow_their_definitions_from_raw_data() -> None:
    """From inputs and gradients of each sequence to scores, without the terminals' collectors."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(6, 8, generator=generator, dtype=torch.float64)
    inputs = torch.randn(5, 7, 8, generator=generator, dtype=torch.float64)  # sequences, tokens
    gradients = torch.randn(5, 6, 8, generator=generator, dtype=torch.float64)
    regional = torch.randn(5, 6, 8, generator=generator, dtype=torch.float64)
    flat = inputs.reshape(-1, 8)
    gram = flat.T @ flat
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(8)
    norms = (inputs.square().sum((0, 1)) / 5).sqrt()  # of each feature, as Wanda's scaler_row
    expected = {
        # The rise of the layer's squared error when one weight goes and the others make up for it:
        # w^2 / (2 [H^-1]_jj) with H = 2 X^T X, by the constrained minimum itself.
        "obs": torch.tensor([[_least_error(damped, j) for j in range(8)]]) * weight.square(),
        # The first-order change of the mean loss when a weight goes.
        "llm-pruner": (weight * gradients.mean(0)).abs(),
        "gblm-l1": weight.abs() * norms + weight.abs() * (100 * gradients).abs().sum(0),
        "gblm": weight.abs() * norms + weight.abs() * (100 * gradients).square().sum(0).sqrt(),
        "wanda-plus-plus": weight.abs() * (100 * regional.square().mean(0).sqrt() + norms),
        "wanda-sparsegpt": weight.abs() * norms,
        "dsnot": weight.abs() * norms,
    }
    raw = {
        ACTIVATION: flat.square().sum(0, keepdim=True),
        GRAM: gram.float(),
        TOKENS: torch.full((1, 1), 35.0),
        GRADIENT: gradients.square().sum(0),
        SIGNED_GRADIENT: gradients.sum(0),
        ABSOLUTE_GRADIENT: gradients.abs().sum(0),
        REGIONAL: regional.square().sum(0),
    }
    for name, scores in expected.items():
        metric = Metric.named(name)
        terminals = finish(metric.terminals, raw, Sample(sequences=5, tokens=35))
        found = metric.score(W=weight, **{key: value.float() for key, value in terminals.items()})
        ratio = found.double() / scores  # a factor over all weights ranks nothing
        torch.testing.assert_close(
            ratio / ratio.mean(), torch.ones_like(ratio), rtol=1e-3, atol=1e-3
        )


def _least_error(gram: torch.Tensor, column: int) -> float:
    """The least d^T H d over all changes d of a row of which one weight's is 1."""
    others = [j for j in range(len(gram)) if j != column]
    best = torch.linalg.solve(gram[others][:, others], -gram[others, column])
    change = torch.zeros(len(gram), dtype=gram.dtype)
    change[column] = 1.0
    change[others] = best
    return float(change @ gram @ change)


def test_unknown_name_lists_the_zoo() -> None:
    with pytest.raises(
        InputError, match=r"magnitude, moe-pruner, obs, pruner-zero, .*did you mean 'wanda'"
    ):
        zoo.load("wnada")
