"""Trying a user's operator on awkward values before it is accepted."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor

from prunerzero.errors import InputError
from prunerzero.metric.operators import Operator
from prunerzero.metric.types import Bounds, Shape, hull

HUGE, TINY = 1e30, 1e-30
ROWS, COLUMNS = 3, 4


def probes() -> dict[str, Tensor]:
    """What functions are tried on, float32 ``[3, 4]``, by what to call it."""
    ones = torch.ones(ROWS, COLUMNS)
    return {
        "ones": ones,
        "zeros": 0 * ones,
        "negatives": -ones,
        "a ramp": torch.linspace(-2.0, 3.0, ROWS * COLUMNS).reshape(ROWS, COLUMNS),
        f"huge values ({HUGE:g})": HUGE * ones,
        f"huge negatives ({-HUGE:g})": -HUGE * ones,
        f"tiny values ({TINY:g})": TINY * ones,
        f"tiny negatives ({-TINY:g})": -TINY * ones,
    }


def probe(operator: Operator, where: str) -> None:
    """Tries an operator's function on all probes, or all pairs of them.

    Args:
        operator: The operator.
        where: What it is, for the message.

    Raises:
        InputError: The function raises, writes to its arguments, or returns what was not declared.
    """
    for chosen in product(probes().items(), repeat=operator.arity):
        name = " and ".join(dict.fromkeys(name for name, _ in chosen))
        _try(operator, where, name, [values for _, values in chosen])


def _try(operator: Operator, where: str, name: str, values: list[Tensor]) -> None:
    args = [value.clone() for value in values]
    try:
        result: Any = operator.kernel(*args)
    except Exception as error:  # whatever a user's function raises is its fault
        raise InputError(f"{where}: its function raised on {name}: {error}") from error
    if not isinstance(result, Tensor):
        raise InputError(f"{where}: its function returned {type(result).__name__}, no tensor")
    if not all(map(torch.equal, args, values)):
        raise InputError(f"{where}: its function changes its argument in place")
    shape = operator.shape(*[Shape.FULL] * operator.arity)
    expected = (ROWS if shape.spans_rows else 1, COLUMNS if shape.spans_columns else 1)
    if tuple(result.shape) != expected or result.dtype != torch.float32:
        raise InputError(
            f"{where}: its function returned {result.dtype} {tuple(result.shape)} on {name}, "
            f"must be torch.float32 {expected}"
        )
    if not result.isfinite().all():
        raise InputError(
            f"{where}: its function is not finite on {name}; protect it, with .clamp(...) say"
        )
    bounds = [Bounds(float(value.min()), float(value.max())) for value in values]
    if not operator.bounds(*bounds).contains(hull(result.flatten().tolist())):
        raise InputError(f"{where}: its function leaves its declared bounds on {name}")
    if operator.row_local and shape.spans_rows:
        one_row = operator.kernel(*(value[:1].clone() for value in values))
        if not torch.equal(one_row, result[:1]):
            raise InputError(f"{where}: declared row-local, yet other rows change one on {name}")
