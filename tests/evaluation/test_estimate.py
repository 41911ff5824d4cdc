import pytest
import torch
from tiny_models import make_model

from prunerzero.evaluation.estimate import (
    Cost,
    Speed,
    cost_of_pruning,
    duration,
    memory,
    recipe_seconds,
    shared_seconds,
)
from prunerzero.models.blocks import find_blocks
from prunerzero.models.compute import compute_for
from prunerzero.recipe import Recipe

SPEED = Speed(tokens=1000.0, products=1e9)


def seconds(name, tokens=1000, evaluated=0, sequential=True):
    blocks = find_blocks(make_model())
    return recipe_seconds(
        Recipe.named(name), blocks, SPEED, tokens, evaluated, sequential=sequential
    )


def test_passes_are_counted():
    assert seconds("wanda") - seconds("magnitude") == pytest.approx(2.0)  # each block twice
    assert seconds("wanda", sequential=False) == seconds("magnitude")
    assert seconds("magnitude", evaluated=500) - seconds("magnitude") == pytest.approx(0.5)
    assert shared_seconds([Recipe.named("wanda")], SPEED, 1000) == 0
    both = shared_seconds([Recipe.named("gblm"), Recipe.named("gblm-l1")], SPEED, 1000)
    assert both == shared_seconds([Recipe.named("gblm")], SPEED, 1000) > 1


def test_gram_matrices_and_updates_cost_products():
    tokens = 1000
    # Four different inputs in each of three blocks, of width 32, 32, 32 and 64.
    gram = 3 * (3 * 32**2 + 64**2) * 2 * tokens + 3 * (3 * 32**3 + 64**3) * 2
    assert seconds("obs") - seconds("wanda") == pytest.approx(gram / SPEED.products, rel=0.35)
    assert seconds("wanda-sparsegpt") > seconds("obs")


def test_memory_grows_with_what_is_gathered():
    model = make_model()
    blocks = find_blocks(model)
    weights = sum(m.weight.numel() for block in blocks for m in block.matrices)

    def bytes_of(*names, sequential=True):
        return memory(model, blocks, [Recipe.named(n) for n in names], 64, sequential=sequential)

    plain = bytes_of("magnitude")
    assert bytes_of("pruner-zero") - plain == pytest.approx(4 * weights, abs=1 << 22)
    assert bytes_of("pruner-zero", "gblm-l1", "llm-pruner") - plain >= 3 * 4 * weights - (1 << 22)
    assert bytes_of("obs", sequential=False) >= bytes_of("obs")


def test_an_estimate_of_a_model():
    model = make_model()
    cost = cost_of_pruning(
        model, find_blocks(model), Recipe.named("gblm"), compute_for(model, "float32"), 4, 16,
        sequential=True,
    )  # fmt: skip
    assert 0 < cost.seconds < 600
    assert cost.bytes > 2**20
    assert Speed.measured(100, 2.0, torch.device("cpu")).tokens == 50


def test_words():
    assert [duration(s) for s in (40, 720, 7200)] == ["40 s", "12 min", "2.0 h"]
    assert str(Cost(40, 2_500_000_000)) == "about 40 s and 2.5 GB of memory"
