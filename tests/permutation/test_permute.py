from contextlib import suppress

import pytest
import torch
from tiny_models import ARCHITECTURES, UNCALLED, make_model, make_tokenizer, make_tokens

from prunerzero.errors import InputError
from prunerzero.models.blocks import find_blocks, prunable_matrices
from prunerzero.models.compute import compute_for
from prunerzero.permutation.permute import permute
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import prune
from prunerzero.recipe import Recipe

TOKENS = make_tokens(4, 16)
WANDA, HALF = Recipe.named("wanda"), Pattern.parse("2:4")
# Kinds of matrices whose inputs must be found to be reorderable.
KINDS = {
    "llama": {"o_proj", "down_proj"},
    "mistral": {"o_proj", "down_proj"},
    "qwen2": {"o_proj", "down_proj"},
    "qwen3": {"o_proj", "down_proj"},
    "gemma2": {"o_proj", "down_proj"},
    "gpt2": {"attn.c_proj", "mlp.c_proj"},
    "opt": {"out_proj", "fc2"},
    "phi": {"dense", "fc2"},
    "phi3": {"o_proj", "down_proj"},
    "gpt_neox": {"dense", "dense_4h_to_h"},
    "falcon": {"dense", "dense_4h_to_h"},
    "bloom": {"dense", "dense_4h_to_h"},
    "mixtral": {"o_proj", "down_proj"},
    "qwen3_moe": {"o_proj", "down_proj"},
    "gpt_oss": {"o_proj", "down_proj"},
    "deepseek_v3": {"o_proj", "down_proj"},
}


def outlying(model):
    """Weights of some input channels made large, so that their order matters."""
    generator = torch.Generator().manual_seed(5)
    for matrix in prunable_matrices(model):
        weight = matrix.weight
        weight *= torch.rand(weight.shape[1], generator=generator).to(weight.dtype) ** 2 * 3
    for name, parameter in model.named_parameters():
        # All zeros or ones at first, which would hide one left behind.
        if name.endswith("bias"):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        elif parameter.ndim == 1:
            parameter.mul_(torch.rand(parameter.shape, generator=generator) + 0.5)
    return model


def permuted(model, recipe=WANDA, pattern=HALF):
    blocks = find_blocks(model)
    return permute(model, blocks, recipe, pattern, TOKENS, compute_for(model))


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("family", KINDS)
@torch.no_grad()
def test_outputs_stay_and_the_pattern_keeps_more(family):
    model = outlying(make_model(family))
    before = model(TOKENS).logits
    kinds = {matrix.name: matrix.kind for matrix in prunable_matrices(model)}
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = permuted(model)
    assert {kinds[name] for name in done.gains} == KINDS[family]
    changed = [n for n, tensor in model.state_dict().items() if not torch.equal(tensor, weights[n])]
    assert len(changed) >= 4
    torch.testing.assert_close(model(TOKENS).logits, before, rtol=1e-3, atol=1e-3)
    assert all(gain >= 0 for gain in done.gains.values())
    assert sum(done.gains.values()) > 0.01
    done.undo()
    assert all(torch.equal(tensor, weights[n]) for n, tensor in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("family", [*ARCHITECTURES, *UNCALLED])
@torch.no_grad()
def test_any_model_keeps_its_outputs_or_is_refused(family):
    model = outlying(make_model(family))
    before = model(TOKENS).logits
    with suppress(InputError):
        permuted(model)
    torch.testing.assert_close(model(TOKENS).logits, before, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("own_cache")
def test_precision_of_half_the_bits_hides_no_wrong_layout():
    model = outlying(make_model("llama", dtype=torch.bfloat16))
    found = permuted(model).gains
    assert {name.split(".")[-1] for name in found} == KINDS["llama"]


@pytest.mark.usefixtures("own_cache")
def test_pruning_a_permuted_model_keeps_the_pattern_and_records_it():
    model = outlying(make_model())
    plain = outlying(make_model())
    options = {"calibration": TOKENS, "dtype": "float32"}
    result = prune(model, make_tokenizer(), WANDA, HALF, permuted=True, **options)
    prune(plain, make_tokenizer(), WANDA, HALF, **options)
    assert set(result.settings["permutation"]["matrices"]) == {
        matrix.name for matrix in prunable_matrices(model) if matrix.kind in KINDS["llama"]
    }
    for matrix in prunable_matrices(model):
        assert ((matrix.weight == 0).reshape(-1, 4).sum(1) == 2).all()
    lost = {}
    for name, one in {"permuted": model, "plain": plain}.items():
        dense = outlying(make_model())(TOKENS).logits
        lost[name] = float((one(TOKENS).logits - dense).norm())
    assert lost["permuted"] != lost["plain"]


def test_what_cannot_be_permuted_is_refused():
    with pytest.raises(InputError, match="50% ranks whole rows"):
        permuted(make_model(), pattern=Pattern.parse("50%"))
    with pytest.raises(InputError, match="no matrix whose inputs can be reordered"):
        permuted(make_model("mamba"))
    magnitude = Recipe.named("magnitude")
    model = outlying(make_model())
    blocks = find_blocks(model)
    assert permute(model, blocks, magnitude, HALF, None, compute_for(model)).gains
