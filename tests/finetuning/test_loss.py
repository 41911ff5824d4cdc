import pytest
import torch
import torch.nn.functional as F
from tiny_models import make_tokens

from prunerzero.evaluation import batches
from prunerzero.finetuning import loss


@pytest.mark.parametrize("cached", [1, 700, 1 << 19])
def test_value_and_gradient_are_those_of_cross_entropy(monkeypatch, cached):
    monkeypatch.setattr(loss, "CACHED_LOGITS", cached)
    monkeypatch.setattr(batches, "CACHED_LOGITS", cached)
    ids = make_tokens(3, 7)
    logits = torch.randn(3, 7, 256, generator=torch.Generator().manual_seed(0)) * 4
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    found = loss.next_token_loss(ours * 1.0, ids)
    wanted = F.cross_entropy(theirs[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(found, wanted)
    (found * 0.3).backward()
    (wanted * 0.3).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)
