import json
import math

import pytest
import torch

from prunerzero.evaluation import divergence
from prunerzero.evaluation.divergence import DenseReference
from prunerzero.evolution import guidance
from prunerzero.evolution.boundary import BAND
from prunerzero.evolution.genome import FACTORS, Genome
from prunerzero.evolution.guidance import Guidance, measure_guidance
from prunerzero.evolution.guidance import mean_guidance as guidance_of
from prunerzero.pruning.allocation import CurvesAllocation, MatrixShape
from prunerzero.recipe import Recipe

WANDA = Recipe.named("wanda")
PLAIN = Recipe.from_json({"metric": "W * A"})
ALLOCATED = Recipe.from_json(
    {
        "metric": {"attention": "W * A", "mlp": "W * F"},
        "group": "matrix",
        "allocation": CurvesAllocation(curves={"up_proj": (0.1, -0.1)}).model_dump(),
    }
)
RECIPES = {"row": WANDA, "matrix": ALLOCATED}


@pytest.fixture
def make(bench, monkeypatch):
    # The floor under the tail's mass has no derivative; with all tokens kept it hardly matters.
    monkeypatch.setattr(divergence, "KEPT_TOKENS", 10_000)

    def tools(pattern="50%"):
        made = bench(pattern)
        made.reference = DenseReference(made.model, made.tokens, made.compute)
        made.measure = lambda recipe: measure_guidance(made.masker, recipe, made.reference)
        return made

    return tools


def bands(masker, recipe):
    """The weights next to each matrix's boundary."""
    sparsities, found = masker.sparsities(recipe), {}
    for matrix in masker.matrices:
        scores = masker.scores(recipe, matrix)
        groups = scores if recipe.group == "row" else scores.reshape(1, -1)
        pruned = int(sparsities[matrix.name] * groups.shape[1])
        ranks = groups.argsort(1).argsort(1)
        half = int(BAND * groups.shape[1])
        near = (ranks >= pruned - half) & (ranks < pruned + half)
        found[matrix.name] = near.reshape(scores.shape)
    return found


def divergence_at(tools, recipe, found, shares):
    """KL divergence when the weights of each band lose a share of their dense value."""
    tools.masker.apply(recipe)
    with torch.no_grad():
        for matrix in tools.masker.matrices:
            dense = tools.masker.dense.weights[matrix.name]
            matrix.weight.sub_(shares.get(matrix.name, 0.0) * dense * found[matrix.name])
    return tools.reference.measure(tools.model).mean_kl


@pytest.mark.parametrize("group", RECIPES)
def test_costs_are_derivatives_of_the_divergence(make, group):
    tools, recipe = make(), RECIPES[group]
    costs = tools.measure(recipe).costs
    found = bands(tools.masker, recipe)
    counts = {name: int(band.sum()) for name, band in found.items()}
    step = 0.01

    def slope(names):
        up, down = (
            divergence_at(tools, recipe, found, dict.fromkeys(names, share))
            for share in (step, -step)
        )
        return (up - down) / (2 * step)

    slopes = {name: slope([name]) for name in counts}
    largest = max(map(abs, slopes.values()))
    assert largest > 1e-4
    for name, expected in slopes.items():
        assert costs[name] * counts[name] == pytest.approx(expected, rel=0.05, abs=0.01 * largest)
    together = sum(costs[name] * count for name, count in counts.items())
    assert together == pytest.approx(slope(counts), rel=0.05)


def with_powers(tools, recipe, powers):
    families = {matrix.kind: matrix.family for matrix in tools.masker.matrices}
    genome = Genome(recipe.metric, powers, recipe.allocation, recipe.group, families)
    return genome.recipe()


@pytest.mark.parametrize("pattern", ["50%", "matrix", "2:4"])
def test_slopes_are_those_of_the_benefits_that_are_kept(make, monkeypatch, pattern):
    tools = make("50%" if pattern == "matrix" else pattern)
    masker = tools.masker
    recipe = PLAIN.with_group("matrix") if pattern == "matrix" else PLAIN
    benefits = {
        matrix.name: sum(masker.value(matrix, factor).log() for factor in FACTORS.values())
        for matrix in masker.matrices
    }
    gradients = {name: benefits[name] / masker.dense.weights[name] for name in benefits}
    monkeypatch.setattr(guidance, "_gradients", lambda *_: (1.0, dict(gradients)))

    def kept(kind, powers):
        changed = with_powers(tools, recipe, {kind: powers})
        sparsities = masker.sparsities(changed)
        return sum(
            float(benefits[m.name][masker.mask(changed, m, sparsities[m.name])].sum())
            for m in masker.matrices
            if m.kind == kind
        )

    step, found, measured = 0.15, [], []
    for kind, slopes in tools.measure(recipe).slopes.items():
        expected = {
            factor: (kept(kind, {factor: step}) - kept(kind, {factor: -step})) / (2 * step)
            for factor in FACTORS
        }
        found.append(sum(slopes.values()))
        measured.append(sum(expected.values()))
        # A band holds few weights of so small matrices.
        assert found[-1] == pytest.approx(measured[-1], rel=0.6)
    assert sum(found) == pytest.approx(sum(measured), rel=0.1)


