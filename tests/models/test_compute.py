import pytest
import torch
from tiny_models import make_model, make_tokens

from prunerzero.errors import InputError
from prunerzero.models import compute as module
from prunerzero.models.compute import compute_for


def test_precision_follows_request_then_weights_then_hardware(monkeypatch):
    model = make_model()
    assert compute_for(model, "float32").dtype is torch.float32
    assert compute_for(model, "bfloat16").dtype is torch.bfloat16
    for fast, chosen in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(module, "has_fast_bfloat16", lambda device, fast=fast: fast)
        assert compute_for(model).dtype is chosen
    assert compute_for(model.to(torch.float16)).dtype is torch.float16
    assert str(compute_for(model)) == "cpu, float16"


def test_refuses_what_it_cannot_give():
    with pytest.raises(InputError, match="dtype 'int8': not one of float32"):
        compute_for(make_model(), "int8")
    with pytest.raises(InputError, match="load the model with dtype='float32'"):
        compute_for(make_model(dtype=torch.bfloat16), "float32")


def test_autocast_changes_the_products_only_when_asked():
    model, tokens = make_model(), make_tokens(1)
    exact = model(tokens).logits
    for dtype in ("float32", "bfloat16"):
        with compute_for(model, dtype).autocast():
            logits = model(tokens).logits
        assert torch.equal(logits.float(), exact) == (dtype == "float32")
