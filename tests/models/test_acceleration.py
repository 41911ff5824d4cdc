import pytest
import torch
from tiny_models import make_model, make_tokens

from prunerzero import Metric, Pattern, load_model, prune
from prunerzero.errors import InputError
from prunerzero.models.acceleration import accelerate, obstacle
from prunerzero.models.blocks import prunable_matrices

WIDE = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "num_key_value_heads": 4}


def pruned(pattern="2:4", dtype=torch.bfloat16, **overrides):
    model = make_model(dtype=dtype, **WIDE | overrides)
    prune(model, None, Metric.parse("W"), Pattern.parse(pattern), calibration=make_tokens(2))
    return model


def obstacles(model):
    return {obstacle(matrix) for matrix in prunable_matrices(model)}


def test_matrices_that_can_be_converted():
    assert obstacles(pruned()) == {""}
    assert obstacles(pruned("1:4")) == {""}  # fewer kept fit too
    assert obstacles(pruned("50%")) == {"not 2:4"}
    assert obstacles(pruned(dtype=torch.float32)) == {"torch.float32 is no half precision"}
    assert "64 x 96: must be multiples of 32 and 64" in obstacles(pruned(intermediate_size=96))
    mixture = make_model("mixtral", dtype=torch.bfloat16)
    assert "not stored as [out, in] in a layer of its own" in obstacles(mixture)


def test_it_needs_a_gpu(tmp_path):
    model = pruned()
    with pytest.raises(InputError, match=r"accelerate '2:4': needs a CUDA device.* on cpu"):
        accelerate(model)
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="needs a CUDA device"):
        load_model(tmp_path, device="cpu", accelerate="2:4")
    with pytest.raises(InputError, match="accelerate '4:8': only '2:4'"):
        load_model(tmp_path, device="cpu", accelerate="4:8")


@pytest.mark.gpu
def test_a_sparse_model_predicts_like_the_dense_one(tmp_path):
    model = pruned(hidden_size=256, intermediate_size=512, head_dim=64)
    model.save_pretrained(tmp_path)
    dense, _ = load_model(tmp_path, device="cuda")
    sparse, _ = load_model(tmp_path, device="cuda", accelerate="2:4")
    assert len(sparse.acceleration.converted) == 21
    assert not sparse.acceleration.skipped
    tokens = make_tokens(2, 64).cuda()
    expected, found = dense(tokens).logits, sparse(tokens).logits
    assert (found - expected).norm() < 0.02 * expected.norm()
