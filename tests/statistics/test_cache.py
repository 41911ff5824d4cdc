import pytest
import torch
from tiny_models import make_model, make_tokens

from prunerzero.models.blocks import prunable_matrices
from prunerzero.models.compute import compute_for
from prunerzero.statistics import cache
from prunerzero.statistics.cache import gather_statistics, model_hash, tokens_hash

ALL = frozenset({"W", "X", "A", "G", "F"})


@pytest.fixture
def passes(monkeypatch, own_cache):
    """What was asked of the model, pass by pass."""
    asked = []

    def gather_raw(model, matrices, tokens, wanted, *rest):
        asked.append(sorted(wanted))
        return original(model, matrices, tokens, wanted, *rest)

    original = cache.gather_raw
    monkeypatch.setattr(cache, "gather_raw", gather_raw)
    return asked


def gather(model, tokens, terminals=ALL, dtype="float32"):
    matrices = prunable_matrices(model)
    statistics = gather_statistics(model, matrices, tokens, terminals, compute_for(model, dtype))
    return {matrix.name: statistics.of(matrix, terminals) for matrix in matrices}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, terminals in first.items():
        assert terminals.keys() == second[name].keys()
        for key, tensor in terminals.items():
            assert torch.equal(tensor, second[name][key])


def test_a_second_run_gives_the_same_without_a_pass(passes):
    model, tokens = make_model(), make_tokens(3)
    first = gather(model, tokens)
    assert next(iter(first.values())).keys() == {"X", "A", "G", "F"}
    assert passes == [["activation_square_sum", "gradient_square_sum", "tokens"]]
    assert_same(gather(model, tokens), first)
    assert_same(gather(make_model(), tokens.clone()), first)
    assert len(passes) == 1


def test_only_what_is_missing_is_gathered(passes):
    model, tokens = make_model(), make_tokens(3)
    gather(model, tokens, frozenset({"A"}))
    gather(model, tokens, frozenset({"X", "W"}))  # from one of the sums of A
    gather(model, tokens, frozenset({"X", "F"}))
    gather(model, tokens, frozenset({"W"}))
    assert passes == [["activation_square_sum", "tokens"], ["gradient_square_sum"]]


def test_whatever_changes_the_statistics_changes_the_key(passes):
    model, tokens = make_model(), make_tokens(3)
    gather(model, tokens)
    gather(model, tokens.flip(0))
    gather(model, tokens.reshape(6, -1))
    gather(model, tokens, dtype="bfloat16")
    model.model.layers[2].mlp.down_proj.weight[0, 0] += 1e-3
    gather(model, tokens)
    gather(make_model(rms_norm_eps=0.5), tokens)  # equal weights, another function
    assert len(passes) == 6


def test_a_models_place_is_no_part_of_the_key(tmp_path):
    from transformers import AutoModelForCausalLM

    model = make_model()
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model_hash(again) == model_hash(model)
    assert model_hash(make_model(seed=1)) != model_hash(model)
    tokens = make_tokens(4, 8)
    assert tokens_hash(tokens) != tokens_hash(tokens.reshape(8, 4))


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_a_damaged_file_is_gathered_and_written_again(passes, own_cache, damage):
    model, tokens = make_model(), make_tokens(3)
    first = gather(model, tokens)
    files = list(own_cache.glob("statistics/*"))
    assert len(files) == 3
    for file in files:
        file.write_bytes(file.read_bytes()[:-10] if damage is None else damage)
    assert_same(gather(model, tokens), first)
    assert_same(gather(model, tokens), first)
    assert len(passes) == 2


def test_an_altered_number_is_gathered_again(passes, own_cache):
    model, tokens = make_model(), make_tokens(3)
    first = gather(model, tokens)
    for file in own_cache.glob("statistics/*"):
        content = bytearray(file.read_bytes())
        content[-2] ^= 1  # still a sound safetensors file
        file.write_bytes(content)
    assert_same(gather(model, tokens), first)
    assert_same(gather(model, tokens), first)
    assert len(passes) == 2


def test_a_cache_that_cannot_be_written_costs_no_run(passes, own_cache):
    own_cache.write_text("in the way")
    model, tokens = make_model(), make_tokens(3)
    assert_same(gather(model, tokens), gather(model, tokens))
    assert len(passes) == 2


def test_gram_matrices_are_kept_and_stay_shared(passes, monkeypatch):
    model, tokens = make_model(), make_tokens(3)
    wanted = frozenset({"H", "A"})
    first = gather(model, tokens, wanted)
    again = gather(model, tokens, wanted)
    assert len(passes) == 1
    assert_same(again, first)
    grams = [terminals["H"] for terminals in again.values()]
    assert 1 < len({id(gram) for gram in grams}) < len(grams)
    assert [id(g) for g in grams].count(id(grams[0])) == [id(t["H"]) for t in first.values()].count(
        id(next(iter(first.values()))["H"])
    )
    # Too large ones are gathered again.
    monkeypatch.setattr(cache, "GRAM_BYTES", 100)
    gather(model, make_tokens(4), wanted)
    gather(model, make_tokens(4), wanted)
    assert passes[-1] == ["gram"]
