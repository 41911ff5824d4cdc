import pytest
import torch

from prunerzero import zoo
from prunerzero.errors import InputError
from prunerzero.metric import Metric
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe

NATIVE_GROUP = {
    "gblm": "row",
    "magnitude": "matrix",
    "pruner-zero": "row",
    "ria": "matrix",
    "wanda": "row",
}
# What a search neither starts from nor is compared with: more statistics, or an update.
OTHERS = {"dsnot": "dsnot", "llm-pruner": "none", "obs": "none", "sparsegpt": "sparsegpt-adaptive"}


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


def test_unknown_name_lists_the_zoo() -> None:
    with pytest.raises(
        InputError, match=r"magnitude, moe-pruner, obs, pruner-zero, .*did you mean 'wanda'"
    ):
        zoo.load("wnada")
