from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.errors import InputError
from prunerzero.evolution.grammar import DEFAULT, MAX_DEPTH, MIN_DEPTH, PAPER, Grammar
from prunerzero.metric.expression import Call, Constant, Leaf
from prunerzero.metric.operators import OPERATORS

SEEDS = st.integers(0, 2**32)
# Design 3.1.
PAPER_OPERATORS = {"add", "sub", "mul", "div", "sqr", "pow", "neg", "abs", "sqrt", "log", "exp",
                   "tanh", "skp", "mms", "zsn"}  # fmt: skip


def leaf_depths(node, depth=0):
    """Depths of all terminals; an exponent is part of its operator."""
    if isinstance(node, Leaf):
        return [depth]
    return [
        d for arg in node.args if not isinstance(arg, Constant) for d in leaf_depths(arg, depth + 1)
    ]


@given(SEEDS, st.sampled_from([PAPER, DEFAULT]))
def test_trees_can_rank_and_keep_to_the_papers_depths(seed, grammar):
    tree = grammar.tree(Random(seed))
    tree.check_rankable()
    depths = leaf_depths(tree.expression)
    assert MIN_DEPTH == 2
    assert MAX_DEPTH == 4
    assert all(2 <= depth <= 4 for depth in depths)
    assert grammar.tree(Random(seed)) == tree


@given(SEEDS)
def test_full_trees_have_all_leaves_at_one_depth(seed):
    assert len(set(leaf_depths(PAPER.full(Random(seed))))) == 1


@given(SEEDS)
def test_the_papers_space_is_three_terminals_and_fifteen_operators(seed):
    assert set(PAPER.operators) == PAPER_OPERATORS
    for node in PAPER.tree(Random(seed)).expression.nodes():
        if isinstance(node, Leaf):
            assert node.name in {"W", "G", "X"}
        else:
            assert node.operator in PAPER_OPERATORS


def test_every_terminal_operator_and_depth_comes_up():
    random = Random(0)
    trees = [PAPER.tree(random) for _ in range(400)]
    nodes = [node for tree in trees for node in tree.expression.nodes()]
    assert {node.name for node in nodes if isinstance(node, Leaf)} == set("WGX")
    assert {node.operator for node in nodes if isinstance(node, Call)} == PAPER_OPERATORS
    assert {tree.depth for tree in trees} == {2, 3, 4}


def test_the_default_space_has_scale_free_terminals_only():
    random = Random(1)
    terminals = {name for _ in range(200) for name in DEFAULT.tree(random).terminals}
    assert terminals == {"W", "A", "F"}


def test_grow_makes_a_leaf_half_of_the_time_past_the_least_depth():
    random = Random(2)
    grammar = Grammar(("W",), ("neg",))  # chains, so that every node past the minimum is one draw
    depths = [grammar.grow(random).depth for _ in range(2000)]
    shares = [depths.count(depth) / len(depths) for depth in (2, 3, 4)]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.05)


@pytest.mark.parametrize("operator", sorted(set(DEFAULT.operators) | PAPER_OPERATORS))
def test_an_exchanged_operator_takes_the_same_arguments(operator):
    grammar = PAPER if operator in PAPER_OPERATORS else DEFAULT
    for seed in range(20):
        other = grammar.like(operator, Random(seed))
        assert OPERATORS[other].arity == OPERATORS[operator].arity
        assert OPERATORS[other].constant_exponent == OPERATORS[operator].constant_exponent
        assert other != operator or operator == "power"  # the only one of its kind


def test_names_that_are_included_are_drawn():
    grammar = Grammar(("W", "A"), ("mul",)).including(["R", "tanh"])
    assert (grammar.terminals, grammar.operators) == (("W", "A", "R"), ("mul", "tanh"))
    random = Random(0)
    trees = [grammar.tree(random) for _ in range(50)]
    assert any("R" in tree.terminals for tree in trees)
    assert any("tanh(" in str(tree) for tree in trees)
    assert DEFAULT.including([]) == DEFAULT


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["Amaen"], "'Amaen': is neither .* did you mean 'Amean'"),
        (["A"], "'A': random trees draw it already"),
        (["R", "R"], "'R': random trees draw it already"),
    ],
)
def test_names_that_cannot_be_included(names, line):
    with pytest.raises(InputError, match=line):
        DEFAULT.including(names)
