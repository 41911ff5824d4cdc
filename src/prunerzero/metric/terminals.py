"""The terminals: per-matrix statistics that a metric's leaves name.

A further terminal is one `Terminal` object passed to `register`; its collector lives in
`prunerzero.statistics`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prunerzero.errors import InputError
from prunerzero.metric.types import ANYTHING, NON_NEGATIVE, Bounds, Shape, Sign


@dataclass(frozen=True, slots=True)
class Terminal:
    """A statistic of one weight matrix.

    Attributes:
        name: What a metric calls it.
        shape: Shape of its tensor.
        sign: Whether its values can be negative.
        description: One line: definition and unit.
        scale: How it changes with the calibration's shape.
        needs: Where it comes from: the weight alone, a forward pass, or a backward pass.
    """

    name: str
    shape: Shape
    sign: Sign
    description: str
    scale: str
    needs: Literal["weight", "activation", "gradient"]

    @property
    def bounds(self) -> Bounds:
        """The interval of its values."""
        return NON_NEGATIVE if self.sign is Sign.NON_NEGATIVE else ANYTHING


TERMINALS: dict[str, Terminal] = {}


def register(terminal: Terminal) -> Terminal:
    """Adds a terminal to the language.

    Returns:
        The terminal.

    Raises:
        InputError: The name is taken or is no identifier.
    """
    from prunerzero.metric.operators import OPERATORS

    if not (terminal.name.isascii() and terminal.name.isidentifier()):
        raise InputError(f"terminal name {terminal.name!r}: must be an identifier")
    if terminal.name in TERMINALS or terminal.name in OPERATORS:
        raise InputError(f"terminal {terminal.name!r}: the name is already taken")
    TERMINALS[terminal.name] = terminal
    return terminal


for _terminal in (
    Terminal(
        "W",
        Shape.FULL,
        Sign.NON_NEGATIVE,
        "absolute value of the weight",
        "independent of the calibration",
        "weight",
    ),
    Terminal(
        "G",
        Shape.FULL,
        Sign.NON_NEGATIVE,
        "sqrt of the sum over calibration sequences of (100 dLoss/dW)^2, mean token loss",
        "grows with the square root of the number of sequences",
        "gradient",
    ),
    Terminal(
        "X",
        Shape.COLUMN,
        Sign.NON_NEGATIVE,
        "sum over tokens of the squared input feature, divided by the number of sequences",
        "grows with the length of a sequence",
        "activation",
    ),
    Terminal(
        "A",
        Shape.COLUMN,
        Sign.NON_NEGATIVE,
        "root mean square of the input feature over tokens",
        "independent of the calibration's shape",
        "activation",
    ),
    Terminal(
        "R",
        Shape.COLUMN,
        Sign.NON_NEGATIVE,
        "root mean square of the input feature times the router's weight, over an expert's tokens; "
        "A for matrices that are no expert's",
        "independent of the calibration's shape",
        "activation",
    ),
    Terminal(
        "Amean",
        Shape.COLUMN,
        Sign.ANY,
        "mean of the input feature over tokens",
        "independent of the calibration's shape",
        "activation",
    ),
    Terminal(
        "Avar",
        Shape.COLUMN,
        Sign.NON_NEGATIVE,
        "variance of the input feature over tokens",
        "independent of the calibration's shape",
        "activation",
    ),
    Terminal(
        "Hinv",
        Shape.COLUMN,
        Sign.NON_NEGATIVE,
        "diagonal of the inverse of the inputs' second moments, damped by 1 % of their mean",
        "independent of the calibration's shape",
        "activation",
    ),
    Terminal(
        "Hfree",
        Shape.COLUMN,
        Sign.NON_NEGATIVE,
        "the same with the features before it fixed: SparseGPT's squared Cholesky diagonal",
        "independent of the calibration's shape",
        "activation",
    ),
    Terminal(
        "F",
        Shape.FULL,
        Sign.NON_NEGATIVE,
        "root mean square of dLoss/dW over sequences (its square: diagonal empirical Fisher)",
        "independent of the number of sequences",
        "gradient",
    ),
    Terminal(
        "Gmean",
        Shape.FULL,
        Sign.ANY,
        "mean of dLoss/dW over sequences, with its sign",
        "independent of the number of sequences",
        "gradient",
    ),
    Terminal(
        "G1",
        Shape.FULL,
        Sign.NON_NEGATIVE,
        "sum over calibration sequences of |100 dLoss/dW|, mean token loss",
        "grows with the number of sequences",
        "gradient",
    ),
    Terminal(
        "B",
        Shape.FULL,
        Sign.NON_NEGATIVE,
        "root mean square over sequences of the gradient of the l2 norm of the block's output",
        "independent of the number of sequences; depends on their length",
        "gradient",
    ),
):
    TERMINALS[_terminal.name] = _terminal

BUILT_IN = frozenset(TERMINALS)  # what users register comes later
