"""The operators: one `Operator` object each, and the registry that the language reads.

A new operator is one object and a call of `register`, which probes its function before
accepting it (see docs/metric-language.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from prunerzero.errors import InputError
from prunerzero.metric import kernels
from prunerzero.metric.types import ANYTHING, NON_NEGATIVE, Bounds, Shape, broadcast, hull

if TYPE_CHECKING:
    from torch import Tensor


def anything(*_args: Bounds) -> Bounds:
    """The bounds of an operator of which nothing is known."""
    return ANYTHING


class Split(NamedTuple):
    """A kernel in two parts: ``kernel(*args) = finish(*args, *reduce(*args))``.

    Attributes:
        reduce: What needs the whole arguments; gives a few tensors ``[1, in]``, ``[out, 1]`` or
            smaller.
        finish: The rest, value by value.
    """

    reduce: Callable[..., tuple[Tensor, ...]]
    finish: Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of the language.

    Attributes:
        name: Its name in calls and in JSON.
        arity: Number of arguments, 1 or 2.
        kernel: Function of float32 tensors ``[out or 1, in or 1]`` giving one such tensor. It must
            not write to its arguments.
        description: One line, the formula.
        paper: Whether it belongs to the paper's fifteen.
        symbol: The infix symbol, if it has one.
        shape: Shape of the result from the arguments' shapes.
        bounds: Interval of the result from the arguments' intervals.
        constant_exponent: The second argument is a real constant, handed to the kernel as a float.
        commutative: Swapping the arguments changes nothing.
        even: f(x) = f(abs(x)), increasing in abs(x).
        increasing_within: f is strictly increasing for arguments inside this interval (None: not).
        scale: For an increasing operator that is f(x) = a x + b with a > 0: the shape of a and b,
            from the shape of x. None: f does not depend on the other elements.
        error_growth: How many times the relative error of an argument grows at most in the result
            (infinite where values can cancel).
        error_growth_non_negative: The same where no argument can be negative.
        row_local: A row of the result depends on no other row of the arguments, so that the
            search may compute it in blocks of rows.
        split: How to do so for a kernel that is not row-local but for a few reductions; and how to
            fix what a normaliser divides by.
        elementwise: Each value of the result depends on the arguments' values in its place alone.
    """

    name: str
    arity: int
    kernel: Callable[..., Tensor]
    description: str
    paper: bool = False
    symbol: str | None = None
    shape: Callable[..., Shape] = broadcast
    bounds: Callable[..., Bounds] = anything
    constant_exponent: bool = False
    commutative: bool = False
    even: bool = False
    increasing_within: Bounds | None = None
    scale: Callable[[Shape], Shape] | None = None
    error_growth: float = math.inf
    error_growth_non_negative: float = math.inf
    row_local: bool = False
    split: Split | None = None
    elementwise: bool = False


OPERATORS: dict[str, Operator] = {}


def register(operator: Operator) -> Operator:
    """Adds an operator to the language, after trying its function.

    As in gplearn, the function is probed before it is accepted: on ones, zeros, negatives, huge and
    tiny values of both signs, and a ramp; two arguments on every pair of these. It must return a
    new finite float32 tensor of the declared shape and within the declared bounds, and leave its
    arguments alone.

    Example:
        >>> register(Operator("bad", 1, lambda x: 1 / x, "1 / x"))
        Traceback (most recent call last):
        prunerzero.errors.InputError: operator 'bad': its function is not finite on zeros; ...

    Returns:
        The operator.

    Raises:
        InputError: The declaration or the function is unusable; the line says how.
    """
    from prunerzero.metric.probing import probe
    from prunerzero.metric.terminals import TERMINALS

    where = f"operator {operator.name!r}"
    if not (operator.name.isascii() and operator.name.isidentifier()):
        raise InputError(f"{where}: the name must be an identifier")
    if operator.name in OPERATORS or operator.name in TERMINALS:
        raise InputError(f"{where}: the name is already taken")
    if operator.arity not in (1, 2):
        raise InputError(f"{where}: arity is {operator.arity}, must be 1 or 2")
    if operator.symbol or operator.constant_exponent or operator.split:
        raise InputError(
            f"{where}: infix symbols, exponents and splits are for the built-in operators"
        )
    probe(operator, where)
    OPERATORS[operator.name] = operator
    return operator


