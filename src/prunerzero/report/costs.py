"""What each part of a formula is worth, written to the nodes of its tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prunerzero.analysis.edits import PARTS, edit_label
from prunerzero.errors import InputError
from prunerzero.metric import Metric
from prunerzero.metric.expression import Call, Constant, Node
from prunerzero.report.document import Edit, Formula


def with_costs(formula: Formula, ablation: Sequence[Edit]) -> Formula:
    """The formula with ``cost`` at each node of its tree whose removal has been measured.

    An edit that keeps one operand of a sum or product is the cost of the other operand; any other
    is the cost of the operator that it drops. A cost is the relative change of perplexity.
    """
    costs = {
        edit.edit: edit.change for edit in ablation if formula.kind in edit.kinds or not edit.kinds
    }
    try:
        expression = Metric.parse(formula.text).expression
    except InputError:  # an operator that this version does not know: there is no tree
        return formula
    return formula.model_copy(update={"tree": _costed(expression, formula.tree, costs)})


def _costed(node: Node, tree: dict[str, Any], costs: dict[str, float]) -> dict[str, Any]:
    made = dict(tree)
    if not isinstance(node, Call):
        return made
    sides = [side for side in ("left", "right") if side in tree]
    for side, arg in zip(sides, node.args, strict=True):
        made[side] = _costed(arg, tree[side], costs)
    for place, arg in enumerate(node.args):
        cost = None if isinstance(arg, Constant) else costs.get(edit_label(node, place))
        if cost is not None:
            dropped = made[sides[1 - place]] if node.operator in PARTS else made
            dropped["cost"] = cost
    return made
