"""What the hub is asked before a model is loaded."""

from __future__ import annotations

import types

import pytest

from prunerzero.errors import InputError
from prunerzero.models import hub


def answering(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    """Makes the hub answer, or raise."""

    def model_info(self: object, name: str, **options: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(hub.HfApi, "model_info", model_info)


def test_the_first_use_says_what_it_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"model-1.safetensors": 2_000_000_000, "model-2.safetensors": 500_000_000, "x.bin": 9}
    siblings = [types.SimpleNamespace(rfilename=name, size=size) for name, size in files.items()]
    answering(monkeypatch, types.SimpleNamespace(siblings=siblings))
    monkeypatch.setattr(hub, "_cached", lambda name: False)
    line = hub.first_use("owner/model")
    assert line is not None
    assert line.startswith("first use of owner/model: 2.50 GB of weights from the Hugging Face hub")
    monkeypatch.setattr(hub, "_cached", lambda name: True)
    assert hub.first_use("owner/model") is None


def test_an_unreachable_hub_is_left_to_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, ConnectionError("no network"))
    monkeypatch.setattr(hub, "_cached", lambda name: False)
    assert hub.first_use("smollm") is None
    with pytest.raises(InputError, match=r"cannot be reached .*; did you mean 'smollm2'\?"):
        hub.reachable("smollm")