@pytest.mark.parametrize("pattern", ["50%", "2:4"])
def test_down_the_slopes_the_divergence_is_lower(make, pattern):
    tools = make(pattern)
    found = tools.measure(PLAIN)
    flat = [slope for slopes in found.slopes.values() for slope in slopes.values()]
    scale = 0.2 / math.hypot(*flat)
    readings = []
    for sign in (-1, 1):
        powers = {
            kind: {factor: sign * scale * slope for factor, slope in slopes.items()}
            for kind, slopes in found.slopes.items()
        }
        tools.masker.apply(with_powers(tools, PLAIN, powers))
        readings.append(tools.reference.measure(tools.model).mean_kl)
    down, up = readings
    assert down < found.divergence
    assert down < up - 0.01


@pytest.mark.parametrize("pattern", ["50%", "2:4"])
def test_every_matrix_has_a_cost_and_every_kind_its_slopes(make, pattern):
    tools = make(pattern)
    found = tools.measure(PLAIN)
    matrices = tools.masker.matrices
    names = {matrix.name for matrix in matrices} if pattern == "50%" else set()
    assert found.costs.keys() == names
    assert found.slopes.keys() == {matrix.kind for matrix in matrices}
    for slopes in found.slopes.values():
        assert slopes.keys() == FACTORS.keys()
        assert all(slope and math.isfinite(slope) for slope in slopes.values())
    tools.masker.apply(PLAIN)
    expected = tools.reference.measure(tools.model).mean_kl
    assert found.divergence == pytest.approx(expected, rel=1e-3)
    assert Guidance.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize("pattern", ["50%", "2:4"])
def test_a_factor_may_be_zero(make, pattern):
    tools = make(pattern)
    for weights in tools.masker.dense.weights.values():
        weights[:, 0] = 0.0
    for slopes in tools.measure(PLAIN).slopes.values():
        assert all(slopes.values())


