"""Expressions that are a power of the weight times something that does not change with it.

``W ** 2 / Hfree * F ** 0.3`` is; ``W * (W + F)`` is not. Scores of the former rank like the weight
times a fixed factor, however the weight changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor

from prunerzero.metric.expression import Call, Constant, Leaf, Node
from prunerzero.metric.operators import OPERATORS
from prunerzero.metric.scoring import evaluate

ONE = Constant(1.0)
SAME = frozenset({"abs", "skp"})
POWERS = {"sqr": 2.0, "pow": 2.0, "sqrt": 0.5}


@torch.no_grad()
def fixed_factors(expression: Node, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Factors that the weight's size times them ranks like the expression.

    Args:
        expression: the expression.
        inputs: as for `evaluate`, with the weight before any change.

    Returns:
        Float32 ``[out or 1, in or 1]``, finite and not negative; None where there are none.
    """
    found = _separated(expression)
    if found is None:
        return None
    exponent, rest = found
    if not (exponent > 0 and rest.bounds.non_negative):
        return None
    factors = evaluate(rest, inputs).pow(1 / exponent)
    return factors if bool(torch.isfinite(factors).all()) else None


@lru_cache(maxsize=1024)
def _separated(node: Node) -> tuple[float, Node] | None:
    """The weight's exponent and the other factor; None if it is no such product."""
    if not _changes(node):
        return 0.0, node
    if isinstance(node, Leaf):
        return 1.0, ONE
    assert isinstance(node, Call)
    parts = [_separated(arg) for arg in node.args]
    first, second = parts[0], parts[1] if len(parts) > 1 else None
    if first is None:
        return None
    exponent, rest = first
    if node.operator in SAME and rest.bounds.non_negative:
        return first
    if node.operator in POWERS:
        return exponent * POWERS[node.operator], Call(node.operator, (rest,))
    if node.operator == "power":
        power = node.args[1]
        assert isinstance(power, Constant)
        return exponent * power.value, Call("power", (rest, power))
    if node.operator == "mul" and second is not None:
        return exponent + second[0], Call("mul", (rest, second[1]))
    # A divisor that changes is bounded from below, which no power of it is.
    if node.operator == "ratio" and second is not None and second[0] == 0.0:
        return exponent, Call("ratio", (rest, second[1]))
    return None


def _changes(node: Node) -> bool:
    """Whether a value follows the weight; what is reduced over columns or rows does not."""
    if isinstance(node, Leaf):
        return node.name == "W"
    if not isinstance(node, Call):
        return False
    operator = OPERATORS[node.operator]
    if not operator.elementwise and operator.split is None:
        return False
    return any(_changes(arg) for arg in node.args)
