import pytest
import torch
from tiny_models import make_model, make_tokens

from prunerzero.errors import InputError
from prunerzero.models.blocks import find_blocks, prunable_matrices, watch_inputs
from prunerzero.models.compute import compute_for
from prunerzero.statistics.collectors import (
    ABSOLUTE_GRADIENT,
    ACTIVATION,
    COLLECTORS,
    GRADIENT,
    GRAM,
    INPUT,
    REGIONAL,
    ROUTED,
    SIGNED_GRADIENT,
    TOKENS,
    Sample,
    finish,
)
from prunerzero.statistics.gathering import ActivationSums, fill_unreached, gather_raw

FAMILIES = ["llama", "qwen2", "gpt2", "gemma2"]
BOTH = frozenset({ACTIVATION, GRADIENT, ROUTED, TOKENS})
EVERYTHING = BOTH | {ABSOLUTE_GRADIENT, GRAM, INPUT, REGIONAL, SIGNED_GRADIENT}


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
    inside = regional(model, tokens)
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
            "Amean": x.mean(0, keepdim=True),
            "Avar": x.var(0, unbiased=False, keepdim=True),
            "Gmean": g.mean(0),
            "G1": (100 * g).abs().sum(0),
            "B": (inside[matrix.name] ** 2).mean(0).sqrt(),
            "H": x.T @ x,
        }
        moments = x.T @ x / len(x)
        damped = moments + 0.01 * moments.diagonal().mean() * torch.eye(len(moments))
        inverses = [torch.linalg.inv(damped[j:, j:]) for j in range(len(damped))]
        found[matrix.name]["Hinv"] = inverses[0].diagonal()[None]
        found[matrix.name]["Hfree"] = torch.stack([inverse[0, 0] for inverse in inverses])[None]
    return found


def regional(model, tokens):
    """Gradients of every block's output norm, by autograd through the whole model, in float64.

    The graph of one whole pass is asked for the gradients of one block's weights at a time: with
    respect to these the norm of that block's output is a function of that block alone.
    """
    found = {matrix.name: [] for matrix in prunable_matrices(model)}
    for window in tokens:
        outputs = []
        blocks = find_blocks(model)

        def keep(_module, _args, output, outputs=outputs):
            outputs.append(output)

        handles = [block.module.register_forward_hook(keep) for block in blocks]
        model(window[None])
        for handle in handles:
            handle.remove()
        for block, output in zip(blocks, outputs, strict=True):
            output = output[0] if isinstance(output, tuple) else output
            weights = [matrix.parameter for matrix in block.matrices]
            gradients = torch.autograd.grad(output.norm(), weights, retain_graph=True)
            for matrix, gradient in zip(block.matrices, gradients, strict=True):
                found[matrix.name].append((gradient.T if matrix.transposed else gradient).double())
    return {name: torch.stack(gradients) for name, gradients in found.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_terminals_follow_their_definitions(family):
    model, tokens = make_model(family), make_tokens(4)
    expected = naive(model, tokens)
    sample = Sample(sequences=4, tokens=tokens.numel())
    raw = gather(model, tokens, EVERYTHING)
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


def test_gram_matrices_are_shared_where_inputs_are():
    raw = gather(make_model(), make_tokens(4), {GRAM})
    assert all(sums.keys() == {GRAM} for sums in raw.values())
    for block in range(3):
        names = [name for name in raw if name.startswith(f"model.layers.{block}.")]
        owners = {name.split(".")[-1]: raw[name][GRAM].data_ptr() for name in names}
        assert owners["q_proj"] == owners["k_proj"] == owners["v_proj"]
        assert owners["gate_proj"] == owners["up_proj"]
        assert len(set(owners.values())) == 4


def test_inputs_that_are_shared_at_times_only_are_told_apart():
    model, seen = make_model(), torch.randn(2, 6, 32)
    first, second = (m for m in prunable_matrices(model) if m.name.startswith("model.layers.0.")
                     and m.kind in ("q_proj", "o_proj"))  # fmt: skip
    sums = ActivationSums([first, second], frozenset({GRAM}))
    for layer, inputs in ((first, seen[0]), (second, seen[0]), (first, seen[1])):
        layer.module(inputs)
    sums.close()
    expected = [inputs.T @ inputs for inputs in seen]
    found = sums.sums()
    torch.testing.assert_close(found[first.name][GRAM], expected[0] + expected[1])
    torch.testing.assert_close(found[second.name][GRAM], expected[0])


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral"])
def test_experts_have_gram_matrices_of_their_own_tokens(family):
    raw = gather(make_model(family), make_tokens(4), {GRAM, ACTIVATION, TOKENS})
    for sums in raw.values():
        diagonal = sums[GRAM].diagonal()[None]
        torch.testing.assert_close(diagonal, sums[ACTIVATION], rtol=1e-4, atol=1e-5)


def test_gram_matrices_are_of_float32_under_autocast():
    model, tokens = make_model(), make_tokens(3)
    matrices = prunable_matrices(model)
    raw = gather_raw(
        model, matrices, tokens, frozenset({GRAM, ACTIVATION}), compute_for(model, "bfloat16")
    )
    for sums in raw.values():
        diagonal = sums[GRAM].diagonal()[None]
        torch.testing.assert_close(diagonal, sums[ACTIVATION], rtol=1e-5, atol=1e-6)


def test_who_meets_no_token_has_unrelated_inputs_or_its_siblings():
    matrices = [m for m in prunable_matrices(make_model("qwen3_moe")) if m.siblings][:4]
    eye = torch.eye(32)
    raw = {m.name: {GRAM: eye * index} for index, m in enumerate(matrices)}
    assert fill_unreached(raw, matrices) == [matrices[0].name]
    torch.testing.assert_close(raw[matrices[0].name][GRAM], eye * 6)
    alone = {matrices[0].name: {GRAM: eye * 0}}
    fill_unreached(alone, matrices[:1])
    torch.testing.assert_close(alone[matrices[0].name][GRAM], eye)


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
    with pytest.raises(InputError, match="is given token id"):
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