def test_nothing_is_left_behind(make):
    tools = make()
    before = {name: tensor.clone() for name, tensor in tools.model.state_dict().items()}
    tools.measure(WANDA)
    for parameter in tools.model.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
    tools.masker.apply(WANDA)
    pruned = {name: tensor.clone() for name, tensor in tools.model.state_dict().items()}
    first = tools.measure(WANDA)
    for name, tensor in tools.model.state_dict().items():
        assert torch.equal(tensor, pruned[name])  # left pruned, as it says
    assert tools.measure(WANDA) == first  # what is remembered of the dense model is as it was
    tools.masker.restore()
    for name, tensor in tools.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_gradients_are_freed_when_the_pass_fails(make, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of memory")

    tools = make()
    monkeypatch.setattr("prunerzero.evolution.guidance.position_kl", broken)
    with pytest.raises(RuntimeError):
        tools.measure(WANDA)
    assert not any(p.requires_grad for p in tools.model.parameters())
    assert all(p.grad is None for p in tools.model.parameters())


def test_derivatives_of_the_loss(make):
    tools = make()
    found = measure_guidance(tools.masker, WANDA, tools.reference, "loss")
    assert found.divergence == 1.0
    near = bands(tools.masker, WANDA)
    shares = dict.fromkeys(near, 0.01)

    def loss(sign):
        signed = {name: sign * share for name, share in shares.items()}
        divergence_at(tools, WANDA, near, signed)
        return tools.reference.measure(tools.model).mean_loss

    expected = (loss(1) - loss(-1)) / 0.02
    together = sum(found.costs[name] * int(band.sum()) for name, band in near.items())
    assert together == pytest.approx(expected, rel=0.05)


def test_derivatives_of_several_targets_are_means_of_logarithms():
    def shapes(blocks):
        return [MatrixShape(f"{blocks}.{n}", "q_proj", n, blocks, 4, 4) for n in range(blocks)]

    def guidance(blocks, divergence, costs, slope):
        names = [shape.name for shape in shapes(blocks)]
        return Guidance(divergence, dict(zip(names, costs, strict=False)), {"q_proj": {"A": slope}})

    first, deeper = guidance(2, 1.0, [1.0, 3.0], 0.5), guidance(3, 3.0, [0.0, 1.0, 2.0], 0.3)
    both = guidance_of([first, deeper], [shapes(2), shapes(3)])
    assert both.slopes["q_proj"]["A"] / both.divergence == pytest.approx((0.5 + 0.1) / 2)
    assert both.costs == pytest.approx({"2.0": (0.5 + 0.0) / 2, "2.1": (1.5 + 2.0) / 2})
    # N:M has no costs, one that cannot be measured no derivatives, and a mean of noise no ratios.
    fixed = guidance(3, 2.0, [], 0.4)
    both = guidance_of([fixed, first], [shapes(3), shapes(2)])
    assert both.costs == pytest.approx({"3.0": 0.5, "3.1": 1.0, "3.2": 1.5})
    both = guidance_of([fixed, guidance(3, 0.0, [], 0.0)], [shapes(3)] * 2)
    assert both.slopes["q_proj"]["A"] / both.divergence == pytest.approx(0.1)
    assert both.costs == {}
    noise = guidance(2, 1.0, [-1.0, 0.5], 0.5)
    assert set(guidance_of([noise, noise], [shapes(2)] * 2).costs.values()) == {0.0}


@pytest.mark.parametrize("pattern", ["2%", "97%"])
def test_extreme_sparsities_have_derivatives_too(make, pattern):
    tools = make(pattern)
    found = tools.measure(Recipe.named("magnitude"))
    assert found.costs.keys() == {matrix.name for matrix in tools.masker.matrices}
    assert any(found.costs.values())
    assert all(any(slopes.values()) for slopes in found.slopes.values())


def test_derivatives_of_batches_add_up(make, monkeypatch):
    tools = make()
    whole = tools.measure(WANDA)
    tools.masker.restore()
    monkeypatch.setattr(
        "prunerzero.evaluation.divergence.batches", lambda tokens, _: tokens.split(3)
    )
    monkeypatch.setattr("prunerzero.evaluation.batches.batches", lambda tokens, _: tokens.split(3))
    tools.reference = DenseReference(tools.model, tools.tokens, tools.compute)
    assert [len(batch.tokens) for batch in tools.reference.batches] == [3, 1]
    found = tools.measure(WANDA)
    assert found.divergence == pytest.approx(whole.divergence, rel=1e-4)
    largest = max(map(abs, whole.costs.values()))
    for name, cost in whole.costs.items():
        assert found.costs[name] == pytest.approx(cost, rel=1e-3, abs=1e-4 * largest)
    for kind, slopes in whole.slopes.items():
        largest = max(map(abs, slopes.values()))
        assert found.slopes[kind] == pytest.approx(slopes, rel=1e-3, abs=1e-3 * largest)


def test_an_overflow_says_nothing_rather_than_spoiling_all(make, monkeypatch):
    tools = make()
    whole = tools.measure(WANDA)
    honest = guidance._gradients
    spoilt = tools.masker.matrices[0]
    assert spoilt.kind == "q_proj"

    def overflowing(*args):
        found, gradients = honest(*args)
        gradients[spoilt.name][:] = math.inf
        return found, gradients

    monkeypatch.setattr(guidance, "_gradients", overflowing)
    found = tools.measure(WANDA)
    assert found.costs == whole.costs | {spoilt.name: 0.0}
    assert all(math.isfinite(slope) for slope in found.slopes["q_proj"].values())
    assert found.slopes["q_proj"] != whole.slopes["q_proj"]
    assert found.slopes == whole.slopes | {"q_proj": found.slopes["q_proj"]}


@pytest.mark.parametrize("pattern", ["50%", "2:4"])
def test_a_recipe_that_cannot_rank_has_no_derivatives(make, pattern):
    tools = make(pattern)
    expected = tools.measure(WANDA)
    found = tools.measure(Recipe.from_json({"metric": "W * mms(W - W)"}))
    assert found.divergence == 0.0
    assert found.costs == dict.fromkeys(expected.costs, 0.0)
    assert found.slopes == dict.fromkeys(expected.slopes, dict.fromkeys(FACTORS, 0.0))
    assert not tools.model.lm_head.weight.isnan().any()


def test_predictions_that_are_not_finite_give_a_document_without_nan(make, monkeypatch):
    tools = make()
    monkeypatch.setattr(
        "prunerzero.evolution.guidance.position_kl", lambda logits, *_: logits.sum(-1) * math.nan
    )
    found = tools.measure(WANDA)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["divergence"] == 0.0
