import pytest
import torch
from tiny_models import make_model, make_tokens

from prunerzero.data.windows import Windows
from prunerzero.evaluation.comparison import Comparison
from prunerzero.evaluation.perplexity import measure_loss
from prunerzero.metric import Metric
from prunerzero.models.blocks import find_blocks
from prunerzero.models.compute import compute_for
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import UnusableScores, prune
from prunerzero.recipe import Recipe

pytestmark = pytest.mark.usefixtures("own_cache")
CALIBRATION, WINDOWS = make_tokens(4), Windows(make_tokens(6, seed=2))


def compare(model, **options):
    return Comparison(
        model, find_blocks(model), CALIBRATION, compute_for(model, "float32"), **options
    )


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("pattern", ["50%", "2:4"])
def test_every_recipe_is_measured_on_the_dense_model(sequential, pattern):
    model, pattern = make_model(), Pattern.parse(pattern)
    comparison = compare(model, sequential=sequential)
    dense = comparison.measure_dense(WINDOWS)
    for name in ("magnitude", "wanda", "gblm", "ria", "pruner-zero"):
        outcome = comparison.measure(name, Recipe.named(name), pattern, WINDOWS)
        alone = make_model()
        result = prune(alone, None, Recipe.named(name), pattern, calibration=CALIBRATION,
                       sequential=sequential, dtype="float32")  # fmt: skip
        assert outcome.loss == measure_loss(alone, WINDOWS, compute_for(alone, "float32"))
        assert outcome.sparsity == result.sparsity == 0.5
        assert outcome.loss != dense
    assert comparison.measure_dense(WINDOWS) == dense
    original = make_model().state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["sparsegpt", "dsnot"])
def test_what_is_remembered_measures_alike(name):
    comparison = compare(make_model())
    recipe, pattern = Recipe.named(name), Pattern.parse("50%")
    first = comparison.measure(name, recipe, pattern, WINDOWS, remember=True)
    again = comparison.measure(name, recipe, pattern, WINDOWS)
    assert first.loss == again.loss
    assert first.sparsity == again.sparsity == 0.5
    original = make_model().state_dict()
    state = comparison.model.state_dict()
    assert all(torch.equal(tensor, original[key]) for key, tensor in state.items())


def test_a_recipe_that_fails_leaves_the_model_dense():
    model = make_model()
    recipe = Recipe(metric={"attention": Metric.parse("W"), "mlp": Metric.parse("mms(W - W)")})
    with pytest.raises(UnusableScores, match="gate_proj"):
        compare(model).measure("bad", recipe, Pattern.parse("50%"), WINDOWS)
    original = make_model().state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in model.state_dict().items())


def test_steps_are_reported_by_name():
    seen = []
    comparison = compare(make_model(), report=lambda *step: seen.append(step))
    comparison.measure_dense(WINDOWS)
    comparison.measure("wanda", Recipe.named("wanda"), Pattern.parse("50%"), WINDOWS)
    assert ("dense: token ids", 6, 6) in seen
    assert ("wanda: pruning", 3, 3) in seen
    assert seen[-1] == ("wanda: token ids", 6, 6)
