import pytest
import torch
from tiny_models import make_model

from prunerzero.models.blocks import prunable_matrices
from prunerzero.models.compute import Compute
from prunerzero.models.snapshot import DenseWeights
from prunerzero.pruning.kernels import write_bfloat16


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_masks_do_not_accumulate_and_dense_weights_come_back(family):
    model = make_model(family)
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    matrices = prunable_matrices(model)
    dense = DenseWeights(matrices)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for matrix in matrices:
            mask = torch.rand(matrix.weight.shape, generator=generator) < 0.5
            dense.write_masked(matrix, mask)
            expected = dense.weights[matrix.name].clone()
            expected[~mask] = 0
            assert torch.equal(matrix.weight, expected)
            assert not torch.signbit(matrix.weight[~mask]).any()
    dense.restore()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, original[name])


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "falcon"])
def test_narrow_weights_are_what_autocast_makes_of_them(family):
    model = make_model(family)
    compute = Compute(torch.device("cpu"), torch.bfloat16)
    matrices = prunable_matrices(model)
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    masks = {m.name: torch.rand(m.weight.shape, generator=generator) < 0.5 for m in matrices}
    tokens = torch.randint(0, 60, (2, 12), generator=generator)

    def logits(dense, *, narrow):
        if narrow:
            dense.narrow()
        for matrix in matrices:
            dense.write_masked(matrix, masks[matrix.name])
            assert not torch.signbit(matrix.weight[~masks[matrix.name]]).any()
        with torch.inference_mode(), compute.autocast():
            found = model(tokens, use_cache=False).logits
        dense.restore()
        return found

    wide = logits(DenseWeights(matrices), narrow=False)
    assert torch.equal(logits(DenseWeights(matrices, compute), narrow=True), wide)
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == original[name].dtype
        assert torch.equal(tensor, original[name])


def test_rounding_to_bfloat16():
    bits = torch.randint(-(2**31), 2**31 - 1, (1 << 16,), dtype=torch.int64).to(torch.int32)
    ends = torch.tensor([0.0, -0.0, 1e-45, 3.3e38, -1.00390625, 1.01171875])
    weights = torch.cat([bits.view(torch.float32).nan_to_num(), ends])
    kept = torch.rand(weights.shape) < 0.5
    out = torch.empty_like(weights, dtype=torch.bfloat16)
    args = (weights.view(torch.int32), kept.view(torch.int8), out.view(torch.int16))
    write_bfloat16(*(tensor.numpy() for tensor in args))
    assert torch.equal(out, torch.where(kept, weights.bfloat16(), 0.0))
    assert not torch.signbit(out[~kept]).any()
