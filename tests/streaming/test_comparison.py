import os

import pytest
from streaming.helpers import HALF, NM, save
from tiny_models import make_tokens

from prunerzero import load_model
from prunerzero.data.windows import Windows
from prunerzero.evaluation.comparison import Comparison
from prunerzero.models.blocks import find_blocks
from prunerzero.models.compute import compute_for
from prunerzero.recipe import Recipe
from prunerzero.streaming import statistics
from prunerzero.streaming.comparison import StreamedComparison
from prunerzero.streaming.opening import open_model


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_the_same_losses_as_in_memory(family, tmp_path, own_cache, monkeypatch):
    monkeypatch.setattr(statistics, "LEAST_AGREEMENT", 2.0)
    source = save(tmp_path / "source", family)
    tokens = make_tokens(4, 32)
    model, _ = load_model(source, device="cpu")
    compute = compute_for(model, "float32")
    whole = Comparison(model, find_blocks(model), tokens, compute)
    opened = open_model(str(source), "float32", "cpu")
    stored = statistics.gather_stored(opened, tokens, frozenset("WAF"))
    streamed = StreamedComparison(opened, stored, tokens)
    assert streamed.mixture == whole.mixture == (family == "mixtral")
    windows = Windows(make_tokens(40, 32, seed=9))
    expected, found = whole.measure_dense(windows), streamed.measure_dense(windows)
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    for metric, pattern in (("W", HALF), ("W * A", NM), ("W * F", HALF), ("W * A * F", HALF)):
        recipe = Recipe.from_json({"metric": metric})
        expected = whole.measure("x", recipe, pattern, windows)
        outcome = streamed.measure("x", recipe, pattern, windows)
        assert outcome.loss.losses == pytest.approx(expected.loss.losses, rel=1e-4)
        assert outcome.loss.tokens == expected.loss.tokens
        assert outcome.sparsity == expected.sparsity
    assert os.listdir(own_cache) == ["statistics"]
