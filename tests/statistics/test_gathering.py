import pytest
import torch
from tiny_models import make_model, make_tokens

from prunerzero.models.blocks import prunable_matrices, watch_inputs
from prunerzero.models.compute import compute_for
from prunerzero.statistics.collectors import (
    ACTIVATION,
    COLLECTORS,
    GRADIENT,
    ROUTED,
    TOKENS,
    Sample,
    finish,
)
from prunerzero.statistics.gathering import gather_raw

FAMILIES = ["llama", "qwen2", "gpt2", "gemma2"]
BOTH = frozenset({ACTIVATION, GRADIENT, ROUTED, TOKENS})


def gather(model, tokens, wanted=BOTH, **options):
    compute = compute_for(model, "float32")
    return gather_raw(
        model, prunable_matrices(model), tokens, frozenset(wanted), compute, **options
    )


def naive(model, tokens):
    """All terminals from their definitions, in float64."""
    matrices = prunable_matrices(model)
    inputs = {matrix.name: [] for matrix in matrices}
    gradients = {matrix.name: [] for matrix in matrices}
    handles = watch_inputs(matrices, lambda m, given, _: inputs[m.name].append(given[0].double()))
    weights = [matrix.parameter.requires_grad_(True) for matrix in matrices]
    for window in tokens:
        loss = model(window[None], labels=window[None]).loss
        for matrix, gradient in zip(matrices, torch.autograd.grad(loss, weights), strict=True):
            gradient = gradient.T if matrix.transposed else gradient
            gradients[matrix.name].append(gradient.double())
    for handle in handles:
        handle.remove()
    for weight in weights:
        weight.requires_grad_(False)
    found = {}
    for matrix in matrices:
        x, g = torch.cat(inputs[matrix.name]).detach(), torch.stack(gradients[matrix.name])
        found[matrix.name] = {
            "X": (x**2).sum(0, keepdim=True) / len(tokens),
            "A": (x**2).mean(0, keepdim=True).sqrt(),
            "R": (x**2).mean(0, keepdim=True).sqrt(),  # no routers here
            "G": ((100 * g) ** 2).sum(0).sqrt(),
            "F": (g**2).mean(0).sqrt(),
        }
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_terminals_follow_their_definitions(family):
    model, tokens = make_model(family), make_tokens(4)
    expected = naive(model, tokens)
    sample = Sample(sequences=4, tokens=tokens.numel())
    raw = gather(model, tokens)
    assert raw.keys() == expected.keys()
    for name, sums in raw.items():
        found = finish(frozenset(COLLECTORS), sums, sample)
        assert found.keys() == expected[name].keys()
        for terminal, tensor in found.items():
            assert tensor.is_contiguous()
            largest = expected[name][terminal].max().item()
            torch.testing.assert_close(
                tensor.double(), expected[name][terminal], rtol=1e-4, atol=1e-6 * largest
            )


def test_one_pass_gives_what_two_passes_give():
    model, tokens = make_model(), make_tokens(3)
    both = gather(model, tokens)
    activations = gather(model, tokens, {ACTIVATION})
    gradients = gather(model, tokens, {GRADIENT})
    for name, sums in both.items():
        assert torch.equal(sums[ACTIVATION], activations[name][ACTIVATION])
        assert torch.equal(sums[GRADIENT], gradients[name][GRADIENT])
        assert activations[name].keys() == {ACTIVATION}
        assert gradients[name].keys() == {GRADIENT}


@pytest.mark.parametrize("trainable", [False, True])
def test_the_model_is_left_as_it_was(trainable):
    model = make_model().requires_grad_(trainable)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    held = []

    def advance(done):
        held.append(sum(parameter.grad is not None for parameter in model.parameters()))

    gather(model, make_tokens(3), advance=advance)
    assert held == [0, 0, 0]  # no gradient outlives its window, the embedding's neither
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert parameter.requires_grad == trainable
        assert torch.equal(parameter, before[name])
        assert not parameter._post_accumulate_grad_hooks
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_a_failing_pass_leaves_the_model_as_it_was():
    model = make_model()
    with pytest.raises(IndexError):
        gather(model, make_tokens(2) + 1000)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_bfloat16_is_near():
    model, tokens = make_model(), make_tokens(3)
    exact = gather(model, tokens)
    rough = gather_raw(
        model, prunable_matrices(model), tokens, BOTH, compute_for(model, "bfloat16")
    )
    for name, sums in exact.items():
        for key, tensor in sums.items():
            assert rough[name][key].dtype is torch.float32
            error = (rough[name][key] - tensor).norm() / tensor.norm()
            assert error < 0.05
