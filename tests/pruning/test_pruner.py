from fractions import Fraction

import pytest
import torch
from tiny_models import make_model, make_text, make_tokenizer, make_tokens

from prunerzero.errors import InputError
from prunerzero.metric import Metric
from prunerzero.models.blocks import find_blocks, prunable_matrices, watch_inputs
from prunerzero.models.selection import Selection
from prunerzero.pruning.allocation import CurvesAllocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import MatrixResult, UnusableScores, plan_sparsities, prune
from prunerzero.recipe import Recipe

pytestmark = pytest.mark.usefixtures("own_cache")
HALF = Pattern.parse("50%")
CURVES = CurvesAllocation(curves={"q_proj": (0.0, 0.1)})


def weights(model):
    return {matrix.name: matrix.weight.clone() for matrix in prunable_matrices(model)}


def naive_masks(weight, scores, pattern):
    """The design's rule, by a full stable sort, row by row."""
    keep = torch.ones_like(scores, dtype=torch.bool)
    for row in range(len(scores)):
        width = pattern.m or scores.shape[1]
        for start in range(0, scores.shape[1], width):
            order = torch.argsort(scores[row, start : start + width], stable=True)
            keep[row, start + order[: int(width * pattern.sparsity)]] = False
    return weight * keep


def naive_gradients(model, tokens):
    matrices = prunable_matrices(model)
    parameters = [matrix.parameter.requires_grad_(True) for matrix in matrices]
    sums = {matrix.name: 0 for matrix in matrices}
    for window in tokens:
        loss = model(window[None], labels=window[None]).loss
        for matrix, gradient in zip(matrices, torch.autograd.grad(loss, parameters), strict=True):
            gradient = gradient.T if matrix.transposed else gradient
            sums[matrix.name] = sums[matrix.name] + (100 * gradient) ** 2
    model.requires_grad_(False)
    return {name: total.sqrt() for name, total in sums.items()}


def naive_activations(model, tokens, matrices):
    """X of some matrices in one full pass of the model as it is."""
    found = {}
    handles = watch_inputs(
        matrices,
        lambda m, x, _: found.update({m.name: (x.flatten(0, -2) ** 2).sum(0) / len(tokens)}),
    )
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    return found


def naive_prune(model, tokens, score, pattern, sequential):
    """Full passes only: one a block when sequential, one in all when not."""
    gradients = naive_gradients(model, tokens)
    dense = naive_activations(model, tokens, prunable_matrices(model))
    for block in find_blocks(model):
        x = naive_activations(model, tokens, list(block.matrices)) if sequential else dense
        pruned = {
            m.name: naive_masks(
                m.weight, score(m.weight.abs(), x[m.name], gradients[m.name]), pattern
            )
            for m in block.matrices
        }
        for matrix in block.matrices:
            matrix.weight.copy_(pruned[matrix.name])


FORMULAS = {
    "W * sqrt(X)": lambda w, x, g: w * x.sqrt(),
    "W * sqrt(X) + W * G": lambda w, x, g: w * x.sqrt() + w * g,
    "abs(W * W) * mms(G)": lambda w, x, g: w * w * (g - g.min()) / (g.max() - g.min()),
}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("pattern", ["50%", "2:4"])
def test_equals_a_naive_implementation(family, formula, sequential, pattern):
    tokens = make_tokens(5)
    expected, model = make_model(family), make_model(family)
    pattern = Pattern.parse(pattern)
    naive_prune(expected, tokens, FORMULAS[formula], pattern, sequential)
    result = prune(
        model,
        None,
        Metric.parse(formula),
        pattern,
        calibration=tokens,
        sequential=sequential,
        dtype="float32",
    )
    found, wanted = weights(model), weights(expected)
    for name, tensor in found.items():
        assert torch.equal(tensor, wanted[name]), name
    assert result.sparsity == 0.5


def test_sequential_statistics_differ_from_one_shot():
    tokens = make_tokens(5)
    models = []
    for sequential in (True, False):
        models.append(make_model())
        prune(models[-1], None, Metric.named("wanda"), HALF, calibration=tokens, dtype="float32",
              sequential=sequential)  # fmt: skip
    first, second = map(weights, models)
    same = [torch.equal(first[name], second[name]) for name in first]
    assert all(same[:3])  # what the first block's attention reads is dense in both
    assert not any(same[7:])


