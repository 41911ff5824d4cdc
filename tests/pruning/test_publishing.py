"""Uploading to the hub, which the tests stand in for."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import ClassVar

import huggingface_hub
import pytest
from tiny_models import make_model, make_tokens

from prunerzero import Metric, Pattern, prune
from prunerzero.cli import app
from prunerzero.errors import InputError
from prunerzero.pruning.checkpoint import save_checkpoint
from prunerzero.pruning.publishing import push_to_hub


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = make_model("llama")
    pattern = Pattern.parse("2:4")
    result = prune(model, None, Metric.parse("W"), pattern, calibration=make_tokens(1))
    directory = tmp_path_factory.mktemp("push") / "out"
    save_checkpoint(model, None, result, directory, "owner/dense")
    return directory


class Hub:
    """Takes what is uploaded."""

    refusal: Exception | None = None
    made: ClassVar[list[tuple[str, bool]]] = []
    uploaded: ClassVar[dict[str, set[str]]] = {}

    def __init__(self, token: str | None = None) -> None:
        self.token = token

    def create_repo(self, name: str, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        if self.refusal:
            raise self.refusal
        self.made.append((name, private))

    def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> object:
        self.uploaded[repo_id] = {file.name for file in Path(folder_path).iterdir()}
        return types.SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(Hub, "made", [])
    monkeypatch.setattr(Hub, "uploaded", {})
    return Hub


def test_the_whole_checkpoint_goes_up(checkpoint: Path, hub: type[Hub], capsys) -> None:
    assert app.main(["push", str(checkpoint), "me/mine", "--private", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "repository": "me/mine",
        "commit": "https://hub/me/mine/commit/1",
    }
    assert hub.made == [("me/mine", True)]
    assert {"README.md", "pruning.json", "config.json", "model.safetensors"} <= hub.uploaded[
        "me/mine"
    ]


def test_the_card_names_the_base_model(checkpoint: Path) -> None:
    head = (checkpoint / "README.md").read_text().split("---")[1]
    assert "base_model: owner/dense" in head
    assert "pipeline_tag: text-generation" in head


def test_refusals(checkpoint: Path, hub: type[Hub], tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(InputError, match="no such directory"):
        push_to_hub(tmp_path / "none", "me/mine")
    with pytest.raises(InputError, match=r"holds no pruning\.json"):
        push_to_hub(tmp_path, "me/mine")
    monkeypatch.setattr(hub, "refusal", RuntimeError("401 Unauthorized.\nmore"))
    with pytest.raises(InputError, match="'me/mine': 401 Unauthorized; `hf auth login`"):
        push_to_hub(checkpoint, "me/mine")
    assert hub.uploaded == {}
