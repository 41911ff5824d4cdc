"""A tokenizer, documents and an empty cache for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from prunerzero.data.documents import Document


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that texts can be read off tokens; it adds a token when allowed to."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate([*alphabet, "<s>"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    from tokenizers.processors import TemplateProcessing

    backend.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", len(alphabet))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", model_max_length=64)


@pytest.fixture(scope="session")
def make_document() -> Callable[[int, int], Document]:
    def make(number: int, length: int) -> Document:
        """A document of `length` bytes, each 12 of which occur nowhere else."""
        text = "".join(f"{number:03d}.{position:04d};" for position in range(length // 9 + 1))
        return Document(text[:length], "test", f"document {number}")

    return make


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setenv("PRUNERZERO_CACHE", str(cache))
    return cache
