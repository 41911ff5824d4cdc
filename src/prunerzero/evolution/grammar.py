"""Random expression trees: the initial population, and fresh blood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from prunerzero.errors import InputError
from prunerzero.metric import Metric
from prunerzero.metric.expression import Call, Constant, Leaf, Node
from prunerzero.metric.operators import OPERATORS
from prunerzero.metric.terminals import TERMINALS
from prunerzero.metric.types import Shape
from prunerzero.suggestions import did_you_mean

# The paper's: root is depth 0.
MIN_DEPTH, MAX_DEPTH = 2, 4
GROW_TERMINAL_PROBABILITY = 0.5

EXPONENTS = (0.25, 0.5, 0.75, 1.5, 2.0)


@dataclass(frozen=True)
class Grammar:
    """What random trees are made of.

    Attributes:
        terminals: names of terminals; a name listed twice is drawn twice as often.
        operators: names of operators, likewise.
    """

    terminals: tuple[str, ...]
    operators: tuple[str, ...]

    def including(self, names: Sequence[str]) -> Grammar:
        """The grammar with further terminals and operators.

        Raises:
            InputError: a name is not registered, or is drawn already.
        """
        for index, name in enumerate(names):
            if name not in TERMINALS and name not in OPERATORS:
                raise InputError(
                    f"vocabulary '{name}': is neither a terminal nor an operator"
                    + did_you_mean(name, (*TERMINALS, *OPERATORS))
                )
            if name in (*self.terminals, *self.operators, *names[:index]):
                raise InputError(f"vocabulary '{name}': random trees draw it already")
        return replace(
            self,
            terminals=self.terminals + tuple(name for name in names if name in TERMINALS),
            operators=self.operators + tuple(name for name in names if name in OPERATORS),
        )

    def terminal(self, random: Random) -> Node:
        """A random leaf."""
        return Leaf(random.choice(self.terminals))

    def like(self, operator: str, random: Random) -> str:
        """Another operator that takes the same arguments, or the same if there is none."""
        spec = OPERATORS[operator]
        same = [
            name
            for name in dict.fromkeys(self.operators)
            if name != operator
            and OPERATORS[name].arity == spec.arity
            and OPERATORS[name].constant_exponent == spec.constant_exponent
        ]
        return random.choice(same) if same else operator

    def grow(self, random: Random, low: int = MIN_DEPTH, high: int = MAX_DEPTH) -> Node:
        """A tree of depth ``low`` to ``high``; past ``low`` a node is a leaf half of the time."""

        def build(depth: int) -> Node:
            if depth >= high or (depth >= low and random.random() < GROW_TERMINAL_PROBABILITY):
                return self.terminal(random)
            return self._call(random, lambda: build(depth + 1))

        return build(0)

    def full(self, random: Random, low: int = MIN_DEPTH, high: int = MAX_DEPTH) -> Node:
        """A tree whose leaves all lie at one depth, drawn from ``low`` to ``high``."""
        target = random.randint(low, high)

        def build(depth: int) -> Node:
            if depth == target:
                return self.terminal(random)
            return self._call(random, lambda: build(depth + 1))

        return build(0)

    def tree(self, random: Random) -> Metric:
        """A tree that can rank weights: "grow" and "full", half each (the paper's start)."""
        while True:
            build = self.grow if random.random() < 0.5 else self.full
            node = build(random)
            if node.shape in (Shape.FULL, Shape.COLUMN):
                return Metric(node)

    def _call(self, random: Random, child: object) -> Node:
        name = random.choice(self.operators)
        spec = OPERATORS[name]
        assert callable(child)
        if spec.constant_exponent:
            return Call(name, (child(), Constant(random.choice(EXPONENTS))))
        return Call(name, tuple(child() for _ in range(spec.arity)))


PAPER = Grammar(
    terminals=("W", "G", "X"),
    operators=tuple(name for name, operator in OPERATORS.items() if operator.paper),
)

# Scale-free terminals. Products and roots are drawn more often: all published metrics are products
# of powers, and sums of statistics with different units rarely help.
DEFAULT = Grammar(
    terminals=("W", "W", "A", "F"),
    operators=(
        *("mul",) * 4,
        *("power", "sqrt") * 2,
        *("add", "sub", "ratio"),
        *("sqr", "log", "tanh", "mms", "zsn", "rown", "coln"),
        *("rowmean", "colmean", "rowmax", "colmax", "rowstd", "colstd"),
    ),
)