def test_magnitude_needs_no_data_and_both_modes_agree():
    models = []
    for sequential in (True, False):
        models.append(make_model())
        result = prune(models[-1], None, Recipe.named("magnitude"), HALF, sequential=sequential)
        assert result.settings["calibration"] is None
    first, second = map(weights, models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name, dense in weights(make_model()).items():
        order = dense.abs().flatten().argsort(stable=True)
        dense.view(-1)[order[: dense.numel() // 2]] = 0
        assert torch.equal(first[name], dense)


@pytest.mark.parametrize("pattern", ["50%", "30%", "2:4", "4:8", "1:4"])
def test_every_group_of_weights_loses_its_exact_share(pattern):
    model = make_model()
    pattern = Pattern.parse(pattern)
    result = prune(model, None, Metric.parse("W * A"), pattern, calibration=make_tokens())
    for matrix, reported in zip(prunable_matrices(model), result.matrices, strict=True):
        width = pattern.m or matrix.shape.columns
        zeros = (matrix.weight == 0).reshape(-1, width).sum(1)
        assert (zeros == int(width * pattern.sparsity)).all()
        share = int(zeros.sum()) / matrix.weight.numel()
        assert reported == MatrixResult(matrix.name, *matrix.weight.shape, share)
    assert result.peak_rss_bytes > 2**20
    assert result.seconds > 0


def test_group_matrix_ranks_all_rows_together():
    model = make_model()
    recipe = Recipe(metric=Metric.parse("W * F"), group="matrix")
    prune(model, None, recipe, HALF, calibration=make_tokens())
    uneven = False
    for matrix in prunable_matrices(model):
        zeros = (matrix.weight == 0).sum(1)
        assert zeros.sum() == matrix.weight.numel() // 2
        uneven |= bool((zeros != zeros[0]).any())
    assert uneven


def test_an_allocation_by_curves_spends_the_patterns_total():
    model = make_model()
    allocation = CurvesAllocation(curves={"q_proj": (0.3, 0.1, 0.3), "v_proj": (-0.3,)})
    recipe = Recipe(metric=Metric.parse("W * A"), allocation=allocation)
    result = prune(model, None, recipe, HALF, calibration=make_tokens())
    share = {row.name: row.sparsity for row in result.matrices}
    assert share["model.layers.1.self_attn.q_proj"] > 0.55 > share["model.layers.1.mlp.up_proj"]
    assert share["model.layers.1.self_attn.v_proj"] < 0.4
    rows = sum(matrix.shape.rows for matrix in prunable_matrices(model))
    total = sum(matrix.weight.numel() for matrix in prunable_matrices(model))
    assert total / 2 - rows < result.sparsity * total <= total / 2
    planned = plan_sparsities(find_blocks(model), recipe, HALF)
    assert {name: float(part) for name, part in planned.items()} == share


def test_formulas_by_family_get_their_own_statistics():
    model = make_model()
    recipe = Recipe(metric={"attention": Metric.parse("W * A"), "mlp": Metric.parse("W * F")})
    prune(model, None, recipe, HALF, calibration=make_tokens(), sequential=False, dtype="float32")
    found = weights(model)
    for formula, inside in (("W * A", "attn"), ("W * F", "mlp")):
        single = make_model()
        prune(single, None, Metric.parse(formula), HALF, calibration=make_tokens(),
              sequential=False, dtype="float32")  # fmt: skip
        for name, tensor in weights(single).items():
            assert torch.equal(tensor, found[name]) == (inside in name)


@pytest.mark.parametrize("tied", [True, False])
def test_nothing_but_the_blocks_matrices_changes(tied):
    model = make_model(tie_word_embeddings=tied)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prune(model, None, Metric.named("wanda"), HALF, calibration=make_tokens())
    names = {f"{matrix.name}.weight" for matrix in prunable_matrices(model)}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in names)
    shared = model.lm_head.weight is model.model.embed_tokens.weight
    assert shared == tied


def test_bfloat16_weights_stay_bfloat16():
    model = make_model(dtype=torch.bfloat16)
    result = prune(model, None, Metric.parse("W * A * F"), HALF, calibration=make_tokens())
    assert result.settings["compute"] == "cpu, bfloat16"
    assert all(matrix.weight.dtype is torch.bfloat16 for matrix in prunable_matrices(model))


def test_the_seed_and_the_text_decide_the_windows(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(make_text(seed) for seed in range(8)))
    hashes = []
    for seed in (0, 0, 1):
        result = prune(make_model(), make_tokenizer(), Metric.named("wanda"), HALF, seed=seed,
                       calibration=str(text), samples=3, sequence_length=32)  # fmt: skip
        used = result.settings["calibration"]
        assert (used["windows"], used["sequence_length"], used["source"]) == (3, 32, str(text))
        assert used["documents"]
        hashes.append(used["tokens_hash"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_progress_is_reported():
    seen = []
    prune(make_model(), None, Metric.parse("W * A * F"), HALF, calibration=make_tokens(2),
          report=lambda *step: seen.append(step))  # fmt: skip
    assert seen == [
        ("statistics", 1, 2),
        ("statistics", 2, 2),
        *(("pruning", n, 3) for n in (1, 2, 3)),
    ]


@pytest.mark.parametrize(
    ("recipe", "pattern", "options", "message"),
    [
        ("W * A", "3:5", {}, "pattern 3:5: the width 32 of model.layers.0.self_attn.q_proj"),
        ("rowmean(W)", "50%", {}, "same score"),
        ("W * A", "50%", {"calibration": make_tokens(2, 65)}, "above the model's limit of 64"),
        ("W * A", "50%", {"calibration": make_tokens(2) + 256}, "between 0 and 255"),
        ("W * A", "50%", {"calibration": make_tokens(2).float()}, "int64"),
        ("W * A", "50%", {"calibration": "wikipedia"}, "needs a tokenizer"),
        ("W * A", "50%", {"dtype": "int8"}, "dtype 'int8'"),
    ],
)
def test_bad_input_is_found_before_a_weight_changes(recipe, pattern, options, message):
    model = make_model()
    arguments = {"calibration": make_tokens()} | options
    with pytest.raises(InputError, match=message):
        prune(model, None, Metric.parse(recipe), Pattern.parse(pattern), **arguments)
    dense = weights(make_model())
    assert all(torch.equal(tensor, dense[name]) for name, tensor in weights(model).items())


def test_recipes_that_do_not_fit_the_model():
    model = make_model()
    with pytest.raises(InputError, match="no formula for 'gate_proj'"):
        prune(model, None, Recipe(metric={"attention": Metric.parse("W")}), HALF)
    with pytest.raises(InputError, match="group 'model'"):
        prune(model, None, Recipe(metric=Metric.parse("W"), group="model", allocation=CURVES), HALF)
    recipe = Recipe(metric=Metric.parse("W"), allocation=CURVES)
    with pytest.raises(InputError, match="only 'uniform'"):
        prune(model, None, recipe, Pattern.parse("2:4"))


def test_scores_that_are_not_finite_name_the_matrix():
    with pytest.raises(UnusableScores, match=r"scores of model\.layers\.0\.self_attn\.q_proj"):
        prune(make_model(), None, Metric.parse("mms(W - W)"), HALF)


def test_sparsity_is_an_exact_fraction():
    planned = plan_sparsities(
        find_blocks(make_model()), Recipe.named("wanda"), Pattern.parse("87.5%")
    )
    assert set(planned.values()) == {Fraction(7, 8)}


class TestWidthsThatThePatternDoesNotDivide:
    """A Mamba's `dt_proj` reads a 16th of the hidden size: 2 inputs where that is 32."""

    NM = Pattern.parse("2:4")

    def prune(self, **options):
        hidden = options.pop("hidden_size", 32)
        model = make_model("mamba", hidden_size=hidden)
        prune(model, None, Metric.parse("W * A"), self.NM, calibration=make_tokens(), **options)
        return {m.name: int((m.weight != 0).sum()) / m.weight.numel()
                for m in prunable_matrices(model)}  # fmt: skip

    def test_the_line_says_how_to_leave_them_dense(self):
        with pytest.raises(InputError) as caught:
            self.prune()
        line = str(caught.value)
        assert "the width 2 of backbone.layers.0.mixer.dt_proj is not a multiple of 4" in line
        option = "--exclude '*.dt_proj'"
        assert line.endswith(f"; to leave such matrices dense: {option}")
        kept = self.prune(selection=Selection(exclude=("*.dt_proj",)))
        assert {share for name, share in kept.items() if "dt_proj" in name} == {1.0}
        assert {share for name, share in kept.items() if "dt_proj" not in name} == {0.5}

    def test_usual_sizes_fit(self):
        kept = self.prune(hidden_size=64)
        assert set(kept.values()) == {0.5}
        assert any("dt_proj" in name for name in kept)

    def test_there_is_no_hint_where_nothing_would_be_left(self):
        with pytest.raises(InputError, match=r"is not a multiple of 7$"):
            prune(make_model(), None, Metric.parse("W"), Pattern.parse("3:7"))

    def test_experts_are_left_out_by_their_parameter(self):
        model = make_model("mixtral", intermediate_size=66)
        with pytest.raises(InputError, match=r"dense: --exclude '\*.down_proj.\*'$"):
            prune(model, None, Metric.parse("W"), self.NM)
        selection = Selection(exclude=("*.down_proj.*",))
        prune(model, None, Metric.parse("W"), self.NM, selection=selection)
