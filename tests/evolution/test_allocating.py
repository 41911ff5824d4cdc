import pytest
import torch
from tiny_models import make_model, make_text, make_tokenizer, make_tokens

from prunerzero.data.documents import Document, Split
from prunerzero.data.windows import WindowSampler
from prunerzero.errors import InputError
from prunerzero.evaluation.divergence import DenseReference
from prunerzero.evolution import allocating
from prunerzero.evolution.allocating import evolve_allocation
from prunerzero.models.blocks import find_blocks
from prunerzero.models.compute import compute_for
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import plan_sparsities, prune
from prunerzero.pruning.shared import SharedData
from prunerzero.recipe import Recipe

HALF, TOKENS = Pattern.parse("50%"), make_tokens(4)


@pytest.fixture
def windows(monkeypatch):
    monkeypatch.setattr(allocating, "WINDOWS", 2)
    monkeypatch.setattr(allocating, "MORE", 6)
    documents = [Document(make_text(seed, 400), "made", str(seed)) for seed in range(12)]
    return WindowSampler(documents, make_tokenizer(), Split.SELECTION, 32)


def evolve(model, windows, recipe="wanda", pattern=HALF, **options):
    blocks, compute = find_blocks(model), compute_for(model, "float32")
    chosen = Recipe.named(recipe)
    shared = SharedData(model, blocks, TOKENS, compute)
    return evolve_allocation(
        model, blocks, chosen, pattern, shared.dense(chosen.terminals), compute, windows,
        **({"seconds": 60, "most": 6} | options),
    )  # fmt: skip


def test_children_take_the_parents_place(windows, own_cache):
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = evolve(model, windows)
    assert found.generations == 6
    assert 0 < found.replaced <= 6
    assert found.documents
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    blocks = find_blocks(model)
    recipe = Recipe.named("wanda").with_allocation(found.allocation)
    sparsities = plan_sparsities(blocks, recipe, HALF)
    assert len(set(sparsities.values())) > 1
    reference = DenseReference(model, windows.draw(9, 6).tokens, compute_for(model, "float32"))
    pruned = []
    for one in (Recipe.named("wanda"), recipe):
        other = make_model()
        prune(other, None, one, HALF, calibration=TOKENS, sequential=False, dtype="float32")
        pruned.append(reference.measure(other).mean_kl)
    assert pruned[1] < pruned[0]  # on windows that it was not judged on


def test_the_same_seed_finds_the_same(windows, own_cache):
    first, again, other = (
        evolve(make_model(), windows, seed=seed, most=3).allocation for seed in (1, 1, 2)
    )
    assert first == again != other


def test_time_ends_it(windows, own_cache):
    assert evolve(make_model(), windows, seconds=0.0, most=None).generations == 0


def test_what_cannot_be_evolved(windows, own_cache):
    with pytest.raises(InputError, match="2:4 fixes"):
        evolve(make_model(), windows, pattern=Pattern.parse("2:4"))
    windows.split = Split.HELDOUT
    with pytest.raises(InputError, match="not of selection"):
        evolve(make_model(), windows)
