"""What a recipe is made of: operators, terminals, scalings and subtrees of what decides its masks.

Features are those of the canonical formulas: a square at the root, say, changes no mask of a
non-negative score, so it must not pass for a reason of success.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from prunerzero.metric import Metric
from prunerzero.metric.expression import Call, Constant, Leaf, Node
from prunerzero.metric.terminals import TERMINALS
from prunerzero.pruning.allocation import UniformAllocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe

LARGEST_SUBTREE = 9  # nodes; larger ones are hardly ever shared

_NUMBER = re.compile(r"(?<![\w.])-?\d[\d.]*(?:e[+-]?\d+)?")


class Feature(NamedTuple):
    """One thing that a recipe has or has not.

    Attributes:
        kind: ``terminal``, ``operator``, ``scaling`` (an operation on one terminal), ``subtree``
            or ``setting``.
        name: the terminal's or operator's name, or the subtree's text, constants as ``c``.
    """

    kind: str
    name: str


def canonical_formulas(recipe: Recipe, pattern: Pattern) -> list[Metric]:
    """The recipe's formulas as they decide masks."""
    return [
        metric.canonical(group=recipe.group, nm=pattern.is_nm)
        for metric in recipe.formulas.values()
    ]


def features(recipe: Recipe, pattern: Pattern) -> frozenset[Feature]:
    """All that a recipe has in at least one of its formulas, and how it is applied."""
    found = {
        feature
        for metric in canonical_formulas(recipe, pattern)
        for node in metric.expression.nodes()
        for feature in _of_node(node)
    }
    if len(recipe.formulas) > 1:
        found.add(Feature("setting", "formulas by kind of matrix"))
    if not pattern.is_nm:
        if recipe.group != "row":
            found.add(Feature("setting", f"group {recipe.group}"))
        if recipe.allocation.key() != UniformAllocation().key():
            found.add(Feature("setting", "allocation not uniform"))
    return frozenset(found)


def _of_node(node: Node) -> Iterator[Feature]:
    if isinstance(node, Leaf):
        yield Feature("terminal", node.name)
    elif isinstance(node, Call):
        yield Feature("operator", node.operator)
        varying = [arg for arg in node.args if not isinstance(arg, Constant)]
        if len(varying) == 1 and isinstance(varying[0], Leaf):
            yield Feature("scaling", abstract(node))
        elif varying and node.size <= LARGEST_SUBTREE:
            yield Feature("subtree", abstract(node))


def abstract(node: Node) -> str:
    """The text of an expression with every constant as ``c``."""
    return _NUMBER.sub("c", str(node))


def uses_gradients(recipe: Recipe) -> bool:
    """Whether a terminal of the recipe needs a backward pass."""
    return any(TERMINALS[name].needs == "gradient" for name in recipe.terminals)


def uses_weights(recipe: Recipe) -> bool:
    """Whether the recipe reads the weights themselves."""
    return any(TERMINALS[name].needs == "weight" for name in recipe.terminals)
