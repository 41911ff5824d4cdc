import copy
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import make_model, make_tokens

from prunerzero.evolution import masking
from prunerzero.evolution.grammar import DEFAULT, PAPER
from prunerzero.evolution.masking import Masker
from prunerzero.metric import Metric
from prunerzero.metric.scoring import evaluate
from prunerzero.models.blocks import find_blocks, prunable_matrices
from prunerzero.models.compute import compute_for
from prunerzero.pruning.allocation import CurvesAllocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import UnusableScores, plan_sparsities, prune_blocks
from prunerzero.recipe import Recipe
from prunerzero.statistics.cache import gather_statistics

LENGTH = 32

ALLOCATION = CurvesAllocation(curves={"q_proj": (0.05, 0.15), "down_proj": (-0.1,)})


def recipe(metric, **more):
    return Recipe.from_json({"metric": metric, **more})


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_bits_equal(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        # As integers, so that the zeros' signs count.
        assert torch.equal(tensor.view(torch.int32), second[name].view(torch.int32)), name


RECIPES = {
    "wanda": recipe("W * sqrt(X)"),
    "ria": Recipe.named("ria"),
    "gradients": recipe("W * A * F ** 0.25"),
    "column": recipe("A"),  # the same for every row
    "two formulas": recipe({"attention": "W", "mlp": "W * G", "q_proj": "W * X"}),
    "allocated": recipe("W * A", allocation=ALLOCATION.model_dump()),
    "matrix": recipe("W * A", group="matrix", allocation=ALLOCATION.model_dump()),
}


@pytest.mark.parametrize("pattern", ["50%", "30%", "2:4"])
@pytest.mark.parametrize("name", RECIPES)
def test_masks_are_those_of_one_shot_pruning(bench, name, pattern):
    if pattern == "2:4" and name in ("allocated", "matrix"):
        pytest.skip("N:M fixes every matrix's sparsity")
    tools = bench(pattern)
    other = copy.deepcopy(tools.model)
    blocks = find_blocks(other)
    sparsities = plan_sparsities(blocks, RECIPES[name], tools.pattern)
    prune_blocks(
        other, blocks, RECIPES[name], tools.pattern, sparsities, tools.tokens, False, tools.compute
    )
    tools.masker.apply(RECIPES[name])
    assert_bits_equal(state(tools.model), state(other))
    assert tools.masker.sparsities(RECIPES[name]) == sparsities


@pytest.mark.parametrize("pattern", ["50%", "2:4"])
@pytest.mark.parametrize("group", ["row", "matrix"])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([PAPER, DEFAULT]), st.integers(0, 2**31), st.sampled_from([64, 1000, 1 << 18])
)
def test_applying_writes_what_the_plain_path_selects(
    bench, monkeypatch, group, pattern, grammar, seed, block
):
    tools = bench(pattern)
    monkeypatch.setattr(masking, "BLOCK", block)
    masker, one = tools.masker, Recipe(metric=grammar.tree(Random(seed)), group=group)
    dense = {matrix.name: matrix.weight.clone() for matrix in masker.matrices}
    try:
        masker.apply(one)
    except UnusableScores:
        scores = {
            matrix.name: evaluate(one.metric.expression, terminals(masker, matrix))
            for matrix in masker.matrices
        }
        assert any(not s.isfinite().all() or s.min() == s.max() for s in scores.values())
        assert all(torch.equal(matrix.weight, dense[matrix.name]) for matrix in masker.matrices)
        return
    for matrix in masker.matrices:
        scores = evaluate(one.metric.expression, terminals(masker, matrix))
        mask = tools.pattern.mask(scores.expand(matrix.weight.shape), group=group)
        expected = dense[matrix.name].masked_fill(~mask, 0.0)
        assert torch.equal(matrix.weight.view(torch.int32), expected.view(torch.int32))
        assert torch.equal(masker.value(matrix, one.metric), scores)
        assert torch.equal(masker.scores(one, matrix), scores.expand(matrix.weight.shape))


def terminals(masker, matrix):
    found = masker._statistics.of(matrix, frozenset("GXAF"))
    return {"W": masker.dense.weights[matrix.name].abs(), **found}