# --- Bounds -----------------------------------------------------------------------------------


def _add(a: Bounds, b: Bounds) -> Bounds:
    return Bounds(a.low + b.low, a.high + b.high)


def _sub(a: Bounds, b: Bounds) -> Bounds:
    return Bounds(a.low - b.high, a.high - b.low)


def _times(x: float, y: float) -> float:
    return 0.0 if x == 0 or y == 0 else x * y  # an unbounded factor of zero stays zero


def _mul(a: Bounds, b: Bounds) -> Bounds:
    return hull(_times(x, y) for x in a for y in b)


def _same_sign(a: Bounds, _b: Bounds) -> Bounds:
    return NON_NEGATIVE if a.non_negative else ANYTHING


def _ratio(a: Bounds, b: Bounds) -> Bounds:
    return NON_NEGATIVE if a.non_negative and b.non_negative else ANYTHING


def _neg(x: Bounds) -> Bounds:
    return Bounds(-x.high, -x.low)


def _magnitude(x: Bounds) -> Bounds:
    return x.magnitude


def _tanh(x: Bounds) -> Bounds:
    return Bounds(math.tanh(x.low), math.tanh(x.high))


def _unit(_x: Bounds) -> Bounds:
    return Bounds(0.0, 1.0)


def _even(function: Callable[[float], float]) -> Callable[[Bounds], Bounds]:
    return lambda x: Bounds(function(x.magnitude.low), function(x.magnitude.high))


def _log(x: Bounds) -> Bounds:
    # Rounded outwards below 1, so that a logarithm near zero is never taken for non-negative.
    low, high = x.magnitude
    return Bounds(math.log(low + 0.001) if low >= 1 else -7.0, math.log(high + 0.001) + 1e-6)


def _exp(x: Bounds) -> Bounds:
    return Bounds(math.exp(min(x.low, 88)), math.exp(x.high) if x.high < 88 else math.inf)


def _square(x: float) -> float:
    return x * x


def _power(x: Bounds, exponent: Bounds) -> Bounds:
    ends = [_power_of(end, exponent.low) for end in x.magnitude]
    return hull(ends)


def _power_of(x: float, exponent: float) -> float:
    try:
        return math.inf if x == 0 and exponent < 0 else x**exponent
    except OverflowError:
        return math.inf


def _sign_of(x: Bounds) -> Bounds:
    return NON_NEGATIVE if x.non_negative else ANYTHING


def _itself(x: Bounds) -> Bounds:
    return x


def _non_negative(_x: Bounds) -> Bounds:
    return NON_NEGATIVE


# --- Shapes -----------------------------------------------------------------------------------


def _one_column(shape: Shape) -> Shape:
    return Shape.of(shape.spans_rows, False)


def _one_row(shape: Shape) -> Shape:
    return Shape.of(False, shape.spans_columns)


def _scalar(_shape: Shape) -> Shape:
    return Shape.SCALAR


# exp and tanh merge or saturate far out; inside these intervals float32 still tells values apart.
_EXP_INCREASES = Bounds(-80.0, 80.0)
_TANH_INCREASES = Bounds(-4.0, 4.0)

