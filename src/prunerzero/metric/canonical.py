"""Rank equivalence: the canonical form of an expression, the same for all that give its masks.

A mask depends only on the order of scores inside a comparison group, so that at the root whatever
is strictly increasing drops, and so does every positive factor and every term that is constant in
the group. The walk goes from the root inwards and stops where the order may depend on more.

Dropping one operation *at the root* is safe in float32: its rounded result is a monotone function
of its argument, so it can merge neighbours but not swap them (torch's exp, log, tanh and pow were
checked on all floats of their usual range). Reordering a *chain* of factors or terms rounds
differently and may swap neighbours by some units in the last place, which is harmless only while
nothing dropped above can magnify it; ``_Order.growth`` keeps count of that.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from prunerzero.errors import InputError
from prunerzero.metric.expression import Call, Constant, Node
from prunerzero.metric.operators import OPERATORS
from prunerzero.metric.simplify import SQUARES, error_growth, is_call, is_value, keep_scores
from prunerzero.metric.types import Shape

Group = Literal["row", "matrix", "model"]

MAX_CHAIN = 4  # longer chains of factors or terms keep their order: roundings would add up
MAX_GROWTH = 2.0  # and so do chains below operations that magnify relative errors more than this

REMEMBERED = 1 << 14  # forms; a search proposes the same formulas in ever new recipes


@lru_cache(REMEMBERED)
def canonical(node: Node, group: Group = "row", nm: bool = False) -> Node:
    """The canonical form of an expression.

    Its mask is valid for the original scores: no pruned score exceeds a kept one of its group by
    more than 4 units in the last place (where no intermediate value over- or underflows).

    Args:
        node: The expression.
        group: What is ranked together: a row, a matrix, or all matrices of the model.
        nm: The pattern is N:M, which ranks inside rows whatever the group.

    Raises:
        InputError: Unknown group.
    """
    if group not in ("row", "matrix", "model"):
        raise InputError(f"comparison group {group!r}: must be 'row', 'matrix' or 'model'")
    return _normalise(_Order("row" if nm else group).reduce(node))


def _key(node: Node) -> tuple[int, str]:
    return node.size, str(node)


def _normalise(node: Node) -> Node:
    """One spelling for what is the same in float32: operands sorted, squares as sqr."""
    if not isinstance(node, Call):
        return node
    operator, args = node.operator, tuple(_normalise(arg) for arg in node.args)
    if operator == "pow" or (operator == "power" and is_value(args[1], 2)):
        return Call("sqr", args[:1])
    if operator == "power" and is_value(args[1], 0.5):
        return Call("sqrt", args[:1])
    if operator == "mul" and args[0] == args[1]:
        return Call("sqr", args[:1])
    if OPERATORS[operator].commutative:
        args = tuple(sorted(args, key=_key))
    return Call(operator, args)


@dataclass
class _Order:
    """The order of scores inside a comparison group, as the walk from the root inwards sees it."""

    group: Group
    growth: float = 1.0  # by how much a relative error at this place can grow in the scores
    descending: bool = False

    def reduce(self, node: Node) -> Node:
        """The simplest expression that gives the same order."""
        inner: Node | None = node
        while inner is not None:
            node = _normalise(keep_scores(inner, self.growth))
            inner = self.step(node)
        if not self.descending:
            return node
        return Call("sub", node.args[::-1]) if is_call(node, "sub") else Call("neg", (node,))

    def step(self, node: Node) -> Node | None:
        """Drops or reorders something at the root; None when nothing is left to do."""
        if not isinstance(node, Call) or self.is_constant(node):
            return None
        growth = error_growth(node)
        inner = self.inside(node)
        if inner is None:
            inner = self.inside_sum(node)
        if inner is None:
            return self.chain(node)
        self.growth *= max(1.0, growth)
        return inner

    def is_constant(self, node: Node) -> bool:
        """Whether all scores of a group see the same value."""
        if self.group == "model":  # a statistic's scalar differs from matrix to matrix
            return not node.terminals
        if self.group == "matrix":
            return node.shape is Shape.SCALAR
        return not node.shape.spans_columns

    def constant_shape(self, shape: Shape) -> bool:
        """The same for something computed from a matrix, of which only the shape is known."""
        if self.group == "model":
            return False
        return shape is Shape.SCALAR or (self.group == "row" and shape is Shape.ROW)

    def inside(self, node: Call) -> Node | None:
        """The argument of an operation that keeps or reverses its order."""
        operator, x = OPERATORS[node.operator], node.args[0]
        if operator.name == "neg":
            self.descending = not self.descending
            return x
        if operator.name == "div" and self.constant_shape(Shape.SCALAR):
            return x
        if operator.increasing_within is not None:
            pointwise = operator.scale is None or self.constant_shape(operator.scale(x.shape))
            return x if pointwise and operator.increasing_within.contains(x.bounds) else None
        if operator.even or (operator.name == "power" and node.args[1].bounds.low > 0):
            if x.bounds.non_negative:
                return x
            if operator.name != "abs":
                return Call("abs", (x,))
            return self.inside_abs(x)
        return None

    def inside_abs(self, x: Node) -> Node | None:
        """abs(a * b) is abs(a) * abs(b), to the bit."""
        if is_call(x, "mul", "ratio"):
            assert isinstance(x, Call)
            return Call(x.operator, tuple(_abs(arg) for arg in x.args))
        if is_call(x, "div"):
            return Call("div", (_abs(x.args[0]), x.args[1]))
        return None

    def inside_sum(self, node: Call) -> Node | None:
        """The operand of a sum, product or quotient whose other operand is constant."""
        if node.operator not in ("add", "sub", "mul", "ratio"):
            return None
        x, y = node.args
        if node.operator in ("add", "sub"):
            if self.is_constant(y):
                return x
            if not self.is_constant(x):
                return None
            self.descending ^= node.operator == "sub"
            return y
        if self.is_factor(y):
            return self.without(y, x)
        if node.operator == "mul" and self.is_factor(x):
            return self.without(x, y)
        return None

    def is_factor(self, node: Node) -> bool:
        """Whether it is constant in a group and its sign is known (and not always zero)."""
        return self.is_constant(node) and (
            (node.bounds.non_negative and node.bounds.high > 0) or node.bounds.high < 0
        )

    def is_positive_factor(self, node: Node) -> bool:
        """The same, and that it is not negative."""
        return self.is_factor(node) and node.bounds.non_negative

    def without(self, factor: Node, rest: Node) -> Node:
        """``rest``, its order reversed if the dropped factor is negative."""
        self.descending ^= factor.bounds.high < 0
        return rest

    def chain(self, node: Call) -> Node | None:
        """The chain of factors or terms at the root without constants, in one order."""
        if self.growth > MAX_GROWTH:
            return None
        if node.operator in ("mul", "ratio"):
            rebuilt = self.product(node)
        elif node.operator == "add" and all(arg.bounds.non_negative for arg in node.args):
            rebuilt = self.total(node)
        else:
            return None
        rebuilt = _normalise(rebuilt)
        return None if rebuilt == node else rebuilt

    def product(self, node: Node) -> Node:
        if is_call(node, "ratio") and not self.is_positive_factor(node.args[1]):
            numerator, denominator = node.args
            return Call("ratio", (self.product(numerator), denominator))
        factors = self.factors(node)
        if len(factors) > MAX_CHAIN:
            return node
        kept = []
        for factor in factors:
            if is_call(factor, "neg"):
                self.descending = not self.descending
                factor = factor.args[0]
            if self.is_factor(factor):
                self.without(factor, factor)
            else:
                kept.append(self.product(factor) if is_call(factor, "ratio") else factor)
        if not kept:  # a numerator of constants only
            return Constant(1.0)
        squared = []
        for factor, count in Counter(kept).items():
            squared += [Call("sqr", (factor,))] * (count // 2) + [factor] * (count % 2)
        return _fold("mul", squared)

    def factors(self, node: Node) -> list[Node]:
        """The factors of a product, without divisors that are constant in a group."""
        if is_call(node, "mul"):
            return [factor for arg in node.args for factor in self.factors(arg)]
        if is_call(node, *SQUARES):
            return self.factors(node.args[0]) * 2
        if is_call(node, "div") and self.constant_shape(Shape.SCALAR):
            return self.factors(node.args[0])
        if is_call(node, "rown", "coln") and self.constant_shape(_scale_of(node)):
            return self.factors(node.args[0])
        if is_call(node, "ratio") and self.is_positive_factor(node.args[1]):
            return self.factors(node.args[0])
        return [node]

    def total(self, node: Node) -> Node:
        terms = self.terms(node)
        if len(terms) > MAX_CHAIN:
            return node
        return _fold("add", [term for term in terms if not self.is_constant(term)])

    def terms(self, node: Node) -> list[Node]:
        """The terms of a sum of which none is negative, so that nothing cancels."""
        if is_call(node, "add") and all(arg.bounds.non_negative for arg in node.args):
            return [term for arg in node.args for term in self.terms(arg)]
        return [node]


def _scale_of(node: Node) -> Shape:
    """The shape of the divisor of `rown` or `coln`."""
    assert isinstance(node, Call)
    scale = OPERATORS[node.operator].scale
    assert scale is not None
    return scale(node.args[0].shape)


def _abs(node: Node) -> Node:
    return node if node.bounds.non_negative else Call("abs", (node,))


def _fold(operator: str, nodes: list[Node]) -> Node:
    first, *others = sorted(nodes, key=_key)
    for node in others:
        first = Call(operator, tuple(sorted((first, node), key=_key)))
    return first
