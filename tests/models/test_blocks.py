import pytest
import torch
from tiny_models import FAMILIES, make_model, make_tokens
from torch import nn

from prunerzero.errors import InputError
from prunerzero.models.blocks import apply_mask, find_blocks, prunable_matrices, watch_inputs

LLAMA_KINDS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS = dict.fromkeys(FAMILIES, LLAMA_KINDS) | {
    "gpt2": ["c_attn", "c_proj", "c_fc", "c_proj"],
    "opt": ["k_proj", "v_proj", "q_proj", "out_proj", "fc1", "fc2"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_finds_every_matrix_of_every_block(family):
    model = make_model(family)
    blocks = find_blocks(model)
    assert [block.index for block in blocks] == [0, 1, 2]
    for block in blocks:
        assert model.get_submodule(block.name) is block.module
        assert [matrix.kind for matrix in block.matrices] == KINDS[family]
        for matrix in block.matrices:
            assert model.get_submodule(matrix.name) is matrix.module
            assert (matrix.block, matrix.blocks) == (block.index, 3)
            inside = "attn" in matrix.name
            assert matrix.family == ("attention" if inside else "mlp")
    covered = sum(m.weight.numel() for m in prunable_matrices(model))
    two_dimensional = sum(p.numel() for b in blocks for p in b.module.parameters() if p.dim() == 2)
    assert covered == two_dimensional


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_weights_are_out_by_in_and_shared_with_the_model(family):
    model = make_model(family)
    tokens = make_tokens(1)
    matrices = prunable_matrices(model)
    inputs, outputs = {}, {}
    watch = watch_inputs(matrices, lambda matrix, given: inputs.update({matrix.name: given}))
    for matrix in matrices:
        watch.append(
            matrix.module.register_forward_hook(
                lambda _m, _a, out, name=matrix.name: outputs.update({name: out})
            )
        )
    model(tokens)
    for handle in watch:
        handle.remove()
    for matrix in matrices:
        assert matrix.shape[4:] == (outputs[matrix.name].shape[-1], inputs[matrix.name].shape[-1])
        bias = getattr(matrix.module, "bias", None)
        product = inputs[matrix.name] @ matrix.weight.T + (0 if bias is None else bias)
        torch.testing.assert_close(product, outputs[matrix.name])
        assert matrix.weight.data_ptr() == matrix.parameter.data_ptr()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_apply_mask_writes_positive_zeros_and_nothing_else(family):
    matrix = prunable_matrices(make_model(family))[0]
    before = matrix.weight.clone()
    mask = torch.rand(before.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    apply_mask(matrix, mask)
    assert torch.equal(matrix.weight[mask], before[mask])
    pruned = matrix.weight[~mask]
    assert not pruned.any()
    assert not torch.signbit(pruned).any()


def test_refuses_what_has_no_blocks():
    with pytest.raises(InputError, match="no list of decoder blocks"):
        find_blocks(nn.Linear(2, 2))
    with pytest.raises(InputError, match="holds no Linear or Conv1D"):
        find_blocks(nn.ModuleDict({"layers": nn.ModuleList([nn.LayerNorm(2)])}))
