import pytest
import torch
import torch.nn.functional as F
from tiny_models import make_model, make_tokens

from prunerzero.data.windows import Windows
from prunerzero.evaluation import batches
from prunerzero.evaluation.perplexity import measure_loss
from prunerzero.evaluation.tokens import TokenReadings, compare_predictions
from prunerzero.models.compute import compute_for


def perturbed(strength):
    model = make_model()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(strength * torch.randn(parameter.shape, generator=generator))
    return model


def compare(model, dense, tokens, **options):
    return compare_predictions(
        model,
        dense,
        tokens,
        compute_for(model, "float32"),
        compute_for(dense, "float32"),
        **options,
    )


@pytest.mark.parametrize("batch_tokens", [1, 40, 1024])
def test_equals_a_plain_computation(monkeypatch, batch_tokens):
    monkeypatch.setattr(batches.batches, "__defaults__", (batch_tokens,))
    dense, model, tokens, done = make_model(), perturbed(0.05), make_tokens(5), []
    found = compare(model, dense, tokens, advance=done.append)
    p, q = (F.log_softmax(each(tokens).logits[:, :-1].double(), -1) for each in (dense, model))
    targets = tokens[:, 1:]
    assert torch.equal(found.targets, targets)
    torch.testing.assert_close(found.kl.double(), (p.exp() * (p - q)).sum(-1), rtol=1e-4, atol=1e-6)
    assert torch.equal(found.agrees, p.argmax(-1) == q.argmax(-1))
    assert 0 < found.agrees.float().mean() < 1
    for losses, log in ((found.losses, q), (found.dense_losses, p)):
        expected = -log.gather(-1, targets[..., None]).squeeze(-1)
        torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-6)
    assert done[-1] == 5


def test_losses_are_those_of_the_perplexity():
    dense, model, tokens = make_model(), perturbed(0.05), make_tokens(5)
    found = compare(model, dense, tokens)
    for mine, theirs in ((found.loss(), model), (found.dense_loss(), dense)):
        expected = measure_loss(theirs, Windows(tokens), compute_for(theirs, "float32"))
        assert mine.losses == pytest.approx(expected.losses, rel=1e-6)
        assert mine.tokens == expected.tokens


def test_a_model_does_not_differ_from_itself():
    model = make_model()
    found = compare(model, model, make_tokens(5))
    assert found.kl.max() == 0
    assert found.agreement(0).mean == 1
    assert found.losses.equal(found.dense_losses)


def test_parts_join():
    dense, model, tokens = make_model(), perturbed(0.05), make_tokens(5)
    whole = compare(model, dense, tokens)
    parts = TokenReadings.join([compare(model, dense, part) for part in tokens.split([2, 3])])
    torch.testing.assert_close(parts.kl, whole.kl, rtol=1e-4, atol=1e-6)
    assert parts.targets.equal(whole.targets)
    kl = whole.mean_kl(0)
    assert kl.mean == pytest.approx(float(whole.kl.mean()))
    assert kl.low < kl.mean < kl.high
