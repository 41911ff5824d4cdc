import pytest

from prunerzero.evaluation.published import _table, published_contexts, published_values
from prunerzero.pruning.pattern import Pattern


def methods(*arguments):
    return {value.method: value.value for value in published_values(*arguments)}


@pytest.mark.parametrize(
    "name", ["meta-llama/Llama-2-7b-hf", "/models/llama-2-7b-hf/", "NousResearch/Llama-2-7b-hf"]
)
def test_a_model_is_known_by_the_last_part_of_its_name(name):
    assert methods([name], "wikitext2", 4096, "dense") == {"dense": 5.12}


def test_contexts_are_never_mixed():
    name = ["meta-llama/Llama-2-7b-hf"]
    assert methods(name, "wikitext2", 2048, "dense") == {"dense": 5.47}
    assert methods(name, "wikitext2", 512) == {}
    assert published_contexts(name, "wikitext2") == [2048, 4096]
    assert methods(name, "c4", 4096) == {}


def test_best_first():
    values = published_values(["llama-2-13b-hf"], "wikitext2", 4096, "50%")
    assert [value.method for value in values] == ["pruner-zero", "wanda", "sparsegpt", "magnitude"]
    assert [value.checked for value in values] == [False, True, True, True]


def test_other_models_are_not_known():
    for name in ("meta-llama/Llama-2-7b-chat-hf", "smollm2", "", "llama-2-7b-hf-wanda"):
        assert published_values([name], "wikitext2", 4096) == []


def test_every_entry_says_what_it_is():
    table = _table()
    assert len(table) > 80
    for value, names in table:
        assert names == {name.lower() for name in names}
        assert value.value > 1
        assert value.source.partition(" ")[0].isalpha()
        assert value.read_in
        if value.pattern != "dense":
            assert str(Pattern.parse(value.pattern)) == value.pattern
    dense = {(v.model, v.context): v.value for v, _ in table if v.pattern == "dense"}
    # Pruning helps none of them.
    assert all(
        value.value > dense[value.model, value.context]
        for value, _ in table
        if value.pattern != "dense"
    )
