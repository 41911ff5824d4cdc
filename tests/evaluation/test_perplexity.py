import math

import numpy as np
import pytest
import torch
from tiny_models import make_model, make_tokenizer, make_tokens

from prunerzero.data.windows import Windows
from prunerzero.errors import InputError
from prunerzero.evaluation import batches
from prunerzero.evaluation.perplexity import (
    TextLoss,
    mean_estimate,
    measure_loss,
    paired_interval,
    scored_bytes,
)
from prunerzero.models.compute import compute_for


def naive_perplexity(model, tokens):
    """As the pruning papers' public codes do it: float32, one window at a time."""
    total = 0.0
    with torch.no_grad():
        for window in tokens:
            logits = model(window[None]).logits[0].float()
            total += torch.nn.CrossEntropyLoss()(logits[:-1], window[1:]).item() * len(window)
    return math.exp(total / tokens.numel())


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
@pytest.mark.parametrize("batch_tokens", [1, 40, 1024])  # windows of 16: one, two, all a batch
def test_equals_an_independent_computation(monkeypatch, family, batch_tokens):
    monkeypatch.setattr(batches.batches, "__defaults__", (batch_tokens,))
    model, tokens = make_model(family), make_tokens(5)
    done = []
    loss = measure_loss(model, Windows(tokens), compute_for(model, "float32"), done.append)
    assert loss.perplexity == pytest.approx(naive_perplexity(model, tokens), rel=1e-5)
    assert (len(loss.losses), loss.tokens) == (5, 75)
    assert done[-1] == 5
    assert done == sorted(set(done))


def test_bfloat16_is_near():
    model, windows = make_model(), Windows(make_tokens(8))
    exact = measure_loss(model, windows, compute_for(model, "float32")).mean
    rough = measure_loss(model, windows, compute_for(model, "bfloat16")).mean
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.02)


def test_a_model_that_predicts_nothing_has_infinite_perplexity():
    assert TextLoss((800.0, 900.0), 2).perplexity == math.inf
    assert TextLoss((math.nan,), 1).perplexity == math.inf
    assert TextLoss((math.inf, 1.0), 2).perplexity == math.inf


def test_one_token_predicts_nothing():
    with pytest.raises(InputError, match="length of 2"):
        measure_loss(make_model(), Windows(make_tokens(2, 1)))


def test_paired_interval():
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 10
    base = torch.linspace(1, 5, 200, dtype=torch.float64)
    better = tuple((base - 0.05 + noise - noise.mean()).tolist())
    baseline = tuple(base.tolist())
    interval = paired_interval(better, baseline)
    assert interval.change == pytest.approx(math.expm1(-0.05))
    assert interval.low < interval.change < interval.high < 0
    # The standard error of the mean is 0.1 / sqrt(200) = 0.007: pairing removes the spread of base.
    assert interval.high - interval.low == pytest.approx(4 * 0.00707 * 0.95, rel=0.2)
    assert interval.significant
    assert interval == paired_interval(better, baseline)
    assert interval.to_json().keys() == {"change", "low", "high"}
    same = paired_interval(baseline, baseline)
    assert (same.change, same.low, same.high, same.significant) == (0, 0, 0, False)
    worse = paired_interval(tuple((base + noise - noise.mean()).tolist()), baseline)
    assert worse.low < 0 < worse.high
    assert not worse.significant


def test_bits_a_byte():
    # Two tokens a byte of text and one bit a token are two bits a byte.
    assert TextLoss((math.log(2),) * 3, 30).bits_per_byte(15) == pytest.approx(2)


def test_bytes_are_those_of_the_scored_tokens():
    tokenizer = make_tokenizer()
    text = "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich."
    tokens = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert len(tokens) == len(text.encode())  # its tokens are bytes
    whole = Windows(tokens[None])
    assert scored_bytes(whole, tokenizer) == len(tokens) - 1
    # The cut is not inside a character here.
    halves = Windows(tokens[:58].view(2, 29))
    assert scored_bytes(halves, tokenizer) == 58 - 2


def test_mean_estimate_weighs_windows_by_their_tokens():
    random = np.random.default_rng(0)
    counts = random.integers(0, 20, 300)
    totals = [float(random.normal(2, 1, count).sum()) for count in counts]
    found = mean_estimate(totals, counts.tolist())
    assert found.mean == pytest.approx(sum(totals) / counts.sum())
    # The standard error of a mean of 2,850 normal numbers.
    width = 2 * 1.96 / math.sqrt(counts.sum())
    assert found.high - found.low == pytest.approx(width, rel=0.15)
    assert found.low < found.mean < found.high
    assert found == mean_estimate(totals, counts.tolist())


def test_mean_estimate_of_windows_that_mostly_hold_nothing():
    found = mean_estimate([0.0, 0.0, 6.0], [0, 0, 3])
    assert (found.mean, found.low, found.high) == (2, 2, 2)
