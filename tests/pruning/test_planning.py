import pytest
import torch
from tiny_models import make_model, make_tokens

from prunerzero.errors import InputError
from prunerzero.models.blocks import find_blocks, prunable_matrices
from prunerzero.models.compute import compute_for
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.planning import planned, ranked_allocation, settled
from prunerzero.pruning.pruner import plan_sparsities, prune
from prunerzero.pruning.shared import SharedData
from prunerzero.recipe import Recipe

pytestmark = pytest.mark.usefixtures("own_cache")
HALF, TOKENS = Pattern.parse("50%"), make_tokens(4)
OWL = Recipe.from_json({"metric": "W * A", "allocation": {"name": "owl"}})


def by_hand(model, recipe, sparsity):
    """Pruned weights of each matrix where all are ranked together by magnitude, then clipped."""
    matrices = prunable_matrices(model)
    everything = torch.cat([matrix.weight.abs().flatten() for matrix in matrices])
    threshold = everything.sort().values[int(sparsity * len(everything))]
    return {m.name: (m.weight.abs() < threshold).float().mean().item() for m in matrices}


@pytest.mark.parametrize("sparsity", [0.3, 0.5])
def test_all_weights_are_ranked_together(sparsity):
    model = make_model()
    for index, matrix in enumerate(prunable_matrices(model)):
        matrix.weight.mul_(1 + 0.05 * index)
    recipe = Recipe.from_text("W", "model")
    expected = by_hand(model, recipe, sparsity)
    result = prune(model, None, recipe, Pattern.unstructured(sparsity))
    assert result.sparsity == pytest.approx(sparsity, abs=1e-3)
    for matrix in result.matrices:  # whole weights a row
        assert matrix.sparsity == pytest.approx(expected[matrix.name], abs=1.5 / matrix.columns)
    assert result.settings["recipe"]["group"] == "matrix"
    assert result.settings["recipe"]["allocation"]["name"] == "curves"


def test_no_matrix_is_emptied_or_spared():
    model = make_model()
    small, large = prunable_matrices(model)[:2]
    small.weight.mul_(1e-3)
    large.weight.mul_(1e3)
    result = prune(model, None, Recipe.from_text("W", "model"), HALF)
    found = {matrix.name: matrix.sparsity for matrix in result.matrices}
    assert found[small.name] == pytest.approx(0.95, abs=1 / 32)
    assert found[large.name] == pytest.approx(0.05, abs=1 / 32)
    assert result.sparsity == pytest.approx(0.5, abs=1e-3)


def test_scores_with_statistics_are_ranked_too():
    model = make_model()
    blocks, recipe = find_blocks(model), Recipe.from_text("W * A", "model")
    shared = SharedData(model, blocks, TOKENS, compute_for(model, "float32"))
    found = planned(recipe, HALF, blocks, shared)
    sparsities = plan_sparsities(blocks, found, HALF)
    statistics = shared.dense(frozenset("A"))
    scores = {
        m.name: (m.weight.abs() * statistics.of(m, frozenset("A"))["A"]).flatten()
        for block in blocks
        for m in block.matrices
    }
    everything = torch.cat(list(scores.values()))
    threshold = everything.sort().values[len(everything) // 2]
    for name, values in scores.items():
        expected = (values < threshold).float().mean().item()
        assert float(sparsities[name]) == pytest.approx(min(max(expected, 0.05), 0.95), abs=0.05)


def test_equal_scores_everywhere_leave_the_allocation_uniform():
    model = make_model()
    for matrix in prunable_matrices(model):
        matrix.weight.fill_(0.25)
    allocation = ranked_allocation(Recipe.from_text("W", "matrix"), HALF, find_blocks(model), None)
    assert len({value for knots in allocation.curves.values() for value in knots}) == 1


def test_owl_is_part_of_a_recipe():
    model = make_model()
    for matrix in find_blocks(model)[-1].matrices:
        matrix.weight.view(-1)[::50] = 30.0
    result = prune(model, None, OWL, HALF, calibration=TOKENS)
    assert result.sparsity == pytest.approx(0.5, abs=1e-3)
    last = [m.sparsity for m in result.matrices if m.name.startswith("model.layers.2.")]
    first = [m.sparsity for m in result.matrices if m.name.startswith("model.layers.0.")]
    assert max(last) < min(first)
    assert Recipe.from_json(OWL.to_json()) == OWL


def test_what_cannot_be_had_is_refused():
    nm = Pattern.parse("2:4")
    with pytest.raises(InputError, match=r"allocation 'owl': 2:4 fixes"):
        settled(OWL, nm)
    with pytest.raises(InputError, match="give one of the two"):
        settled(OWL.with_group("model"), HALF)
    with pytest.raises(InputError, match="follows from the whole dense model"):
        plan_sparsities(find_blocks(make_model()), OWL, HALF)
    model_wide = Recipe.from_text("W", "model")
    assert settled(model_wide, nm) == model_wide  # N:M ignores the group


def test_a_router_is_not_made_up():
    blocks = find_blocks(make_model())
    with pytest.raises(InputError, match=r"metric 'moe-pruner': terminal R .* no router"):
        plan_sparsities(blocks, Recipe.named("moe-pruner"), HALF)
    mixture = find_blocks(make_model("mixtral"))
    assert plan_sparsities(mixture, Recipe.named("moe-pruner"), HALF)
