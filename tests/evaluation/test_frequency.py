import math

import pytest
import torch
from tiny_models import VOCABULARY, make_tokenizer

from prunerzero.data.documents import Document
from prunerzero.evaluation.frequency import BANDS, by_frequency, frequency_bands, token_counts
from prunerzero.evaluation.tokens import TokenReadings


def test_counts_are_those_of_the_documents():
    tokenizer = make_tokenizer()
    documents = [Document(text, "t", text) for text in ("abba", "b c")]
    counts = token_counts(documents, tokenizer, VOCABULARY)
    expected = {"a": 2, "b": 3, " ": 1, "c": 1}
    for character, count in expected.items():
        [token] = tokenizer(character)["input_ids"]
        assert counts[token] == count
    assert counts.sum() == 7


def test_bands_are_quarters_of_the_occurrences():
    generator = torch.Generator().manual_seed(0)
    # Zipf's law, in any order of the vocabulary.
    counts = (10_000 / torch.arange(1, 2001))[torch.randperm(2000, generator=generator)].long()
    bands = frequency_bands(counts)
    shares = [float(counts[bands == band].sum() / counts.sum()) for band in range(4)]
    assert shares == pytest.approx([0.25] * 4, abs=0.08)
    for band in range(3):
        assert counts[bands == band].max() < counts[bands == band + 1].min()


def test_tokens_of_one_count_are_in_one_band():
    assert frequency_bands(torch.tensor([1, 1, 1, 1])).unique().numel() == 1
    bands = frequency_bands(torch.tensor([0, 0, 5, 5, 100, 0, 1]))
    assert bands[[0, 1, 5]].tolist() == [0, 0, 0]
    assert bands[2] == bands[3]
    assert bands[6] == 0


def test_perplexities_by_band():
    counts = torch.tensor([10, 12, 12, 12, 40])
    assert frequency_bands(counts).tolist() == [0, 1, 1, 1, 3]
    targets = torch.tensor([[0, 1, 4], [4, 2, 4]])
    dense = torch.tensor([[5.0, 3.0, 1.0], [1.0, 3.0, 1.0]])
    losses = torch.tensor([[7.0, 3.5, 1.1], [1.1, 3.5, 1.1]])
    readings = TokenReadings(targets, dense, targets > 0, losses, dense)
    found = by_frequency(readings, counts)
    assert [band.name for band in found] == list(BANDS)
    assert [band.tokens for band in found] == [1, 2, 0, 3]
    assert [band.kinds for band in found] == [1, 3, 0, 1]
    assert [(band.least, band.most) for band in found] == [(10, 10), (12, 12), (0, 0), (40, 40)]
    rarest, rare, empty, common = found
    assert rarest.dense_perplexity == pytest.approx(math.exp(5))
    assert rare.perplexity == pytest.approx(math.exp(3.5))
    assert common.change.change == pytest.approx(math.expm1(0.1), rel=1e-5)
    assert rarest.change.change == pytest.approx(math.expm1(2), rel=1e-5)
    assert empty.perplexity is empty.change is None
    assert empty.to_json()["dense_perplexity"] is None


def test_a_broken_model_is_no_fault():
    counts, targets = torch.tensor([1, 1]), torch.tensor([[0, 1]])
    losses = torch.tensor([[900.0, 900.0]])
    readings = TokenReadings(targets, losses, targets > 0, losses, torch.ones(1, 2))
    [band] = [band for band in by_frequency(readings, counts) if band.tokens]
    assert band.perplexity == band.change.change == math.inf
    assert band.dense_perplexity == pytest.approx(math.e)