_PAPER = (
    Operator(
        "add", 2, lambda x, y: x + y, "x + y", symbol="+", bounds=_add, commutative=True,
        error_growth_non_negative=1,
    ),
    Operator("sub", 2, lambda x, y: x - y, "x - y", symbol="-", bounds=_sub),
    Operator(
        "mul", 2, lambda x, y: x * y, "x * y", symbol="*", bounds=_mul, commutative=True,
        error_growth=1,
    ),
    Operator(
        "div", 2, kernels.div, "x / ||y||, the Frobenius norm of y as broadcast against x",
        bounds=_same_sign, error_growth=1,
        split=Split(kernels.norm, kernels.over_norm),
    ),
    Operator("sqr", 1, kernels.square, "x * x", bounds=_even(_square), even=True, error_growth=2),
    Operator(
        "pow", 1, kernels.square, "x ** 2, the same as sqr", bounds=_even(_square), even=True,
        error_growth=2,
    ),
    Operator("neg", 1, lambda x: -x, "-x", symbol="-", bounds=_neg, error_growth=1),
    Operator("abs", 1, kernels.magnitude, "|x|", bounds=_magnitude, even=True, error_growth=1),
    Operator(
        "sqrt", 1, kernels.root, "sqrt(|x|)", bounds=_even(math.sqrt), even=True,
        error_growth=1,
    ),
    Operator("log", 1, kernels.log, "log(|x| + 0.001)", bounds=_log, even=True),
    Operator(
        "exp", 1, kernels.exp, "exp(min(x, 100))", bounds=_exp,
        increasing_within=_EXP_INCREASES,
    ),
    Operator(
        "tanh", 1, kernels.tanh, "tanh(x)", bounds=_tanh,
        increasing_within=_TANH_INCREASES, error_growth=1,
    ),
    Operator(
        "skp", 1, kernels.itself, "x", bounds=_itself, increasing_within=ANYTHING, error_growth=1
    ),
    Operator(
        "mms", 1, kernels.mms, "(x - min) / (max - min), over x's own tensor",
        bounds=_unit, increasing_within=ANYTHING, scale=_scalar,
        split=Split(kernels.extremes, kernels.rescale),
    ),
    Operator(
        "zsn", 1, kernels.zsn, "(x - mean) / std, unbiased, over x's own tensor",
        increasing_within=ANYTHING, scale=_scalar,
        split=Split(kernels.moments, kernels.standardise),
    ),
)  # fmt: skip

_EXTENDED = (
    Operator(
        "ratio", 2, kernels.ratio, "a / b with |b| at least 1e-12, clamped to finite", symbol="/",
        bounds=_ratio, error_growth=1,
    ),
    Operator(
        "power", 2, kernels.power, "|a| ** c, c a real constant, clamped to finite",
        symbol="**", bounds=_power,
        shape=lambda base, _exponent: base, constant_exponent=True,
    ),
    Operator(
        "rowsum", 1, kernels.row_sum, "sum of each row",
        bounds=_sign_of, shape=_one_column, error_growth_non_negative=1,
    ),
    Operator(
        "rowmean", 1, kernels.row_mean, "mean of each row",
        bounds=_sign_of, shape=_one_column, error_growth_non_negative=1,
    ),
    Operator(
        "rowmax", 1, kernels.row_max, "maximum of each row",
        bounds=_itself, shape=_one_column, error_growth=1,
    ),
    Operator(
        "rowstd", 1, kernels.row_std, "unbiased standard deviation of each row",
        bounds=_non_negative, shape=_one_column,
    ),
    Operator(
        "colsum", 1, kernels.column_sum, "sum of each column",
        bounds=_sign_of, shape=_one_row, error_growth_non_negative=1,
    ),
    Operator(
        "colmean", 1, kernels.column_mean, "mean of each column",
        bounds=_sign_of, shape=_one_row, error_growth_non_negative=1,
    ),
    Operator(
        "colmax", 1, kernels.column_max, "maximum of each column",
        bounds=_itself, shape=_one_row, error_growth=1,
    ),
    Operator(
        "colstd", 1, kernels.column_std, "unbiased standard deviation of each column",
        bounds=_non_negative, shape=_one_row,
    ),
    Operator(
        "rown", 1, kernels.row_normalised, "x / rowmean(|x|)", bounds=_sign_of,
        increasing_within=ANYTHING, scale=_one_column, error_growth=2,
        split=Split(kernels.row_magnitude, kernels.ratio),
    ),
    Operator(
        "coln", 1, kernels.column_normalised, "x / colmean(|x|)", bounds=_sign_of,
        increasing_within=ANYTHING, scale=_one_row, error_growth=2,
        split=Split(kernels.column_magnitude, kernels.ratio),
    ),
)  # fmt: skip

# Those that reduce columns or the whole matrix; all others are row-local.
_WHOLE = frozenset({"div", "mms", "zsn", "colsum", "colmean", "colmax", "colstd", "coln"})
_ROWWISE = frozenset({"rowsum", "rowmean", "rowmax", "rowstd", "rown"})
for _operators, _paper in ((_PAPER, True), (_EXTENDED, False)):
    for _operator in _operators:
        OPERATORS[_operator.name] = replace(
            _operator,
            paper=_paper,
            row_local=_operator.name not in _WHOLE,
            elementwise=_operator.name not in _WHOLE | _ROWWISE,
        )

BUILT_IN = frozenset(OPERATORS)  # what users register comes later
