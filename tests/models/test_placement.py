"""Where models lie. The test with several GPUs is the only one that spreads one for real."""

import sys

import pytest
import torch
from streaming.helpers import HALF, save
from tiny_models import make_model, make_tokens

from prunerzero import Metric, load_model, prune
from prunerzero.errors import MissingExtraError
from prunerzero.models.placement import place


def test_auto_without_several_gpus_is_the_default(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert place(make_model(), "auto").device == place(make_model(), None).device


def test_several_gpus_need_an_extra(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtraError, match="gpus"):
        place(make_model(), "auto")


@pytest.mark.gpu
@pytest.mark.parametrize("sequential", [True, False])
def test_a_model_spread_over_gpus_is_pruned_as_on_one(tmp_path, own_cache, sequential):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    source = save(tmp_path / "source")
    states = []
    for device in ("auto", "cuda:0"):
        model, _ = load_model(source, device=device)
        if device == "auto":
            assert len({parameter.device for parameter in model.parameters()}) > 1
        prune(model, None, Metric.parse("W * A * F"), HALF, calibration=make_tokens(),
              sequential=sequential)  # fmt: skip
        states.append({name: tensor.cpu() for name, tensor in model.state_dict().items()})
    for name, tensor in states[0].items():
        assert torch.equal(tensor == 0, states[1][name] == 0), name
