"""The demo assets in a cache of its own, a small model with a long context, loaded tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_models import make_model, make_tokenizer

from prunerzero.evaluation.zeroshot.offline import OFFLINE
from prunerzero.evaluation.zeroshot.tasks import load_tasks
from prunerzero.files import cache_dir


@pytest.fixture(scope="session")
def zero_shot_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("zero-shot-cache")
    (cache / "assets").symlink_to(cache_dir() / "assets")
    return cache


@pytest.fixture
def assets(zero_shot_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRUNERZERO_CACHE", str(zero_shot_cache))
    return zero_shot_cache


@pytest.fixture(scope="session")
def offline_tasks(zero_shot_cache: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNERZERO_CACHE", str(zero_shot_cache))
        return load_tasks(list(OFFLINE))


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.model_max_length = 2048
    return tokenizer


@pytest.fixture(scope="session")
def model() -> Any:
    return make_model(max_position_embeddings=2048)
