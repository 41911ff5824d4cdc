"""The nodes of an expression tree: immutable, hashable, statically typed.

A search makes hundreds of thousands of them, so that size, depth, type and hash are computed
once, when a node is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from prunerzero.errors import InputError
from prunerzero.metric.kernels import FLOAT32_MAX
from prunerzero.metric.operators import OPERATORS
from prunerzero.metric.terminals import TERMINALS
from prunerzero.metric.types import Bounds, Shape, Sign

MAX_DEPTH = 64  # levels below the root; every recursion over a tree is bounded by it
MAX_SIZE = 1000  # nodes
FLOAT32_TINY = 1.1754943508222875e-38  # smaller constants would lose digits or become zero


class Node:
    """What `Leaf`, `Constant` and `Call` share.

    Attributes:
        size: Number of nodes.
        depth: Levels below this node; 0 for a leaf.
        shape: Static shape.
        bounds: An interval that holds every value.
        terminals: Names of the terminals used.
    """

    __slots__ = ("_hash", "bounds", "depth", "shape", "size", "terminals")

    size: int
    depth: int
    shape: Shape
    bounds: Bounds
    terminals: frozenset[str]
    _hash: int

    @property
    def args(self) -> tuple[Node, ...]:
        """The children."""
        return ()

    @property
    def sign(self) -> Sign:
        """What is known of the values' sign."""
        return Sign.NON_NEGATIVE if self.bounds.non_negative else Sign.ANY

    def nodes(self) -> Iterator[Node]:
        """All nodes in pre-order, this one first."""
        stack: list[Node] = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.args))

    def replace(self, index: int, subtree: Node) -> Node:
        """A tree in which ``subtree`` stands in place of the node at a pre-order position.

        Args:
            index: Position in `nodes`, 0 for this node.
            subtree: What comes there.

        Raises:
            IndexError: There is no such node.
            InputError: The result is too large, or its exponent is no constant.
        """
        if not 0 <= index < self.size:
            raise IndexError(f"node {index} of a tree of {self.size} nodes")
        if index == 0:
            return subtree
        assert isinstance(self, Call)
        position, args = 1, list(self.args)
        for place, arg in enumerate(args):
            if index < position + arg.size:
                args[place] = arg.replace(index - position, subtree)
                break
            position += arg.size
        return Call(self.operator, tuple(args))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        from prunerzero.metric.text import to_text

        return to_text(self)

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True, eq=False)
class Leaf(Node):
    """A terminal, by name.

    Raises:
        InputError: No terminal has that name.
    """

    name: str

    def __post_init__(self) -> None:
        """Looks the type up."""
        if self.name not in TERMINALS:
            raise InputError(f"unknown terminal {self.name!r}; there are {', '.join(TERMINALS)}")
        terminal = TERMINALS[self.name]
        self._set(size=1, depth=0, shape=terminal.shape, bounds=terminal.bounds)
        self._set(terminals=frozenset((self.name,)), _hash=hash(("leaf", self.name)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Leaf) and self.name == other.name

    __hash__ = Node.__hash__

    def __reduce__(self) -> tuple[type[Leaf], tuple[str]]:
        """Rebuilds: hashes of strings differ between processes, so they must not travel."""
        return Leaf, (self.name,)


@dataclass(frozen=True, slots=True, eq=False)
class Constant(Node):
    """A real constant.

    Raises:
        InputError: It is not finite in float32, or too small for it.
    """

    value: float

    def __post_init__(self) -> None:
        """Checks the range."""
        value = float(self.value) + 0.0  # -0.0 becomes 0.0
        if not math.isfinite(value) or abs(value) > FLOAT32_MAX:
            raise InputError(f"constant {value:g} is out of range: float32 ends at 3.4e38")
        if value and abs(value) < FLOAT32_TINY:
            raise InputError(f"constant {value:g} is out of range: float32 begins at 1.2e-38")
        self._set(value=value, size=1, depth=0, shape=Shape.SCALAR, bounds=Bounds(value, value))
        self._set(terminals=frozenset(), _hash=hash(("constant", value)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self.value == other.value

    __hash__ = Node.__hash__

    def __reduce__(self) -> tuple[type[Constant], tuple[float]]:
        """Rebuilds, as `Leaf` does."""
        return Constant, (self.value,)


@dataclass(frozen=True, slots=True, eq=False)
class Call(Node):
    """An operator applied to its arguments.

    Raises:
        InputError: Unknown operator, wrong number of arguments, an exponent that is no constant,
            or a tree beyond `MAX_DEPTH` or `MAX_SIZE`.
    """

    operator: str
    args: tuple[Node, ...]

    def __post_init__(self) -> None:
        """Checks the call and computes its type."""
        operator = OPERATORS.get(self.operator)
        if operator is None:
            raise InputError(f"unknown operator {self.operator!r}")
        if len(self.args) != operator.arity:
            plural = "argument" if operator.arity == 1 else "arguments"
            raise InputError(
                f"{self.operator!r} takes {operator.arity} {plural}, got {len(self.args)}"
            )
        if operator.constant_exponent and not isinstance(self.args[1], Constant):
            raise InputError("the exponent must be a number")
        size = 1 + sum(arg.size for arg in self.args)
        depth = 1 + max(arg.depth for arg in self.args)
        if depth > MAX_DEPTH:
            raise InputError(f"more than {MAX_DEPTH} levels deep")
        if size > MAX_SIZE:
            raise InputError(f"more than {MAX_SIZE} nodes")
        bounds = operator.bounds(*(arg.bounds for arg in self.args))
        if operator.name == "mul" and self.args[0] == self.args[1]:
            bounds = OPERATORS["sqr"].bounds(self.args[0].bounds)
        self._set(size=size, depth=depth, bounds=bounds)
        self._set(shape=operator.shape(*(arg.shape for arg in self.args)))
        self._set(terminals=frozenset().union(*(arg.terminals for arg in self.args)))
        self._set(_hash=hash((self.operator, self.args)))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, Call)
            and self._hash == other._hash
            and self.operator == other.operator
            and self.args == other.args
        )

    __hash__ = Node.__hash__

    def __reduce__(self) -> tuple[type[Call], tuple[str, tuple[Node, ...]]]:
        """Rebuilds, as `Leaf` does."""
        return Call, (self.operator, self.args)
