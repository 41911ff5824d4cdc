"""Numbers at the edges: each has the result that docs/reliability.md gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_model, make_tokens

from prunerzero import Metric, Pattern, Recipe, prune
from prunerzero.metric import OPERATORS, kernels
from prunerzero.models.blocks import find_blocks, prunable_matrices
from prunerzero.models.compute import Compute, compute_for
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.statistics.cache import gather_statistics
from prunerzero.statistics.collectors import GRADIENT
from prunerzero.statistics.gathering import gather_raw

pytestmark = pytest.mark.usefixtures("own_cache")
HALF, NM = Pattern.parse("50%"), Pattern.parse("2:4")
TINY, MAX = 1e-45, kernels.FLOAT32_MAX  # the smallest denormal, the largest number
EXTREMES = [0.0, -0.0, TINY, -TINY, 1e-38, 1e-12, 1.0, -1.0, 1e19, 3e38, -3e38, MAX, -MAX]


def score(text, **tensors):
    return Metric.parse(text).score(**tensors)


# --- Operators


@pytest.mark.parametrize("name", [name for name, one in OPERATORS.items() if not one.paper])
@given(data=st.data())
def test_extended_operators_are_finite_for_finite_arguments(name, data):
    operator = OPERATORS[name]
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))

    def matrix():
        count = rows * columns
        values = data.draw(st.lists(st.sampled_from(EXTREMES), min_size=count, max_size=count))
        return torch.tensor(values).reshape(rows, columns)

    if operator.constant_exponent:
        exponent = data.draw(st.sampled_from([-3.0, -0.5, 0.0, 0.25, 1.0, 1.5, 2.0, 7.3]))
        result = operator.kernel(matrix(), exponent)
    else:
        result = operator.kernel(*(matrix() for _ in range(operator.arity)))
    assert result.isfinite().all()


def test_means_and_deviations_of_numbers_whose_sum_overflows():
    x = torch.tensor([[3e38, 3e38, 1e38, 1e38], [1.0, 2.0, 3.0, 4.0]])
    torch.testing.assert_close(kernels.row_mean(x), torch.tensor([[2e38], [2.5]]))
    torch.testing.assert_close(kernels.row_std(x)[0], x[:1].double().std(dim=1).float())
    assert kernels.row_sum(x)[0] == MAX
    assert kernels.row_sum(-x)[0] == -MAX
    # The other row's is what it is without its neighbour, to the bit.
    for kernel in (kernels.row_mean, kernels.row_std, kernels.row_sum, kernels.row_normalised):
        assert torch.equal(kernel(x)[1:], kernel(x[1:]))


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_is_not_finite_is_not_hidden(value):
    x = torch.tensor([[value, 1.0], [1.0, 1.0]])
    for kernel in (kernels.row_mean, kernels.column_sum, kernels.row_std):
        assert not kernel(x).isfinite().all()


@pytest.mark.parametrize("name", ["mms", "zsn"])
@pytest.mark.parametrize("value", [0.0, 0.5, TINY])
def test_the_papers_scalings_of_a_constant_matrix_are_nan(name, value):
    assert score(f"{name}(W)", W=torch.full((3, 4), value)).isnan().all()


def test_division_by_a_matrix_of_zeros_is_what_the_reference_gives():
    zeros = torch.zeros(2, 4)
    scores = score("div(W, G)", W=torch.tensor([[0.0, 1, 2, 3]] * 2), G=zeros)
    assert scores[:, 0].isnan().all()
    assert (scores[:, 1:] == torch.inf).all()


# --- Weights and masks


def test_denormals_keep_their_order():
    weight = torch.tensor([[4 * TINY, 3 * TINY, 2 * TINY, TINY], [0.0, -TINY, 1e-38, -1e-38]])
    scores = score("W", W=weight)
    assert HALF.mask(scores).tolist() == [[True, True, False, False], [False, False, True, True]]
    assert NM.mask(scores).tolist() == HALF.mask(scores).tolist()


def test_rows_of_zeros_lose_their_first_weights():
    weight = torch.zeros(2, 4)
    for metric in ("W", "W * A", "rown(W)", "W / A", "W ** 0.5"):
        scores = score(metric, W=weight, A=torch.ones(1, 4))
        for pattern in (HALF, NM):
            assert pattern.mask(scores).tolist() == [[False, False, True, True]] * 2


def test_dead_inputs_go_first_and_divide_finitely():
    weight, dead = torch.rand(3, 4) + 0.5, torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    mask = HALF.mask(score("W * A", W=weight, A=dead))
    assert mask.tolist() == [[False, True, False, True]] * 3
    for metric in ("W / A", "A ** -0.5 - W", "W * coln(A)", "rown(A) * W"):
        assert score(metric, W=weight, A=dead).isfinite().all()


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 8)])
def test_widths_of_one(shape):
    weight = torch.rand(shape)
    assert score("W - rowstd(W)", W=weight).isfinite().all()
    assert score("W - colstd(W)", W=weight).isfinite().all()
    if shape[1] == 1:  # floor(1 * 0.5) = 0 go
        assert HALF.mask(weight).all()
        assert score("zsn(rowmean(W)) + W", W=weight[:1]).isnan().all()


@pytest.mark.parametrize("group", ["row", "matrix"])
@pytest.mark.parametrize("kind", ["ties", "random", "constant", "nan"])
def test_masks_do_not_depend_on_the_threads(monkeypatch, group, kind):
    for worth in ("ROWS_WORTH", "GROUPS_WORTH"):
        monkeypatch.setattr(f"prunerzero.pruning.masks.{worth}", 64)
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(37, 40, generator=generator)
    if kind == "ties":
        scores = (scores * 4).round()
    elif kind == "constant":
        scores = torch.ones(37, 40)
    elif kind == "nan":
        scores[scores < 0.1] = torch.nan
    threads = torch.get_num_threads()
    masks = []
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            masks.append([p.mask(scores, group=group) for p in (HALF, NM, Pattern.parse("30%"))])
    finally:
        torch.set_num_threads(threads)
    for found in masks[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found, masks[0], strict=True))


@pytest.mark.parametrize(
    "metric", ["mms(W) * W - mms(0.5)", "exp(W + 200) * W", "W / 0 - exp(W + 100)"]
)
def test_scores_that_are_not_finite_rank_nothing(metric):
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UnusableScores, match="are not finite, so they rank nothing"):
        prune(model, None, Metric.parse(metric), HALF, calibration=make_tokens())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_constant_weight_matrix():
    model = make_model()
    matrix = prunable_matrices(model)[2]
    with torch.no_grad():
        matrix.parameter.fill_(0.25)
    with pytest.raises(UnusableScores, match=matrix.name):
        prune(model, None, Metric.parse("abs(W * W) * mms(W)"), HALF, calibration=make_tokens())
    prune(model, None, Metric.parse("W * A"), NM, calibration=make_tokens())
    assert (prunable_matrices(model)[2].weight == 0).float().mean() == 0.5


# --- Statistics


def scaled(factor, **options):
    """A model whose first block's MLP reads inputs of about ``factor``."""
    model = make_model(**options)
    with torch.no_grad():
        model.model.layers[0].post_attention_layernorm.weight.fill_(factor)
    return model


