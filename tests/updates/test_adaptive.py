import pytest
import torch
from tiny_models import make_model, make_tokens

from prunerzero.errors import UnusableScores
from prunerzero.metric import Metric
from prunerzero.models.blocks import prunable_matrices
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import prune
from prunerzero.recipe import Recipe
from prunerzero.statistics.hessian import factored
from prunerzero.updates import adaptive as module
from prunerzero.updates import sparsegpt
from prunerzero.updates.adaptive import adaptively_pruned

pytestmark = pytest.mark.usefixtures("own_cache")
HALF, NM = Pattern.parse("50%"), Pattern.parse("2:4")
OBS = Metric.parse("W**2 / Hfree")


def make_case(rows=16, columns=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(300, columns, generator=generator)
    inputs += torch.randn(300, 4, generator=generator) @ torch.randn(
        4, columns, generator=generator
    )
    return torch.randn(rows, columns, generator=generator), inputs.T @ inputs


def lost(weight, result, gram):
    change = result - weight
    return float(((change @ gram) * change).sum())


def test_sparsegpts_own_score_gives_sparsegpt():
    weight, gram = make_case()
    factor = factored(gram)
    given = {"Hfree": factor.free[None]}
    found = adaptively_pruned(weight, factor, OBS, given, NM, "matrix")
    torch.testing.assert_close(found, sparsegpt(weight, gram, NM))
    # Unstructured, the reference prunes one weight more in every block.
    own = sparsegpt(weight, gram, HALF, block_size=96)
    found = adaptively_pruned(weight, factor, OBS, given, HALF, "matrix", block_size=96)
    assert ((own == 0) != (found == 0)).sum() == 1
    assert abs(lost(weight, own, gram) / lost(weight, found, gram) - 1) < 0.02


@pytest.mark.parametrize("metric", ["W", "W / rowsum(W) + W / colsum(W)", "mms(W) * zsn(W + Hfree)",
                                    "rown(W) + coln(W)", "div(W, W)", "Hfree", "-W"])  # fmt: skip
@pytest.mark.parametrize("group", ["row", "matrix"])
@pytest.mark.parametrize("pattern", ["37%", "50%", "2:4", "3:8"])
def test_any_metric_at_its_exact_sparsity(metric, group, pattern):
    weight, gram = make_case()
    pattern, factor = Pattern.parse(pattern), factored(gram)
    found = adaptively_pruned(
        weight, factor, Metric.parse(metric), {"Hfree": factor.free[None]}, pattern, group,
        block_size=40,
    )  # fmt: skip
    zeros = found == 0
    assert not torch.signbit(found[zeros]).any()
    if pattern.is_nm:
        assert (zeros.reshape(-1, pattern.m).sum(1) == pattern.m - pattern.n).all()
    elif group == "row":
        assert (zeros.sum(1) == pattern.count(96)).all()
    else:
        assert zeros.sum() == pattern.count(weight.numel())


def test_scores_see_what_the_update_has_made_of_the_weights():
    weight, gram = make_case()
    factor = factored(gram)
    found = adaptively_pruned(weight, factor, Metric.parse("W"), {}, NM, "row")
    before = sparsegpt(weight, gram, NM, mask=NM.mask(weight.abs()))
    assert torch.equal(found[:, :4] == 0, before[:, :4] == 0)  # nothing has happened yet
    assert not torch.equal(found == 0, before == 0)
    assert lost(weight, found, gram) < lost(weight, before, gram)


def test_scores_that_are_not_finite_are_refused():
    weight, gram = make_case()
    with pytest.raises(UnusableScores, match="scores of q are not finite"):
        adaptively_pruned(
            weight, factored(gram), Metric.parse("mms(W - W)"), {}, HALF, "row", name="q"
        )


@pytest.mark.parametrize(
    ("family", "sequential", "update"),
    [
        ("llama", True, "sparsegpt"),
        ("llama", False, "sparsegpt"),
        ("llama", True, "sparsegpt-adaptive"),
        ("llama", True, "dsnot"),
        ("gpt2", True, "sparsegpt-adaptive"),
        ("qwen3_moe", True, "sparsegpt"),
    ],
)
def test_prune_applies_it_and_lowers_the_error_of_the_outputs(family, sequential, update):
    tokens, outputs = make_tokens(12, 32), {}
    recipe = Recipe(metric=Metric.parse("W * A"))
    dense = {m.name: m.weight.clone() for m in prunable_matrices(make_model(family))}
    for one in ("none", update):
        model = make_model(family)
        result = prune(model, None, recipe.with_update(one), NM, calibration=tokens,
                       sequential=sequential, dtype="float32")  # fmt: skip
        assert result.sparsity == 0.5
        assert result.settings["recipe"]["update"] == one
        for matrix in prunable_matrices(model):
            kept = matrix.weight != 0
            assert (kept.reshape(-1, 4).sum(1) == 2).all()
            assert not torch.signbit(matrix.weight[~kept]).any()
        outputs[one] = model
    changed = any(
        (m.weight[m.weight != 0] != dense[m.name][m.weight != 0]).any()
        for m in prunable_matrices(outputs[update])
    )
    assert changed == (update != "dsnot")
    if update != "dsnot" and family == "llama":
        with torch.no_grad():
            wanted = make_model(family)(tokens).logits
            error = {name: (m(tokens).logits - wanted).norm() for name, m in outputs.items()}
        assert error[update] < error["none"]


def test_curved_allocations_may_leave_little_to_do():
    from prunerzero.pruning.allocation import CurvesAllocation

    allocation = CurvesAllocation(curves={"q_proj": (0.3,), "down_proj": (-0.2,)})
    recipe = Recipe(metric=OBS, group="matrix", update="sparsegpt-adaptive", allocation=allocation)
    model = make_model()
    result = prune(model, None, recipe, HALF, calibration=make_tokens(8), dtype="float32")
    assert result.sparsity == pytest.approx(0.5, abs=1 / 32)
    assert {round(m.sparsity, 2) for m in result.matrices} != {0.5}


@pytest.mark.parametrize("text", ["W**2 / Hfree", "W ** 0.5 * colmean(W) ** -0.3"])
@pytest.mark.parametrize("pattern", ["2:4", "1:4", "5:8", "3:48"])
def test_fixed_factors_choose_what_the_scores_do(monkeypatch, text, pattern):
    weight, gram = make_case()
    factor, metric = factored(gram), Metric.parse(text)

    def pruned():
        given = {"Hfree": factor.free[None]}
        return adaptively_pruned(weight, factor, metric, given, Pattern.parse(pattern), "row",
                                 block_size=40)  # fmt: skip

    fast = pruned()
    monkeypatch.setattr(module, "fixed_factors", lambda *_: None)
    torch.testing.assert_close(fast, pruned())


def test_scores_that_overflow_are_refused_under_n_of_m():
    weight, gram = make_case()
    with pytest.raises(UnusableScores, match="not finite"):
        adaptively_pruned(weight, factored(gram), Metric.parse("W * exp(exp(A))"),
                          {"A": torch.full((1, 96), 9.0)}, NM, "row")  # fmt: skip
