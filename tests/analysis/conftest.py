"""A small random model, and a small study that a search of it has left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_models import make_text, save_model

from prunerzero.evolution.runner import search
from prunerzero.evolution.settings import Budget


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a search's study ``s.db`` and a random search's ``r.db``."""
    folder = tmp_path_factory.mktemp("searched")
    model = str(save_model(folder / "tiny", num_hidden_layers=2))
    for name, first in (("text", 0), ("other", 40)):
        texts = [json.dumps({"text": make_text(n, 900)}) for n in range(first, first + 12)]
        (folder / f"{name}.jsonl").write_text("\n".join(texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNERZERO_CACHE", str(folder / "cache"))
        for study, preset in (("s.db", "default"), ("r.db", "random")):
            search(
                model,
                "50%",
                study=folder / study,
                budget=Budget(candidates=14 if preset == "default" else 6),
                preset=preset,  # type: ignore[arg-type]
                calibration=str(folder / "text.jsonl"),
                samples=2,
                sequence_length=32,
            )
    return folder


@pytest.fixture
def study(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the study, so that each test begins its analysis anew."""
    monkeypatch.setenv("PRUNERZERO_CACHE", str(searched / "cache"))
    shutil.copy(searched / "s.db", tmp_path / "s.db")
    return tmp_path / "s.db"
