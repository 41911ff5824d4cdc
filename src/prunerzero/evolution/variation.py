"""How formulas change: crossover and mutations. Pure functions of trees and a random source."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from prunerzero.errors import InputError
from prunerzero.evolution.grammar import EXPONENTS, Grammar
from prunerzero.metric import Metric
from prunerzero.metric.expression import FLOAT32_TINY, Call, Constant, Leaf, Node
from prunerzero.metric.types import Shape

MAX_NODES = 30
ATTEMPTS = 20
# Spread of the factor on a mutated constant: most steps stay within a third.
CONSTANT_SPREAD = 0.3
# Of an inserted factor. Small ones: a good formula is rarely improved by a large change.
FACTOR_EXPONENTS = (-0.25, -0.1, 0.1, 0.25, 0.5)

Change = Callable[[Random], Node]


def crossover(first: Metric, second: Metric, random: Random) -> Metric:
    """Replaces a random subtree of ``first`` by a random subtree of ``second``."""

    def change(source: Random) -> Node:
        donor = source.choice(list(second.expression.nodes()))
        return first.expression.replace(source.choice(_places(first)), donor)

    return _rankable(change, random, first)


def mutate_node(metric: Metric, grammar: Grammar, random: Random) -> Metric:
    """Exchanges one random node: a leaf for a leaf, an operator for one of its arity."""

    def change(source: Random) -> Node:
        nodes = list(metric.expression.nodes())
        place = source.randrange(len(nodes))
        return metric.expression.replace(place, _exchanged(nodes[place], grammar, source))

    return _rankable(change, random, metric)


def mutate_constant(metric: Metric, random: Random) -> Metric:
    """Scales one constant (an exponent, say) a little; without one, raises a subtree to a power."""
    nodes = list(metric.expression.nodes())
    places = [place for place, node in enumerate(nodes) if isinstance(node, Constant)]

    def change(source: Random) -> Node:
        if places:
            place = source.choice(places)
            return metric.expression.replace(place, _scaled(nodes[place], source))
        place = source.choice(_places(metric))
        powered = Call("power", (nodes[place], Constant(source.choice(EXPONENTS))))
        return metric.expression.replace(place, powered)

    return _rankable(change, random, metric)


def mutate_subtree(metric: Metric, grammar: Grammar, random: Random) -> Metric:
    """Replaces a random subtree by a small fresh one."""

    def change(source: Random) -> Node:
        return metric.expression.replace(
            source.choice(_places(metric)), grammar.grow(source, low=0, high=2)
        )

    return _rankable(change, random, metric)


def insert_factor(metric: Metric, grammar: Grammar, random: Random) -> Metric:
    """Multiplies by a power of a small fresh tree: the shape of every published metric."""

    def change(source: Random) -> Node:
        fresh = grammar.grow(source, low=0, high=1)
        factor = Call("power", (fresh, Constant(source.choice(FACTOR_EXPONENTS))))
        return Call("mul", (metric.expression, factor))

    return _rankable(change, random, metric)


def shrink(metric: Metric, random: Random) -> Metric:
    """Replaces a random subtree by one of its children."""

    def change(source: Random) -> Node:
        nodes = list(metric.expression.nodes())
        calls = [place for place in _places(metric) if isinstance(nodes[place], Call)]
        if not calls:
            return metric.expression
        place = source.choice(calls)
        children = [arg for arg in nodes[place].args if not isinstance(arg, Constant)]
        return metric.expression.replace(place, source.choice(children or [nodes[place]]))

    return _rankable(change, random, metric)


def _rankable(change: Change, random: Random, fallback: Metric) -> Metric:
    """The first result that can rank weights and is not too large; else ``fallback``."""
    for _ in range(ATTEMPTS):
        try:
            node = change(random)
        except InputError:
            # A donor landed where the language wants a constant, or the tree grew too large.
            continue
        if node.size <= MAX_NODES and node.shape in (Shape.FULL, Shape.COLUMN):
            return Metric(node)
    return fallback


def _places(metric: Metric) -> list[int]:
    """Positions of all nodes but constants, which are exponents or scale factors."""
    nodes = enumerate(metric.expression.nodes())
    return [place for place, node in nodes if not isinstance(node, Constant)]


def _exchanged(node: Node, grammar: Grammar, random: Random) -> Node:
    if isinstance(node, Leaf):
        others = [name for name in dict.fromkeys(grammar.terminals) if name != node.name]
        return Leaf(random.choice(others)) if others else node
    if isinstance(node, Call):
        return Call(grammar.like(node.operator, random), node.args)
    return _scaled(node, random)


def _scaled(node: Node, random: Random) -> Node:
    assert isinstance(node, Constant)
    value = node.value * random.lognormvariate(0.0, CONSTANT_SPREAD)
    # Four digits keep formulas readable and near-equal candidates equal.
    value = float(f"{value:.4g}")
    return Constant(value if abs(value) > FLOAT32_TINY else node.value)