def test_layers_that_store_the_transpose(own_cache):
    model = make_model("gpt2")
    matrices = prunable_matrices(model)
    tokens = make_tokens(2, 16)
    compute = compute_for(model, "float32")
    statistics = gather_statistics(model, matrices, tokens, frozenset("AF"), compute)
    masker = Masker(model, matrices, statistics, Pattern.parse("50%"))
    one = recipe("W * A * F ** 0.25 / rowmean(F)")
    before = [matrix.weight.clone() for matrix in matrices]
    masker.apply(one)
    for matrix, dense in zip(matrices, before, strict=True):
        mask = masker.pattern.mask(evaluate(one.metric.expression, terminals(masker, matrix)))
        assert torch.equal(matrix.weight, dense.masked_fill(~mask, 0.0))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_show(bench, threads):
    tools = bench()
    tools.masker.apply(RECIPES["ria"])
    once = state(tools.model)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tools.masker.restore()
        tools.masker.apply(RECIPES["ria"])
    finally:
        torch.set_num_threads(before)
    assert_bits_equal(state(tools.model), once)


def test_new_statistics_count_at_once(bench):
    tools = bench()
    masker, one = tools.masker, Metric.parse("colmean(W * F)")
    matrix = masker.matrices[0]
    first = masker.value(matrix, one)
    assert masker.value(matrix, one) is first  # remembered
    others = make_tokens(2, LENGTH, seed=9)
    masker.use(
        gather_statistics(tools.model, masker.matrices, others, frozenset("AF"), tools.compute)
    )
    assert not torch.equal(masker.value(matrix, one), first)


def test_restoring_is_exact_after_any_number_of_candidates(bench):
    tools = bench()
    with torch.no_grad():
        tools.masker.matrices[0].parameter[0, :4] = torch.tensor([-0.0, 1e-42, 1e30, -1e-30])
    tools.masker.dense = type(tools.masker.dense)(tools.masker.matrices)
    before = state(tools.model)
    for one in RECIPES.values():
        tools.masker.apply(one)
        assert (tools.masker.matrices[0].weight == 0).float().mean() > 0.3
    tools.masker.restore()
    assert_bits_equal(state(tools.model), before)


def test_the_last_candidate_alone_counts(bench):
    tools = bench()
    tools.masker.apply(RECIPES["gradients"])
    once = state(tools.model)
    tools.masker.apply(RECIPES["column"])
    tools.masker.apply(RECIPES["gradients"])
    assert_bits_equal(state(tools.model), once)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (recipe("W"), recipe("sqr(W) + 3")),
        (recipe("W * X"), recipe("W * A ** 2")),
        (recipe("W"), recipe({"attention": "W", "mlp": "sqrt(W)"})),
    ],
)
def test_equal_masks_have_equal_fingerprints(bench, first, second):
    masker = bench().masker
    assert masker.sketch(first).fingerprint == masker.sketch(second).fingerprint


def test_different_masks_have_different_fingerprints(bench):
    masker = bench().masker
    prints = {name: masker.sketch(one).fingerprint for name, one in RECIPES.items()}
    assert len(set(prints.values())) == len(RECIPES)
    # A change of sparsity of a single matrix shows even where no probe lies.
    masker.probes = masker.probes[:1]
    one = recipe("W", allocation={"name": "curves", "curves": {"up_proj": [0, 0, 0.1]}})
    assert masker.sketch(one).fingerprint != masker.sketch(recipe("W")).fingerprint


def test_probes_spread_over_kinds_and_depth(bench):
    masker = bench().masker
    probes = masker.probes
    assert len({probe.kind for probe in probes}) == len(probes) == 6
    assert {probe.block for probe in probes} == {0, 1, 2}


@pytest.mark.parametrize(
    ("metric", "message"), [("mms(W - W)", "not finite"), ("A - A", "all the same")]
)
@pytest.mark.parametrize("kind", ["q_proj", "down_proj"])
def test_unusable_scores_are_refused_and_the_model_stays_dense(bench, metric, message, kind):
    tools = bench()
    before = state(tools.model)
    bad = recipe({"attention": "W", "mlp": "W", kind: metric})
    with pytest.raises(UnusableScores, match=message):
        tools.masker.apply(bad)
    assert_bits_equal(state(tools.model), before)


def test_an_unusable_recipe_has_no_fingerprint(bench):
    with pytest.raises(UnusableScores):
        bench().masker.sketch(recipe("W - W"))


def test_statistics_are_those_of_the_dense_model(bench):
    masker = bench().masker
    fresh = masker.mask(RECIPES["gradients"], masker.matrices[3], Pattern.parse("50%").sparsity)
    masker._inputs.forget()
    masker.apply(RECIPES["column"])
    again = masker.mask(RECIPES["gradients"], masker.matrices[3], Pattern.parse("50%").sparsity)
    assert torch.equal(fresh, again)


def test_a_matrix_of_every_block_is_pruned(bench):
    tools = bench("2:4")
    tools.masker.apply(RECIPES["wanda"])
    for matrix in prunable_matrices(tools.model):
        assert ((matrix.weight == 0).reshape(-1, 4).sum(1) == 2).all()
