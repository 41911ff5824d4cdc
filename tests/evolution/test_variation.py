from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.errors import InputError
from prunerzero.evolution import variation
from prunerzero.evolution.grammar import DEFAULT, PAPER
from prunerzero.evolution.variation import MAX_NODES
from prunerzero.metric import Metric
from prunerzero.metric.expression import Call, Constant

SEEDS = st.integers(0, 2**32)
GRAMMARS = st.sampled_from([PAPER, DEFAULT])

MUTATIONS = {
    "node": variation.mutate_node,
    "constant": lambda metric, _grammar, random: variation.mutate_constant(metric, random),
    "subtree": variation.mutate_subtree,
    "factor": variation.insert_factor,
    "shrink": lambda metric, _grammar, random: variation.shrink(metric, random),
}


def check(child, *parents):
    child.check_rankable()
    assert child.size <= max(MAX_NODES, *(parent.size for parent in parents))
    assert Metric.parse(str(child)) == child
    for node in child.expression.nodes():
        if isinstance(node, Call) and node.operator == "power":
            assert isinstance(node.args[1], Constant)


@pytest.mark.parametrize("name", MUTATIONS)
@given(seed=SEEDS, grammar=GRAMMARS)
def test_mutants_can_rank_and_stay_small(name, seed, grammar):
    parent = grammar.tree(Random(seed))
    for _ in range(4):
        child = MUTATIONS[name](parent, grammar, Random(seed + 1))
        check(child, parent)
        assert MUTATIONS[name](parent, grammar, Random(seed + 1)) == child
        parent = child


@given(SEEDS, GRAMMARS)
def test_a_child_is_one_parent_with_a_subtree_of_the_other(seed, grammar):
    random = Random(seed)
    first, second = grammar.tree(random), grammar.tree(random)
    child = variation.crossover(first, second, random)
    check(child, first, second)
    assert child == first or child.expression in possible_children(first, second)


def possible_children(first, second):
    children = set()
    for place in range(first.size):
        for donor in second.expression.nodes():
            try:
                children.add(first.expression.replace(place, donor))
            except InputError:  # an exponent must be a number
                continue
    return children


def test_crossover_takes_from_both():
    first, second = Metric.parse("W * A + sqrt(W)"), Metric.parse("F * tanh(F)")
    children = [variation.crossover(first, second, Random(seed)) for seed in range(50)]
    assert any({"W", "F"} <= child.terminals for child in children)
    assert len(set(children)) > 10


@given(SEEDS, GRAMMARS)
def test_node_mutation_changes_one_node_and_no_kind(seed, grammar):
    parent = grammar.tree(Random(seed))
    child = variation.mutate_node(parent, grammar, Random(seed))
    old, new = list(parent.expression.nodes()), list(child.expression.nodes())
    assert len(old) == len(new)
    changed = 0
    for before, after in zip(old, new, strict=True):
        assert type(before) is type(after)
        assert len(before.args) == len(after.args)
        changed += own(before) != own(after)
    assert changed <= 1


def own(node):
    """What a node is by itself, without its arguments."""
    return getattr(node, "operator", None) or getattr(node, "name", None) or node.value


@given(SEEDS)
def test_constant_mutation_scales_one_constant(seed):
    parent = Metric.parse("W * A ** 0.5 + F ** 0.25 * 3")
    child = variation.mutate_constant(parent, Random(seed))
    pairs = zip(parent.expression.nodes(), child.expression.nodes(), strict=True)
    changed = [(a, b) for a, b in pairs if own(a) != own(b)]
    assert len(changed) <= 1
    for before, after in changed:
        assert isinstance(after, Constant)
        assert 0 < after.value / before.value < 10
        assert after.value == float(f"{after.value:.4g}")


def test_without_constants_a_subtree_gets_an_exponent():
    child = variation.mutate_constant(Metric.parse("W * A"), Random(0))
    assert [node.operator for node in child.expression.nodes() if isinstance(node, Call)].count(
        "power"
    ) == 1


def test_a_factor_multiplies_the_parent():
    parent = Metric.parse("W * A")
    child = variation.insert_factor(parent, DEFAULT, Random(0)).expression
    assert isinstance(child, Call)
    assert child.operator == "mul"
    assert child.args[0] == parent.expression
    assert child.args[1].operator == "power"


@given(SEEDS, GRAMMARS)
def test_shrinking_never_grows(seed, grammar):
    parent = grammar.tree(Random(seed))
    child = variation.shrink(parent, Random(seed))
    assert child.size <= parent.size


def test_repeated_variation_stays_within_the_size_limit():
    random = Random(3)
    metric = Metric.parse("W * A")
    for _ in range(300):
        metric = variation.insert_factor(metric, DEFAULT, random)
        metric = variation.crossover(metric, metric, random)
        assert metric.size <= MAX_NODES
