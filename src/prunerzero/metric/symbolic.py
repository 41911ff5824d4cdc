"""A metric as a sympy expression, for papers, notebooks and algebra."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from prunerzero.errors import MissingExtraError
from prunerzero.metric.expression import Call, Constant, Leaf, Node
from prunerzero.metric.terminals import TERMINALS
from prunerzero.metric.types import Sign


def _sympy() -> Any:
    try:
        import sympy
    except ImportError as error:
        raise MissingExtraError("notebook", "symbolic forms of a metric") from error
    return sympy


@lru_cache(maxsize=1)
def _operators() -> dict[str, Callable[..., Any]]:
    s = _sympy()
    log_shift = s.Rational(1, 1000)
    return {
        "add": lambda x, y: x + y,
        "sub": lambda x, y: x - y,
        "mul": lambda x, y: x * y,
        "div": lambda x, y: x / s.Function("norm", positive=True)(y),
        "sqr": lambda x: x**2,
        "pow": lambda x: x**2,
        "neg": lambda x: -x,
        "abs": s.Abs,
        "sqrt": lambda x: s.sqrt(s.Abs(x)),
        "log": lambda x: s.log(s.Abs(x) + log_shift),
        "exp": lambda x: s.exp(s.Min(x, 100)),
        "tanh": s.tanh,
        "skp": lambda x: x,
        "ratio": lambda x, y: x / y,
        "power": lambda x, c: s.Abs(x) ** c,
    }


def to_sympy(node: Node) -> Any:
    """The sympy expression of a metric's tree.

    Terminals become real symbols, non-negative where they are. Operations on whole rows, columns or
    matrices (`colmean`, `mms`, the norm that `div` divides by, ...) and operators of one's own stay
    undefined functions of their names. What only guards against overflow and zero division is left
    out.

    Raises:
        MissingExtraError: Without sympy.
    """
    s = _sympy()
    if isinstance(node, Leaf):
        non_negative = TERMINALS[node.name].sign is Sign.NON_NEGATIVE
        return s.Symbol(node.name, real=True, nonnegative=non_negative or None)
    if isinstance(node, Constant):
        # Whole numbers and simple fractions, 3/4 for 0.75, as people write them.
        exact = s.nsimplify(node.value, rational=True)
        return exact if exact.q <= 1000 else s.Float(node.value)
    assert isinstance(node, Call)
    args = [to_sympy(arg) for arg in node.args]
    known = _operators().get(node.operator)
    return known(*args) if known else s.Function(node.operator, real=True)(*args)


def to_latex(node: Node) -> str:
    """LaTeX of the sympy expression, without dollar signs.

    Raises:
        MissingExtraError: Without sympy.
    """
    return str(_sympy().latex(to_sympy(node)))


def to_mathml(node: Node) -> str:
    """Presentation MathML of the sympy expression, which browsers draw by themselves.

    Raises:
        MissingExtraError: Without sympy.
    """
    s = _sympy()
    return str(s.mathml(to_sympy(node), printer="presentation"))