def statistics(model, terminals, dtype=None):
    blocks = find_blocks(model)
    matrices = [matrix for block in blocks for matrix in block.matrices]
    compute = compute_for(model) if dtype is None else Compute(torch.device("cpu"), dtype)
    found = gather_statistics(model, matrices, make_tokens(3), frozenset(terminals), compute)
    return {matrix.name: found.of(matrix, frozenset(terminals)) for matrix in matrices}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_that_overflow_half_precision_are_summed_in_float32(dtype):
    model = scaled(1000.0, dtype=dtype)
    name = next(m.name for m in prunable_matrices(model) if "up_proj" in m.name)
    found = statistics(model, "XA")[name]
    assert found["A"].dtype is torch.float32
    assert found["X"].max() > 65504  # what float16 ends at
    assert all(tensor.isfinite().all() for tensor in found.values())
    exact = statistics(scaled(1000.0), "XA", torch.float32)[name]
    torch.testing.assert_close(found["A"], exact["A"], rtol=0.05, atol=1.0)


def test_activations_whose_squares_overflow_float32_rank_nothing():
    with pytest.raises(UnusableScores, match="are not finite"):
        prune(scaled(1e25), None, Recipe.named("wanda"), HALF, calibration=make_tokens(),
              sequential=False)  # fmt: skip


def test_huge_gradients_rank_nothing(monkeypatch):
    model = make_model()
    # As if the loss were 1e30 times as steep.
    monkeypatch.setattr(
        "prunerzero.statistics.gathering.F.cross_entropy",
        lambda logits, targets: (
            torch.nn.functional.nll_loss(logits.log_softmax(-1), targets) * 1e30
        ),
    )
    matrices = prunable_matrices(model)
    raw = gather_raw(
        model, matrices, make_tokens(2), frozenset({GRADIENT}), compute_for(model, "float32")
    )
    assert any(sums[GRADIENT].isinf().any() for sums in raw.values())
    with pytest.raises(UnusableScores, match="are not finite"):
        prune(model, None, Metric.parse("W * F"), HALF, calibration=make_tokens(), dtype="float32")


def test_tiny_activations_count_as_none():
    """Their squares are below float32's smallest number."""
    model = scaled(1e-30)
    name = next(m.name for m in prunable_matrices(model) if "up_proj" in m.name)
    found = statistics(model, "A", torch.float32)[name]["A"]
    assert found.isfinite().all()
    result = prune(model, None, Metric.parse("W * A"), NM, calibration=make_tokens())
    assert result.sparsity == 0.5


def test_an_expert_without_tokens_is_ranked_by_its_siblings():
    model = make_model("mixtral")
    with torch.no_grad():  # the router sends nothing to the last expert
        for layer in model.model.layers:
            layer.mlp.gate.weight[-1] = 0
            layer.mlp.gate.weight[:-1] *= 100
    tokens = make_tokens(1, 2)
    result = prune(model, None, Metric.parse("W * A"), HALF, calibration=tokens)
    assert result.unreached
    assert result.sparsity == pytest.approx(0.5, abs=0.01)
