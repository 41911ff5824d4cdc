import pytest
import torch
from tiny_models import make_model

from prunerzero.models.blocks import prunable_matrices
from prunerzero.models.snapshot import DenseWeights


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
