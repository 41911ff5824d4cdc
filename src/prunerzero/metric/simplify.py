"""Opposing-operation simplification: adjacent operations that undo one another are removed.

``mode="default"`` removes only what keeps scores within 1e-6 relative; ``mode="paper"`` also what
the paper names without regard to that. Both lists are in docs/metric-language.md.
"""

from __future__ import annotations

from typing import Literal, cast

from prunerzero.errors import InputError
from prunerzero.metric.expression import Call, Constant, Node
from prunerzero.metric.operators import OPERATORS

Mode = Literal["default", "paper"]
SQUARES = ("sqr", "pow")


def simplify(node: Node, mode: Mode = "default") -> Node:
    """Removes opposing operations until none is left.

    Args:
        node: The expression.
        mode: ``"default"`` or ``"paper"``.

    Raises:
        InputError: Unknown mode.
    """
    if mode not in ("default", "paper"):
        raise InputError(f"simplification mode {mode!r}: must be 'default' or 'paper'")
    return _until_stable(node, mode, 1.0)


def keep_scores(node: Node, growth: float) -> Node:
    """The default simplification of an expression whose errors can grow further up.

    Args:
        node: The expression.
        growth: How many times a relative error of its values can be larger in the final score.
    """
    return _until_stable(node, "default", growth)


def _until_stable(node: Node, mode: Mode, growth: float) -> Node:
    while (simpler := _pass(node, mode, growth)) != node:
        node = simpler
    return node


def is_call(node: Node, *operators: str) -> bool:
    """Whether a node is a call of one of ``operators``."""
    return isinstance(node, Call) and node.operator in operators


def is_value(node: Node, value: float) -> bool:
    """Whether a node is this constant."""
    return isinstance(node, Constant) and node.value == value


def error_growth(call: Call) -> float:
    """How many times the relative error of an argument grows at most in a call's result."""
    if call.operator == "power":
        return max(1.0, abs(cast(Constant, call.args[1]).value))
    operator = OPERATORS[call.operator]
    if all(arg.bounds.non_negative for arg in call.args):
        return min(operator.error_growth, operator.error_growth_non_negative)
    return operator.error_growth


def _pass(node: Node, mode: Mode, growth: float) -> Node:
    """Simplifies the children, then the node.

    ``growth`` says how many times a relative error made here can be larger in the final score:
    sqr(sqrt(x)) differs from abs(x) by a rounding, which a difference further up could magnify
    (sqr(sqrt(W)) - W), so that rule needs a growth of 1.
    """
    if not isinstance(node, Call):
        return node
    inner = growth * max(1.0, error_growth(node))
    args = tuple(_pass(arg, mode, inner) for arg in node.args)
    if args != node.args:
        node = Call(node.operator, args)
    simpler = _keep_scores(node, growth)
    if simpler is None and mode == "paper":
        simpler = _as_published(node)
    return node if simpler is None else simpler


def _keep_scores(node: Call, growth: float) -> Node | None:
    """The default rules at one node; None when none applies.

    Each is exact in float32 as long as squares neither overflow nor underflow, but for
    sqr(sqrt(x)). None changes the tensor's shape, on which `div`, `mms` and the reducers depend.
    """
    operator, x = node.operator, node.args[0]
    if operator == "skp":
        return x
    if operator == "neg" and is_call(x, "neg"):
        return x.args[0]
    if operator == "neg" and isinstance(x, Constant):
        return Constant(-x.value)
    if operator == "neg" and is_call(x, "sub"):
        return Call("sub", (x.args[1], x.args[0]))
    if operator == "mms" and is_call(x, "mms"):
        return x
    if operator == "abs" and x.bounds.non_negative:
        return x
    if OPERATORS[operator].even and is_call(x, "neg", "abs"):
        return Call(operator, (x.args[0],))
    if operator == "power":
        return _power_keeps_scores(node)
    if operator == "sqrt" and is_call(x, *SQUARES):
        return _abs(x.args[0])
    if operator in SQUARES and is_call(x, "sqrt") and growth <= 1:
        return _abs(x.args[0])
    if len(node.args) == 2:
        return _binary_keeps_scores(node)
    return None


def _power_keeps_scores(node: Call) -> Node | None:
    x, exponent = node.args
    if is_call(x, "neg", "abs"):
        return Call("power", (x.args[0], exponent))
    return _abs(x) if is_value(exponent, 1) else None


def _binary_keeps_scores(node: Call) -> Node | None:
    operator, (x, y) = node.operator, node.args
    if operator in ("add", "sub") and is_call(y, "neg"):
        return Call("sub" if operator == "add" else "add", (x, y.args[0]))
    if operator == "add" and is_call(x, "neg"):
        return Call("sub", (y, x.args[0]))
    if operator == "mul" and is_call(x, "neg") and is_call(y, "neg"):
        return Call("mul", (x.args[0], y.args[0]))
    if operator in ("add", "sub") and is_value(y, 0):
        return x
    if operator in ("mul", "ratio") and is_value(y, 1):
        return x
    if operator == "add" and is_value(x, 0):
        return y
    if operator == "mul" and is_value(x, 1):
        return y
    return None


def _abs(x: Node) -> Node:
    return x if x.bounds.non_negative else Call("abs", (x,))


_INVERSES = {"exp": ("log",), "log": ("exp",), "sqrt": SQUARES, "sqr": ("sqrt",), "pow": ("sqrt",)}


def _as_published(node: Call) -> Node | None:
    """The pairs as the paper names them; scores may change."""
    operator, x = node.operator, node.args[0]
    if operator in _INVERSES and is_call(x, *_INVERSES[operator]):
        return x.args[0]
    if operator == "zsn" and is_call(x, "zsn"):
        return x
    if operator in ("add", "mul"):
        # (a - b) + b, b + (a - b), and the same with * and division: a
        inverses = ("sub",) if operator == "add" else ("div", "ratio")
        for left, right in (node.args, node.args[::-1]):
            if is_call(left, *inverses) and left.args[1] == right:
                return left.args[0]
    if operator in ("sub", "div", "ratio") and is_call(x, "add" if operator == "sub" else "mul"):
        # (a + b) - b, (b + a) - b, and the same with * and division: a
        y = node.args[1]
        for kept, removed in (x.args, x.args[::-1]):
            if removed == y:
                return kept
    return None
