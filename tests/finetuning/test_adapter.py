import pytest
import torch
from tiny_models import make_model, make_tokens

from prunerzero.errors import InputError
from prunerzero.finetuning.adapter import ADAPTER, attach, detach
from prunerzero.finetuning.loss import next_token_loss
from prunerzero.models.blocks import prunable_matrices
from prunerzero.models.matrices import apply_mask


def sparse_model(family="llama", dtype=torch.float32):
    model = make_model(family, dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    for matrix in prunable_matrices(model):
        apply_mask(matrix, torch.rand(matrix.weight.shape, generator=generator) > 0.5)
    return model


def train(model, layers, steps=3, dtype=torch.float32):
    parameters = [
        part[ADAPTER].weight for layer in layers.values() for part in (layer.lora_A, layer.lora_B)
    ]
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    for step in range(steps):
        ids = make_tokens(4, 16, seed=step)
        for layer in layers.values():
            layer.begin_step(dtype)
        next_token_loss(model(ids, use_cache=False).logits, ids).backward()
        for layer in layers.values():
            layer.end_step()
        optimizer.step()


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "qwen3", "gemma2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.random.fork_rng()
def test_the_trained_model_is_the_merged_one_and_keeps_its_zeros(family, dtype):
    model = sparse_model(family, dtype)
    before = {m.name: m.weight.clone() for m in prunable_matrices(model)}
    layers = attach(model, prunable_matrices(model), 4, 4.0, seed=0, masked=True)
    train(model, layers, dtype=dtype)
    tokens = make_tokens(3, 20)
    trained = model(tokens).logits
    detach(model, layers)
    assert torch.equal(model(tokens).logits, trained)
    after = prunable_matrices(model)
    assert [matrix.name for matrix in after] == list(before)
    for matrix in after:
        zeros = before[matrix.name] == 0
        bits = torch.int32 if dtype is torch.float32 else torch.int16
        assert torch.equal(matrix.weight == 0, zeros)
        assert torch.equal(matrix.weight[zeros].view(bits), before[matrix.name][zeros].view(bits))
        assert not torch.equal(matrix.weight, before[matrix.name])
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_without_a_mask_zeros_learn():
    model = sparse_model()
    layers = attach(model, prunable_matrices(model), 4, 4.0, seed=0, masked=False)
    train(model, layers)
    detach(model, layers)
    assert all((matrix.weight != 0).float().mean() > 0.9 for matrix in prunable_matrices(model))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_gradients_are_those_of_autograd(family):
    model = sparse_model(family)
    layers = attach(model, prunable_matrices(model), 4, 6.0, seed=0, masked=True)
    for layer in layers.values():
        torch.nn.init.normal_(layer.lora_B[ADAPTER].weight, std=0.1)
    ids = make_tokens(4, 16)
    for layer in layers.values():
        layer.begin_step(torch.float32)
    for part in ids.split(2):
        (next_token_loss(model(part, use_cache=False).logits, part) / 2).backward()
    for layer in layers.values():
        layer.end_step()

    # W + M * (B A s), written out and left to autograd.
    names = {name: (layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight)
             for name, layer in layers.items()}  # fmt: skip
    weights = {}
    for name, (a, b) in names.items():
        base = layers[name].get_base_layer().weight
        delta = (b @ a) * 6.0 / 2
        delta = delta.T if delta.shape != base.shape or family == "gpt2" else delta
        weights[f"{name}.base_layer.weight"] = base + (base != 0) * delta
    for layer in layers.values():
        layer.forward = lambda x, layer=layer: layer.base_layer(x)
    loss = torch.func.functional_call(model, weights, (ids,), {"labels": ids}).loss
    wanted = torch.autograd.grad(loss, [part for pair in names.values() for part in pair])
    for (name, pair), expected in zip(names.items(), zip(*[iter(wanted)] * 2, strict=True),
                                      strict=True):  # fmt: skip
        for part, gradient in zip(pair, expected, strict=True):
            torch.testing.assert_close(part.grad, gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_the_seed_decides_where_training_begins():
    starts = []
    for seed in (0, 0, 1):
        model = sparse_model()
        layers = attach(model, prunable_matrices(model), 4, 4.0, seed=seed, masked=True)
        starts.append(next(iter(layers.values())).lora_A[ADAPTER].weight)
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_experts_in_stacks_are_left_alone():
    model = sparse_model("mixtral")
    experts = [matrix for matrix in prunable_matrices(model) if matrix.expert is not None]
    before = [matrix.weight.clone() for matrix in experts]
    layers = attach(model, prunable_matrices(model), 4, 4.0, seed=0, masked=True)
    assert len(layers) == 12  # attention
    train(model, layers)
    detach(model, layers)
    assert all(torch.equal(m.weight, w) for m, w in zip(experts, before, strict=True))
    with pytest.raises(InputError, match="experts"):
        attach(model, experts, 4, 4.0, seed=0, masked=True)
