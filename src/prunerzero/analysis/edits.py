"""Recipes with something taken out or put in, so that its effect can be measured on the model."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from prunerzero.analysis.features import abstract
from prunerzero.metric import Metric
from prunerzero.metric.expression import Call, Constant, Leaf, Node
from prunerzero.metric.simplify import SQUARES, is_call, is_value
from prunerzero.metric.terminals import TERMINALS
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe

NORMALISERS = ("mms", "zsn", "rown", "coln", "div")
PARTS = {"mul": "factor", "add": "term", "sub": "term"}
GRADIENTS = "gradient"
WEIGHTS = "weight"

# From a formula to an edited one; None where nothing would be left.
Edit = Callable[[Node], Node | None]


class Variant(NamedTuple):
    """A recipe that differs from another by one edit.

    Attributes:
        label: what was left out, or replaced by what; constants as ``c``.
        kinds: kinds of matrices whose formula was edited; ``("",)`` for a single formula.
        recipe: the edited recipe.
    """

    label: str
    kinds: tuple[str, ...]
    recipe: Recipe


def ablations(recipe: Recipe, pattern: Pattern) -> list[Variant]:
    """One variant for each node that can be replaced by one of its operands.

    Of a product this drops a factor, of a sum a term, of a function the function. The formulas of
    several kinds of matrices are edited together where the edit reads the same but for constants.
    Variants that prune like the recipe, or like an earlier variant, are left out.

    Args:
        recipe: the recipe.
        pattern: what may be zero.

    Returns:
        The smallest edits first.
    """
    edits: dict[str, dict[str, tuple[int, Metric]]] = {}
    for kind, metric in recipe.formulas.items():
        for index, node in enumerate(metric.expression.nodes()):
            for place, arg in enumerate(node.args):
                if isinstance(arg, Constant):
                    continue
                shorter = Metric(metric.expression.replace(index, arg))
                if shorter.shape.spans_columns:
                    label = edit_label(node, place)
                    removed = node.size - arg.size
                    edits.setdefault(label, {}).setdefault(kind, (removed, shorter))
    ordered = sorted(edits.items(), key=lambda item: min(size for size, _ in item[1].values()))
    seen = {recipe.key(pattern)}
    found = []
    for label, by_kind in ordered:
        variant = with_formulas(recipe, {kind: metric for kind, (_, metric) in by_kind.items()})
        key = variant.key(pattern)
        if key not in seen:
            seen.add(key)
            found.append(Variant(label, tuple(by_kind), variant))
    return found


def edit_label(node: Node, kept: int) -> str:
    """What an edit does that leaves one operand of a node; the rest of a product goes unnamed."""
    assert isinstance(node, Call)
    if node.operator in PARTS:
        return f"without the {PARTS[node.operator]} {abstract(node.args[1 - kept])}"
    return f"{abstract(node)} -> {abstract(node.args[kept])}"


def with_formulas(recipe: Recipe, formulas: dict[str, Metric]) -> Recipe:
    """The recipe with some of its formulas replaced, by kind (`Recipe.formulas`)."""
    if isinstance(recipe.metric, Metric):
        return recipe.model_copy(update={"metric": formulas.get("", recipe.metric)})
    return recipe.model_copy(update={"metric": {**recipe.metric, **formulas}})


def edited(recipe: Recipe, edit: Edit, pattern: Pattern) -> Recipe | None:
    """The recipe with all its formulas edited.

    Returns:
        None where it prunes as before, or a formula can no longer rank the weights of a row.
    """
    formulas = {}
    for kind, metric in recipe.formulas.items():
        node = edit(metric.expression)
        if node is None or not node.shape.spans_columns:
            return None
        formulas[kind] = Metric(node)
    variant = with_formulas(recipe, formulas)
    return variant if variant.key(pattern) != recipe.key(pattern) else None


def without_terminals(needs: str) -> Edit:
    """Takes out all terminals that come from ``needs``: ``weight``, ``activation``, ``gradient``.

    A function of nothing is nothing; of a product the other factors stay, of a sum the other
    terms.
    """

    def remove(node: Node) -> Node | None:
        if isinstance(node, Leaf):
            return None if TERMINALS[node.name].needs == needs else node
        if not isinstance(node, Call):
            return node
        args = [remove(arg) for arg in node.args]
        if all(arg is not None for arg in args):
            return Call(node.operator, tuple(arg for arg in args if arg is not None))
        return _rest(node.operator, args)

    return remove


def _rest(operator: str, args: list[Node | None]) -> Node | None:
    """What stays of a call some arguments of which are nothing."""
    left, right = args[0], args[-1]
    if left is not None:
        return left
    if len(args) == 1 or right is None or operator in ("power", "div"):
        return None  # `div` takes but a norm of its right side, `power` but a constant
    if operator == "sub":
        return Call("neg", (right,))
    if operator == "ratio":
        return Call("ratio", (Constant(1.0), right))
    return right


def without_operators(operators: Collection[str]) -> Edit:
    """Replaces each call of some operators by its first argument."""

    def rule(node: Call) -> Node:
        return node.args[0] if node.operator in operators else node

    return lambda node: _rewritten(node, rule)


def with_operator(operator: str, needs: str) -> Edit:
    """Applies an operator to every terminal that comes from ``needs``."""

    def add(node: Node) -> Node:
        if isinstance(node, Leaf):
            return Call(operator, (node,)) if TERMINALS[node.name].needs == needs else node
        return Call(node.operator, tuple(map(add, node.args))) if isinstance(node, Call) else node

    return add


def without_squares(node: Node) -> Node:
    """Replaces squares by magnitudes: ``sqr(x)``, ``pow(x)``, ``x ** 2`` and ``x * x`` by |x|."""
    return _rewritten(node, lambda call: _magnitude(call.args[0]) if _is_square(call) else call)


def _is_square(node: Call) -> bool:
    return (
        is_call(node, *SQUARES)
        or (node.operator == "mul" and node.args[0] == node.args[1])
        or (node.operator == "power" and is_value(node.args[1], 2))
    )


def _magnitude(node: Node) -> Node:
    return node if node.bounds.non_negative else Call("abs", (node,))


def _rewritten(node: Node, rule: Callable[[Call], Node]) -> Node:
    if not isinstance(node, Call):
        return node
    return rule(Call(node.operator, tuple(_rewritten(arg, rule) for arg in node.args)))
