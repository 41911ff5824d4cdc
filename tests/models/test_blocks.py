import pytest
import torch
from tiny_models import FAMILIES, make_model, make_tokens
from torch import nn

from prunerzero.errors import InputError
from prunerzero.models.blocks import (
    Selection,
    apply_mask,
    coverage,
    find_blocks,
    prunable_matrices,
    watch_inputs,
)

LLAMA_KINDS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS = dict.fromkeys(FAMILIES, LLAMA_KINDS) | {
    "gpt2": ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"],
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
    watch = watch_inputs(matrices, lambda matrix, given, _: inputs.update({matrix.name: given}))
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


def names(model, **selection):
    return [matrix.name for matrix in prunable_matrices(model, Selection(**selection))]


def test_patterns_select_matrices():
    model = make_model()
    every = names(model)
    assert names(model, include=("*.mlp.*",)) == [name for name in every if ".mlp." in name]
    kept = names(model, include=("*.mlp.*", "*.q_proj"), exclude=("model.layers.0.*",))
    assert kept == [n for n in every if (".mlp." in n or "q_proj" in n) and ".0." not in n]
    assert coverage(find_blocks(model, Selection(exclude=("*.mlp.*",)))) < 0.5
    with pytest.raises(InputError, match=r"no matrix is left .* like model\.layers\.0\.self_attn"):
        names(model, include=("*.nothing",))


def test_the_list_of_blocks_can_be_named():
    model = make_model("mixtral")
    assert names(model, blocks="model.layers") == names(model)
    with pytest.raises(InputError, match=r"blocks 'model\.h': .* it has model\.layers"):
        find_blocks(model, Selection(blocks="model.h"))


class Odd(nn.Module):
    """Most of its weights are in a layer of its own."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(8, 8)
        self.mystery = nn.Parameter(torch.zeros(8, 30))


def test_a_model_that_is_hardly_covered_is_refused_unless_the_user_agrees():
    model = nn.ModuleDict({"layers": nn.ModuleList([Odd(), Odd()])})
    with pytest.raises(InputError, match=r"only 21% .* 0\.mystery \(8, 30\)"):
        find_blocks(model)
    assert names(model, min_coverage=0.2) == ["layers.0.proj", "layers.1.proj"]


def test_a_shared_matrix_is_pruned_once():
    model = make_model()
    model.model.layers[2].mlp = model.model.layers[0].mlp
    found = names(model)
    assert len(found) == 18
    assert not any(name.startswith("model.layers.2.mlp") for name in found)
