import pytest
from tiny_models import make_model, make_tokens

from prunerzero.data.documents import Split
from prunerzero.data.windows import Windows
from prunerzero.errors import InputError
from prunerzero.evaluation import automatic
from prunerzero.evaluation.automatic import choose
from prunerzero.evaluation.comparison import Comparison
from prunerzero.models.blocks import find_blocks
from prunerzero.models.compute import compute_for
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe

pytestmark = pytest.mark.usefixtures("own_cache")
HALF = Pattern.parse("50%")
VALIDATION = Windows(make_tokens(6, seed=2), Split.VALIDATION, "made", ("a", "b"))
NAMES = ("gblm", "magnitude", "wanda", "sparsegpt")


@pytest.fixture
def comparison():
    model = make_model()
    return Comparison(model, find_blocks(model), make_tokens(4), compute_for(model, "float32"))


def candidates(*names):
    return [(name, Recipe.named(name)) for name in names]


def test_the_best_on_validation_text_is_taken(comparison):
    said = []
    choice = choose(comparison, candidates(*NAMES), HALF, VALIDATION, 600, tell=said.append)
    measured = {
        name: comparison.measure(name, Recipe.named(name), HALF, VALIDATION).loss.perplexity
        for name in NAMES
    }
    assert choice.perplexities == pytest.approx(measured)
    assert choice.name == min(measured, key=measured.get)
    assert choice.recipe.metric == Recipe.named(choice.name).metric
    assert choice.recipe.provenance["texts"][-1]["documents"] == ["a", "b"]
    assert choice.recipe.provenance["chosen_among"]["name"] == choice.name
    for name, interval in choice.against.items():
        assert interval.change == pytest.approx(measured[choice.name] / measured[name] - 1)
    assert len(said) == 4
    assert said[0].startswith("wanda: ")
    second = sorted(measured, key=measured.get)[1]
    assert f"takes {choice.name}: perplexity" in str(choice)
    assert f"against {second}, the next of 4" in str(choice)


def test_what_does_not_fit_the_budget_is_named(comparison, monkeypatch):
    monkeypatch.setattr(
        automatic, "recipe_seconds", lambda recipe, *_, **__: 1e6 if recipe.new_values else 1e-6
    )
    choice = choose(comparison, candidates("sparsegpt", "wanda"), HALF, VALIDATION, 60)
    assert choice.name == "wanda"
    assert "would take" in choice.left_out["sparsegpt"]
    assert choice.against == {}
    assert "the next of" not in str(choice)


def test_recipes_that_rank_nothing_are_left_out(comparison):
    bad = ("bad", Recipe.from_text("mms(W - W) + A * 0"))
    choice = choose(comparison, [bad, *candidates("wanda")], HALF, VALIDATION, 60,
                    left_out={"other": "has no router"})  # fmt: skip
    assert choice.name == "wanda"
    assert "not finite" in choice.left_out["bad"]
    assert choice.left_out["other"] == "has no router"
    with pytest.raises(InputError, match="none can be measured"):
        choose(comparison, [bad], HALF, VALIDATION, 60)


def test_heldout_text_chooses_nothing(comparison):
    held = Windows(make_tokens(6), Split.HELDOUT, "made")
    with pytest.raises(InputError, match="not for validation"):
        choose(comparison, candidates("wanda"), HALF, held, 60)
