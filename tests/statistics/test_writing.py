import pytest
import torch
from tiny_models import make_model, make_tokenizer

from prunerzero.data.sources import load_documents
from prunerzero.data.splits import Split, split_documents
from prunerzero.errors import InputError
from prunerzero.metric import Metric
from prunerzero.models.compute import compute_for
from prunerzero.pruning.calibration import calibration_windows, describe
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import prune
from prunerzero.statistics import writing


def write(model, samples=2, seed=0, report=lambda *_: None):
    tokenizer = make_tokenizer()
    return writing.written_texts(model, tokenizer, samples, 16, compute_for(model), seed, report)


def test_a_model_writes_the_same_text_again_from_the_cache(own_cache, monkeypatch):
    model = make_model()
    before = torch.random.get_rng_state()
    steps = []
    texts = write(model, report=lambda *step: steps.append(step))
    assert len(texts) == writing.BATCH
    assert len(set(texts)) == writing.BATCH
    assert steps[-1] == ("writing calibration text", 64, 64)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert write(make_model(seed=1)) != texts
    assert write(model, seed=1) != texts
    more = write(model, samples=60)
    assert more[: len(texts)] == texts
    assert len(more) == writing.documents_for(60, 16, 64) == 2 * writing.BATCH
    monkeypatch.setattr(writing, "_write", None)  # may not be needed any more
    assert write(model) == texts


def test_it_writes_what_it_finds_likely(own_cache, monkeypatch):
    """A model that predicts one byte with certainty writes that byte."""
    model = make_model()
    model.lm_head.weight.zero_()
    bias = torch.full((256,), -50.0)
    bias[65] = 50.0
    model.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)
    token = make_tokenizer().decode([65])
    assert all(text.endswith(token * 60) for text in write(model))
    assert len({text[0] for text in write(model)}) > 8  # first tokens are drawn from all


def test_it_is_a_source_like_any_other(own_cache, tmp_path):
    model, tokenizer = make_model(), make_tokenizer()
    windows = calibration_windows(model, tokenizer, "self", 4, 16, 0)
    assert windows.split is Split.CALIBRATION
    assert describe(windows)["source"] == "self"
    texts = writing.written_texts(model, tokenizer, 4, 16, compute_for(model))
    chosen = {d.hash for d in split_documents(_documents(texts))[Split.CALIBRATION]}
    assert set(windows.documents) <= chosen
    result = prune(model, tokenizer, Metric.named("wanda"), Pattern.parse("50%"),
                   calibration="self", samples=4, sequence_length=16)  # fmt: skip
    assert result.settings["calibration"]["tokens_hash"] == windows.hash


def _documents(texts):
    from prunerzero.data.documents import Document

    return [Document(text, "self", f"self {n}") for n, text in enumerate(texts, 1)]


def test_without_a_model_there_is_no_such_text():
    with pytest.raises(InputError, match=r"text 'self': is written by the model"):
        load_documents("self")
