import pytest
import torch
import torch.nn.functional as F
from tiny_models import VOCABULARY, make_model, make_tokens

from prunerzero.data.windows import Windows
from prunerzero.evaluation import batches, divergence
from prunerzero.evaluation.batches import log_normaliser, target_losses
from prunerzero.evaluation.divergence import DenseReference, Divergence
from prunerzero.evaluation.perplexity import measure_loss
from prunerzero.models.compute import compute_for


def perturbed(strength):
    model = make_model()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(strength * torch.randn(parameter.shape, generator=generator))
    return model


def full_kl(dense, model, tokens):
    """KL(dense || model) over the whole vocabulary, the mean of each window."""
    with torch.no_grad():
        p = F.log_softmax(dense(tokens).logits[:, :-1].double(), -1)
        q = F.log_softmax(model(tokens).logits[:, :-1].double(), -1)
    return (p.exp() * (p - q)).sum(-1).mean(1)


def measure(dense, model, tokens):
    return DenseReference(dense, tokens, compute_for(dense, "float32")).measure(model)


@pytest.mark.parametrize("strength", [0.001, 0.02, 0.1])
@pytest.mark.parametrize("kept", [VOCABULARY - 1, 10_000])
def test_all_tokens_kept_give_the_full_divergence(monkeypatch, strength, kept):
    monkeypatch.setattr(divergence, "KEPT_TOKENS", kept)
    dense, model, tokens = make_model(), perturbed(strength), make_tokens(5)
    found = measure(dense, model, tokens)
    expected = full_kl(dense, model, tokens)
    # The floor under the tail's mass moves a divergence by about 1e-6.
    assert found.kl == pytest.approx(expected.tolist(), rel=1e-3, abs=2e-6)


@pytest.mark.parametrize("kept", [1, 4, 32])
def test_fewer_tokens_bound_it_from_below(monkeypatch, kept):
    dense, model, tokens = make_model(), perturbed(0.05), make_tokens(5)
    expected = full_kl(dense, model, tokens)
    monkeypatch.setattr(divergence, "KEPT_TOKENS", kept)
    found = measure(dense, model, tokens)
    assert all(0 < ours < full + 1e-6 for ours, full in zip(found.kl, expected, strict=True))
    monkeypatch.setattr(divergence, "KEPT_TOKENS", 2 * kept)
    assert found.mean_kl < measure(dense, model, tokens).mean_kl


def test_the_dense_model_does_not_diverge_from_itself():
    dense, tokens = make_model(), make_tokens(5)
    assert measure(dense, dense, tokens).kl == (0.0,) * 5


def test_it_is_never_negative():
    dense, tokens = make_model(), make_tokens(5)
    for step in range(5):
        assert min(measure(dense, perturbed(1e-6 * 10**step), tokens).kl) >= 0


def test_losses_are_those_of_the_perplexity(monkeypatch):
    dense, model, tokens = make_model(), perturbed(0.05), make_tokens(5)
    expected = measure_loss(model, Windows(tokens), compute_for(model, "float32"))
    found = measure(dense, model, tokens)
    assert found.losses == pytest.approx(expected.losses, rel=1e-6)
    assert found.mean_loss == pytest.approx(expected.mean, rel=1e-6)


def test_readings_of_part_of_the_windows_add_up():
    dense, model, tokens = make_model(), perturbed(0.05), make_tokens(5)
    whole = measure(dense, model, tokens)
    parts = measure(dense, model, tokens[:2]) + measure(dense, model, tokens[2:])
    assert parts.kl == pytest.approx(whole.kl, rel=1e-4)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-5)


def test_the_first_windows_of_a_reading():
    dense, model, tokens = make_model(), perturbed(0.05), make_tokens(5)
    whole = measure(dense, model, tokens)
    assert whole.first(2) + Divergence(whole.kl[2:], whole.losses[2:]) == whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cached", [1, 100, 1 << 19])
def test_the_normaliser_is_the_logsumexp_in_float32(monkeypatch, dtype, cached):
    monkeypatch.setattr(batches, "CACHED_LOGITS", cached)
    generator = torch.Generator().manual_seed(0)
    logits = (20 * torch.randn(3, 8, 50, generator=generator)).to(dtype)[:, :-1]
    found = log_normaliser(logits)
    torch.testing.assert_close(found, torch.logsumexp(logits.float(), -1), rtol=1e-6, atol=0)
    targets = torch.zeros(3, 7, dtype=torch.int64)
    expected = -torch.log_softmax(logits.float(), -1)[..., 0]
    torch.testing.assert_close(target_losses(logits, found, targets), expected)


def test_a_model_of_half_precision():
    dense, tokens = make_model(dtype=torch.bfloat16), make_tokens(5)
    compute = compute_for(dense, "bfloat16")
    reference = DenseReference(dense, tokens, compute)
    assert reference.measure(dense).kl == (0.0,) * 5
    found = reference.measure(perturbed(0.05).to(torch.bfloat16))
    assert found.mean_kl == pytest.approx(
        measure(make_model(), perturbed(0.05), tokens).mean_kl, 0.1
    )


def test_memory_is_bounded(monkeypatch):
    dense, model, tokens = make_model(), perturbed(0.05), make_tokens(5)
    generous = DenseReference(dense, tokens, compute_for(dense, "float32"))
    limit = 5000
    monkeypatch.setattr(divergence, "MOST_BYTES", limit)
    frugal = DenseReference(dense, tokens, compute_for(dense, "float32"))
    kept = [tensor for batch in frugal.batches for tensor in (batch.top, batch.log_top)]
    assert limit / 2 < sum(tensor.untyped_storage().nbytes() for tensor in kept) <= limit
    assert 0 < frugal.measure(model).mean_kl < generous.measure(model).mean_kl
