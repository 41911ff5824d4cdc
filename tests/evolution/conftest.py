"""A small model, a text that the four splits can be cut from, and a masker of the model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_models import make_model, make_text, make_tokenizer, make_tokens, save_model

from prunerzero.data.sources import load_documents
from prunerzero.data.splits import Split
from prunerzero.data.windows import WindowSampler
from prunerzero.evolution.masking import Masker
from prunerzero.models.blocks import find_blocks
from prunerzero.models.compute import compute_for
from prunerzero.pruning.pattern import Pattern
from prunerzero.statistics.cache import gather_statistics

LENGTH = 32
TERMINALS = frozenset("WGXAF")


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of a small random Llama."""
    return str(save_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A text of twelve documents; one token a character."""
    path: Path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": make_text(n, 1200)}) for n in range(12)))
    return str(path)


@pytest.fixture
def bench(own_cache: Path):
    """Makes a model with its masker: `bench("50%")`."""

    def make(pattern: str = "50%") -> SimpleNamespace:
        model = make_model()
        blocks = find_blocks(model)
        matrices = [matrix for block in blocks for matrix in block.matrices]
        compute = compute_for(model, "float32")
        tokens = make_tokens(4, LENGTH)
        statistics = gather_statistics(model, matrices, tokens, TERMINALS, compute)
        parsed = Pattern.parse(pattern)
        return SimpleNamespace(
            model=model,
            blocks=blocks,
            tokens=tokens,
            compute=compute,
            pattern=parsed,
            masker=Masker(model, matrices, statistics, parsed),
        )

    return make


@pytest.fixture
def sampler(text: str) -> WindowSampler:
    """Draws selection windows."""
    return WindowSampler(load_documents(text), make_tokenizer(), Split.SELECTION, LENGTH, seed=0)
