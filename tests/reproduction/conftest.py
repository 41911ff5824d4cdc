"""A small model, a text of twelve documents, and the sizes of a reproduction of seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import make_text, make_tokenizer, save_model

from prunerzero.reproduction.options import Options


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("reproduced") / "tiny"
    save_model(directory, num_hidden_layers=2, max_position_embeddings=2048)
    tokenizer = make_tokenizer()
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("reproduced-text") / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": make_text(n, 900)}) for n in range(12)))
    return str(path)


@pytest.fixture(scope="session")
def tiny_options(text: str) -> Options:
    return Options(
        experiments=("methods", "sparsity", "samples", "search", "simplification"),
        methods=("magnitude", "wanda", "pruner-zero"),
        patterns=("50%", "2:4"),
        sparsities=("30%", "50%"),
        sample_counts=(1, 2),
        seeds=2,
        samples=2,
        sequence_length=32,
        windows=3,
        proposals=14,
        population=5,
        fitness_windows=1,
        populations=3,
        calibration=text,
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reproduced-cache")


@pytest.fixture(autouse=True)
def _use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNERZERO_CACHE", str(cache))
