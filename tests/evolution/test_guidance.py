import math

import pytest
import torch

from prunerzero.evaluation import divergence
from prunerzero.evaluation.divergence import DenseReference
from prunerzero.evolution import guidance
from prunerzero.evolution.guidance import BAND, marginal_costs
from prunerzero.pruning.allocation import DepthKindAllocation
from prunerzero.recipe import Recipe

WANDA = Recipe.named("wanda")
ALLOCATED = Recipe.from_json(
    {
        "metric": "W * A",
        "group": "matrix",
        "allocation": DepthKindAllocation(kinds={"up_proj": 0.1}, last=-0.1).model_dump(),
    }
)


@pytest.fixture
def tools(bench, monkeypatch):
    # The floor under the tail's mass has no derivative; with all tokens kept it hardly matters.
    monkeypatch.setattr(divergence, "KEPT_TOKENS", 10_000)
    made = bench()
    made.reference = DenseReference(made.model, made.tokens, made.compute)
    return made


def bands(masker, recipe):
    """The weights next to each matrix's boundary."""
    sparsities = masker.sparsities(recipe)
    return {
        matrix.name: masker.mask(recipe, matrix, sparsities[matrix.name] - BAND)
        & ~masker.mask(recipe, matrix, sparsities[matrix.name] + BAND)
        for matrix in masker.matrices
    }


def divergence_at(tools, recipe, shares):
    """KL divergence when the weights of each band lose a share of their dense value."""
    found = bands(tools.masker, recipe)
    tools.masker.apply(recipe)
    with torch.no_grad():
        for matrix in tools.masker.matrices:
            dense = tools.masker.dense.weights[matrix.name]
            matrix.weight.sub_(shares.get(matrix.name, 0.0) * dense * found[matrix.name])
    return tools.reference.measure(tools.model).mean_kl


@pytest.mark.parametrize("recipe", [WANDA, ALLOCATED])
def test_costs_are_derivatives_of_the_divergence(tools, recipe):
    costs = marginal_costs(tools.masker, recipe, tools.reference)
    counts = {name: int(band.sum()) for name, band in bands(tools.masker, recipe).items()}
    step = 0.01
    slopes = {}
    for matrix in tools.masker.matrices:
        up = divergence_at(tools, recipe, {matrix.name: step})
        down = divergence_at(tools, recipe, {matrix.name: -step})
        slopes[matrix.name] = (up - down) / (2 * step)
    largest = max(map(abs, slopes.values()))
    assert largest > 1e-4
    for name, slope in slopes.items():
        assert costs[name] * counts[name] == pytest.approx(slope, rel=0.05, abs=0.01 * largest)
    together = divergence_at(tools, recipe, dict.fromkeys(counts, step)) - divergence_at(
        tools, recipe, dict.fromkeys(counts, -step)
    )
    expected = sum(costs[name] * count for name, count in counts.items())
    assert expected == pytest.approx(together / (2 * step), rel=0.05)


def test_the_band_is_a_tenth_of_every_matrix(tools):
    for name, band in bands(tools.masker, WANDA).items():
        assert band.float().mean() == pytest.approx(0.1, abs=0.04), name


def test_nothing_is_left_behind(tools):
    before = {name: tensor.clone() for name, tensor in tools.model.state_dict().items()}
    marginal_costs(tools.masker, WANDA, tools.reference)
    for parameter in tools.model.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
    tools.masker.apply(WANDA)
    pruned = {name: tensor.clone() for name, tensor in tools.model.state_dict().items()}
    marginal_costs(tools.masker, WANDA, tools.reference)
    for name, tensor in tools.model.state_dict().items():
        assert torch.equal(tensor, pruned[name])  # left pruned, as it says
    tools.masker.restore()
    for name, tensor in tools.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_gradients_are_freed_when_the_pass_fails(tools, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("prunerzero.evolution.guidance.position_kl", broken)
    with pytest.raises(RuntimeError):
        marginal_costs(tools.masker, WANDA, tools.reference)
    assert not any(p.requires_grad for p in tools.model.parameters())
    assert all(p.grad is None for p in tools.model.parameters())


@pytest.mark.parametrize("pattern", ["2%", "97%"])
def test_extreme_sparsities_have_a_band_too(bench, pattern):
    tools = bench(pattern)
    reference = DenseReference(tools.model, tools.tokens, tools.compute)
    costs = marginal_costs(tools.masker, Recipe.named("magnitude"), reference)
    assert costs.keys() == {matrix.name for matrix in tools.masker.matrices}
    assert any(costs.values())


def test_costs_of_batches_add_up(tools, monkeypatch):
    whole = marginal_costs(tools.masker, WANDA, tools.reference)
    tools.masker.restore()
    monkeypatch.setattr("prunerzero.evaluation.divergence.batches", lambda tokens: tokens.split(3))
    monkeypatch.setattr("prunerzero.evaluation.batches.batches", lambda tokens: tokens.split(3))
    parted = DenseReference(tools.model, tools.tokens, tools.compute)
    assert [len(batch.tokens) for batch in parted.batches] == [3, 1]
    found = marginal_costs(tools.masker, WANDA, parted)
    largest = max(map(abs, whole.values()))
    for name, cost in whole.items():
        assert found[name] == pytest.approx(cost, rel=1e-3, abs=1e-4 * largest)


def test_an_overflow_says_nothing_rather_than_spoiling_all(tools, monkeypatch):
    honest = guidance._gradients

    def overflowing(*args):
        found = honest(*args)
        spoilt, *_ = found
        found[spoilt][:] = math.inf
        return found

    whole = marginal_costs(tools.masker, WANDA, tools.reference)
    monkeypatch.setattr(guidance, "_gradients", overflowing)
    costs = marginal_costs(tools.masker, WANDA, tools.reference)
    spoilt, *others = whole
    assert costs[spoilt] == 0.0
    assert {name: costs[name] for name in others} == {name: whole[name] for name in others}
