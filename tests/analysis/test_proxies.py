import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from tiny_models import make_model, make_tokens

from prunerzero.analysis.proxies import Proxies
from prunerzero.analysis.similarity import (
    ROWS,
    best_of_each,
    mask_families,
    mean_row_correlation,
    score_ranks,
    similarity,
)
from prunerzero.evolution.masking import Masker
from prunerzero.models.blocks import find_blocks, watch_inputs
from prunerzero.models.compute import compute_for
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.statistics.cache import gather_statistics

WANDA = Recipe.named("wanda")


def recipe(metric, **more):
    return Recipe.from_json({"metric": metric, **more})


@pytest.fixture
def masker(own_cache):
    model = make_model(num_hidden_layers=2)
    matrices = [matrix for block in find_blocks(model) for matrix in block.matrices]
    statistics = gather_statistics(
        model, matrices, make_tokens(2, 16), frozenset("WXA"), compute_for(model, "float32")
    )
    return Masker(model, matrices, statistics, Pattern.parse("50%"))


def test_reconstruction_and_block_divergence_by_definition(masker):
    model, tokens = masker.model, make_tokens(2, 16)
    blocks = find_blocks(model)
    proxies = Proxies(masker, blocks, tokens, compute_for(model, "float32"))
    inputs = {}

    def keep(matrix, x, _gates):
        inputs[matrix.name] = x.reshape(-1, x.shape[-1]).clone()

    handles = watch_inputs(masker.matrices, keep)
    one = tokens[:1]
    with torch.no_grad():
        states = model(one, output_hidden_states=True, use_cache=False).hidden_states
    for handle in handles:
        handle.remove()
    single = Proxies(masker, blocks, one, compute_for(model, "float32"))
    dense = {matrix.name: matrix.weight.clone() for matrix in masker.matrices}
    masker.apply(WANDA)
    reading = single.measure(WANDA)
    errors = []
    for matrix in masker.matrices:
        x = inputs[matrix.name].T
        whole = dense[matrix.name] @ x
        errors.append(float((whole - matrix.weight @ x).norm() / whole.norm()))
    assert reading.reconstruction == pytest.approx(np.mean(errors), rel=1e-4)
    assert reading.score_correlation == pytest.approx(1)
    # The first block, run on its own: its input is the embedding, its output the next state.
    arguments = {"position_embeddings": model.model.rotary_emb(states[0], torch.arange(16)[None])}
    with torch.no_grad():
        pruned = blocks[0].module(states[0], **arguments)
    pruned = pruned[0] if isinstance(pruned, tuple) else pruned
    first = float((pruned - states[1]).norm() / (states[1] - states[0]).norm())
    assert 0 < first < 2 * reading.block_divergence  # the mean of two blocks
    both = proxies.measure(WANDA)
    assert both.reconstruction == pytest.approx(reading.reconstruction, rel=0.3)
    masker.restore()
    still = single.measure(WANDA)
    assert still.reconstruction == 0
    assert still.block_divergence == pytest.approx(0, abs=1e-6)


def test_a_worse_recipe_has_the_larger_error(masker):
    model = masker.model
    compute = compute_for(model, "float32")
    proxies = Proxies(masker, find_blocks(model), make_tokens(4, 16), compute)
    readings = {}
    for text in ("W * A", "-W * A"):
        masker.apply(recipe(text))
        readings[text] = proxies.measure(recipe(text))
        masker.restore()
    good, bad = readings.values()
    assert good.reconstruction < bad.reconstruction
    assert good.block_divergence < bad.block_divergence
    assert bad.score_correlation == pytest.approx(-1)


def test_similarity_by_counting(masker):
    recipes = [recipe("W"), recipe("W * A"), recipe("W", group="matrix")]
    found = similarity(masker, recipes)
    masks = [torch.cat([m.flatten() for m in masker.probe_masks(one)]) for one in recipes]
    for i, one in enumerate(masks):
        for j, other in enumerate(masks):
            both, either = int((~one & ~other).sum()), int((~one | ~other).sum())
            assert found.jaccard[i, j] == pytest.approx(both / either)
            assert found.agreement[i, j] == pytest.approx(float((one == other).float().mean()))
    assert found.scores == pytest.approx(found.scores.T)
    assert found.scores[0, 2] == pytest.approx(1)  # the group changes masks, not scores
    assert found.jaccard[0, 2] < 1


def test_row_correlation_is_spearmans(masker):
    first, second = (score_ranks(masker, recipe(text)) for text in ("W", "W * A"))
    rows = []
    for probe in masker.probes:
        chosen = torch.linspace(0, probe.shape.rows - 1, min(ROWS, probe.shape.rows)).round().long()
        scores = [masker.scores(recipe(text), probe)[chosen].numpy() for text in ("W", "W * A")]
        rows += [spearmanr(a, b).statistic for a, b in zip(*scores, strict=True)]
    assert mean_row_correlation(first, second) == pytest.approx(np.mean(rows))


def test_families_and_their_best():
    agreement = np.array([[1, 0.6, 0.99], [0.6, 1, 0.61], [0.99, 0.61, 1]])
    families = mask_families(agreement)
    assert families.labels == (0, 1, 0)
    assert families.linkage.shape == (2, 4)
    assert families.linkage[0, 2] == pytest.approx(0.01)
    assert families.linkage[1, 2] == pytest.approx((0.4 + 0.39) / 2)  # average linkage
    assert best_of_each(families.labels, [3.0, 1.0, 2.0]) == [1, 2]
