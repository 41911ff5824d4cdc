"""What must hold on every architecture: blocks, replay, pruning, and a checkpoint that reloads."""

import pytest
import torch
from tiny_models import (
    ARCHITECTURES,
    MIXTURES,
    UNCALLED,
    block_outputs,
    make_model,
    make_tokens,
)

from prunerzero import Metric, Pattern, load_model, prune
from prunerzero.models.blocks import coverage, find_blocks, prunable_matrices
from prunerzero.models.compute import compute_for
from prunerzero.models.replay import Replay
from prunerzero.recipe import Recipe
from prunerzero.statistics.collectors import ACTIVATION, GRADIENT, ROUTED, TOKENS
from prunerzero.statistics.gathering import gather_raw

HALF, NM = Pattern.parse("50%"), Pattern.parse("2:4")


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_replay_equals_a_full_forward(family):
    model, tokens = make_model(family), make_tokens(3)
    blocks = find_blocks(model)
    assert len(blocks) == 3
    replay = Replay(model, blocks, tokens, 2, compute_for(model, "float32"))
    for block, expected in zip(blocks, block_outputs(model, blocks, tokens), strict=True):
        replay.advance(replay.run(block))
        torch.testing.assert_close(torch.cat(replay.hidden), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_matrices_cover_the_blocks_and_leave_routers_alone(family):
    model = make_model(family)
    blocks = find_blocks(model)
    assert coverage(blocks) > 0.9
    inside = {p for block in blocks for p in block.module.parameters()}
    matrices = prunable_matrices(model)
    assert {matrix.parameter for matrix in matrices} <= inside
    names = [matrix.name for matrix in matrices]
    assert len(set(names)) == len(names)
    assert not any("router" in name or name.endswith(".gate") for name in names)
    for matrix in matrices:
        assert matrix.weight.data_ptr() >= matrix.parameter.data_ptr()
        assert matrix.weight.shape == matrix.shape[4:]


@pytest.mark.parametrize("pattern", [HALF, NM], ids=str)
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_matrix_reaches_the_sparsity_and_the_checkpoint_reloads(family, pattern, tmp_path):
    model, tokens = make_model(family), make_tokens(4)
    result = prune(model, None, Metric.parse("W * A"), pattern, calibration=tokens)
    for matrix in prunable_matrices(model):
        zeros = matrix.weight == 0
        assert (zeros.sum(1) == zeros.shape[1] // 2).all(), matrix.name
        assert not torch.signbit(matrix.weight[zeros]).any()
    assert result.sparsity == 0.5
    model.save_pretrained(tmp_path)
    again, _ = load_model(tmp_path, device="cpu")
    for mine, theirs in zip(prunable_matrices(model), prunable_matrices(again), strict=True):
        assert mine.name == theirs.name
        assert torch.equal(mine.weight, theirs.weight)
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_gradients_and_activations_are_gathered_together(family):
    model, tokens = make_model(family), make_tokens(3)
    matrices = prunable_matrices(model)
    raw = gather_raw(
        model,
        matrices,
        tokens,
        frozenset({ACTIVATION, GRADIENT, TOKENS, ROUTED}),
        compute_for(model, "float32"),
    )
    for matrix in matrices:
        sums = raw[matrix.name]
        assert sums[GRADIENT].shape == matrix.weight.shape
        assert sums[ACTIVATION].shape == sums[ROUTED].shape == (1, matrix.shape.columns)
        met = bool(sums[TOKENS] > 0)
        assert met == bool(sums[GRADIENT].any()) == bool(sums[ACTIVATION].any()), matrix.name
        assert met or matrix.siblings
        if not matrix.siblings:
            assert sums[TOKENS] == tokens.numel()
            assert torch.equal(sums[ROUTED], sums[ACTIVATION])


def expert_inputs(model, tokens):
    """Each expert's inputs and routing weights, recomputed from what its module is given."""
    found = {}

    def keep(module, args, kwargs, path):
        hidden, chosen, weights = [*args, *kwargs.values()][:3]
        for expert in range(module.num_experts):
            token, choice = torch.where(chosen == expert)
            name = next(n for n in ("gate_up_proj", "up_proj") if hasattr(module, n))
            found[f"{path}.{name}.{expert}"] = hidden[token], weights[token, choice]

    handles = [
        module.register_forward_pre_hook(lambda m, a, k, p=path: keep(m, a, k, p), with_kwargs=True)
        for path, module in model.named_modules()
        if hasattr(module, "gate_up_proj") and getattr(module.gate_up_proj, "ndim", 0) == 3
    ]
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("family", MIXTURES)
def test_an_experts_statistics_are_of_the_tokens_routed_to_it(family):
    model, tokens = make_model(family), make_tokens(1, 40)
    expected = expert_inputs(model, tokens)
    if not expected:
        pytest.skip("its experts are called with no routing")
    matrices = prunable_matrices(model)
    wanted = frozenset({ACTIVATION, TOKENS, ROUTED})
    raw = gather_raw(model, matrices, tokens, wanted, compute_for(model, "float32"))
    for name, (inputs, weights) in expected.items():
        sums = raw[name]
        assert sums[TOKENS] == len(inputs)
        torch.testing.assert_close(sums[ACTIVATION], inputs.square().sum(0, keepdim=True))
        routed = (inputs * weights[:, None]).square().sum(0, keepdim=True)
        torch.testing.assert_close(sums[ROUTED], routed)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_experts_that_no_token_meets_take_their_siblings_statistics(family):
    model = make_model(family)
    tokens = make_tokens(1, 2)  # two tokens with two choices each cannot meet all in every block
    result = prune(model, None, Recipe.named("moe-pruner"), HALF, calibration=tokens)
    assert result.unreached
    assert result.sparsity == 0.5
    assert set(result.unreached) <= {m.name for m in prunable_matrices(model) if m.siblings}
    more = prune(make_model(family), None, Metric.parse("W*A*F"), HALF, calibration=make_tokens(8))
    assert not more.unreached


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "qwen3_moe"])
def test_an_expert_is_pruned_like_a_matrix_of_its_own(family):
    """Each expert's scores are its weight's times its own tokens' norms, whatever its storage."""
    model, tokens = make_model(family), make_tokens(1, 60)
    expected = expert_inputs(model, tokens)
    blocks = find_blocks(model)
    first = {matrix.name: matrix for matrix in blocks[0].matrices}
    dense = {name: matrix.weight.clone() for name, matrix in first.items()}
    prune(
        model,
        None,
        Metric.parse("W * A"),
        HALF,
        calibration=tokens,
        sequential=False,
        dtype="float32",
    )
    checked = 0
    for name, (inputs, _) in expected.items():
        if name in first and len(inputs):
            scores = dense[name].abs() * inputs.square().mean(0).sqrt()
            assert torch.equal(first[name].weight != 0, HALF.mask(scores))
            checked += 1
    assert checked


@pytest.mark.parametrize("family", UNCALLED)
@pytest.mark.parametrize("formula", ["W * A", "W * A * F"])
def test_layers_that_are_never_called_are_pruned_and_reported(family, formula):
    model = make_model(family)
    result = prune(model, None, Metric.parse(formula), HALF, calibration=make_tokens(3))
    assert result.unreached
    assert all("encoder_attn" in name or "dt_proj" in name for name in result.unreached)
    assert result.sparsity == 0.5
