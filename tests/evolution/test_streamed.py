"""A streamed model is pruned and measured as one in memory, to rounding."""

from types import SimpleNamespace

import pytest
import torch
from streaming.helpers import save
from tiny_models import make_tokens

from prunerzero import load_model
from prunerzero.evaluation.divergence import DenseReference
from prunerzero.evolution.guidance import measure_guidance
from prunerzero.evolution.masking import Masker
from prunerzero.evolution.streamed import StreamedMasker, measure_streamed_guidance
from prunerzero.models.blocks import find_blocks
from prunerzero.models.compute import compute_for
from prunerzero.pruning.allocation import CurvesAllocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.statistics.cache import gather_statistics
from prunerzero.streaming import statistics as module
from prunerzero.streaming.opening import open_model
from prunerzero.streaming.statistics import gather_stored

TERMINALS = frozenset("WXAF")
ALLOCATED = Recipe.from_json(
    {
        "metric": {"attention": "W * A", "mlp": "W * F * A"},
        "group": "matrix",
        "allocation": CurvesAllocation(curves={"up_proj": (0.1, -0.1)}).model_dump(),
    }
)
RECIPES = {"wanda": Recipe.named("wanda"), "allocated": ALLOCATED}


@pytest.fixture
def pair(tmp_path, own_cache, monkeypatch):
    """A checkpoint opened both ways, with the same statistics of the dense model."""
    monkeypatch.setattr(module, "LEAST_AGREEMENT", 2.0)  # all gradients stay float32

    def make(family="llama", pattern="50%"):
        source = save(tmp_path / family, family)
        tokens, parsed = make_tokens(4, 32), Pattern.parse(pattern)
        model, _ = load_model(source, device="cpu")
        matrices = [matrix for block in find_blocks(model) for matrix in block.matrices]
        compute = compute_for(model, "float32")
        statistics = gather_statistics(model, matrices, tokens, TERMINALS, compute)
        opened = open_model(str(source), "float32", "cpu")
        stored = gather_stored(opened, tokens, TERMINALS)
        return SimpleNamespace(
            whole=Masker(model, matrices, statistics, parsed),
            streamed=StreamedMasker(opened, tokens[:1], stored, parsed),
            statistics=statistics,
            stored=stored,
            tokens=make_tokens(3, 32, seed=7),
            compute=compute,
        )

    return make


@pytest.mark.parametrize(
    ("family", "pattern", "recipe"),
    [
        ("llama", "50%", "allocated"),
        ("llama", "2:4", "wanda"),
        ("gpt2", "50%", "wanda"),
        ("gemma2", "50%", "wanda"),
        ("mixtral", "50%", "allocated"),
    ],
)
def test_the_same_fitness_as_in_memory(pair, family, pattern, recipe):
    made, recipe = pair(family, pattern), RECIPES[recipe]
    readings, keys = [], []
    for masker in (made.whole, made.streamed):
        reference = DenseReference(masker.model, made.tokens, made.compute)
        assert reference.measure(masker.model).mean_kl < 1e-6
        keys.append(masker.sketch(recipe).fingerprint)
        masker.apply(recipe)
        readings.append(reference.measure(masker.model))
        masker.restore()
        assert reference.measure(masker.model).mean_kl < 1e-6
    assert keys[0] == keys[1]
    assert readings[0].mean_kl > 1e-3
    assert readings[1].kl == pytest.approx(readings[0].kl, rel=1e-4)
    assert readings[1].losses == pytest.approx(readings[0].losses, rel=1e-5)


def test_only_the_probes_stay_in_memory(pair):
    masker = pair().streamed
    names = {probe.name for probe in masker._probes}
    masker.apply(ALLOCATED)
    masker.model(make_tokens(2, 16))
    masker.probe_masks(ALLOCATED)
    assert set(masker.dense.weights) == names
    assert not masker._inputs.bytes
    assert all(parameter.is_meta for parameter in masker.model._opened.model.parameters())


def test_scores_that_rank_nothing_are_found_in_their_block(pair):
    masker = pair().streamed
    masker.apply(Recipe.from_json({"metric": "mms(W - W) * A"}))
    with pytest.raises(UnusableScores, match=r"layers\.0"):
        masker.model(make_tokens(1, 16))
    masker.restore()
    assert torch.isfinite(masker.model(make_tokens(1, 16)).logits).all()


@pytest.mark.parametrize(("family", "pattern"), [("llama", "2:4"), ("mixtral", "50%")])
def test_the_same_derivatives_as_in_memory(pair, family, pattern):
    made = pair(family, pattern)
    found = []
    for masker, measure in (
        (made.whole, measure_guidance),
        (made.streamed, measure_streamed_guidance),
    ):
        masker.restore()
        reference = DenseReference(masker.model, made.tokens, made.compute)
        found.append(
            measure(masker, RECIPES["wanda" if ":" in pattern else "allocated"], reference)
        )
    whole, streamed = found
    assert streamed.divergence == pytest.approx(whole.divergence, rel=1e-4)
    assert streamed.costs.keys() == whole.costs.keys()
    assert streamed.costs == pytest.approx(dict(whole.costs), rel=1e-3, abs=1e-7)
    for kind, slopes in whole.slopes.items():
        assert streamed.slopes[kind] == pytest.approx(slopes, rel=1e-3, abs=1e-6)


def test_statistics_on_disk_are_those_in_memory(pair):
    made = pair("mixtral")
    for matrix in made.whole.matrices:
        expected = made.statistics.of(matrix, TERMINALS)
        found = made.stored.of(matrix, TERMINALS)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-9)


def test_gradients_are_rounded_where_masks_agree(tmp_path, own_cache, monkeypatch):
    opened = open_model(str(save(tmp_path / "source")), "float32", "cpu")
    tokens = make_tokens(2, 32)
    count = sum(len(block.matrices) for block in opened.blocks)
    for least, kept in ((0.0, 0), (2.0, count)):
        monkeypatch.setattr(module, "LEAST_AGREEMENT", least)
        stored = gather_stored(opened, tokens, frozenset("F"))
        assert len(stored.rounding["kept"]) == kept
        assert 0.9 < stored.rounding["worst"] <= stored.rounding["agreement"] <= 1
        folder = next((own_cache / "statistics").iterdir())
        assert not list(folder.glob("sums-*"))
        (folder / "journal.json").unlink()  # gathered anew with the other limit


def test_statistics_are_gathered_once(tmp_path, own_cache, monkeypatch):
    opened = open_model(str(save(tmp_path / "source")), "float32", "cpu")
    tokens = make_tokens(2, 32)
    steps = []
    gather_stored(opened, tokens, TERMINALS, lambda step, *_: steps.append(step))
    assert "statistics" in steps
    steps.clear()
    gather_stored(opened, tokens, TERMINALS, lambda step, *_: steps.append(step))
    assert steps == []
