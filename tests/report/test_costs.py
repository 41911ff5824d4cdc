"""What a part is worth stands at the node that would go."""

from __future__ import annotations

import pytest

from prunerzero.analysis.edits import ablations
from prunerzero.metric import Metric
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.report.costs import with_costs
from prunerzero.report.document import Edit, Formula


def formula(text: str, kind: str = "") -> Formula:
    return Formula(kind=kind, text=text, tree=Metric.parse(text).to_tree())


def edit(name: str, change: float, *kinds: str) -> Edit:
    return Edit(edit=name, kinds=list(kinds), change=change, low=change, high=change)


def test_of_a_product_the_other_factor_has_the_cost() -> None:
    found = with_costs(formula("W * A ** 0.5"), [edit("without the factor A ** c", 0.25)]).tree
    assert found["right"]["cost"] == 0.25
    assert "cost" not in found
    assert "cost" not in found["left"]


def test_of_a_function_itself() -> None:
    found = with_costs(formula("W * sqrt(X)"), [edit("sqrt(X) -> X", -0.02)]).tree
    assert found["right"] == {"data": "sqrt", "left": {"data": "X"}, "cost": -0.02}


def test_edits_of_other_kinds_of_matrices_do_not_count() -> None:
    edits = [edit("without the factor A", 0.5, "mlp")]
    assert with_costs(formula("W * A", "q_proj"), edits).tree == Metric.parse("W * A").to_tree()
    assert with_costs(formula("W * A", "mlp"), edits).tree["right"]["cost"] == 0.5


def test_an_unknown_operator_has_no_tree() -> None:
    unknown = Formula(kind="", text="W * nonsense(A)", tree={})
    assert with_costs(unknown, [edit("without the factor A", 0.5)]) == unknown


@pytest.mark.parametrize("text", ["W * A ** 0.3 * colmean(F)", "sqrt(W) * A + log(F) / A"])
def test_each_edit_that_is_measured_finds_its_node(text: str) -> None:
    variants = ablations(Recipe.from_text(text), Pattern.parse("50%"))
    edits = [edit(variant.label, 0.1 + place) for place, variant in enumerate(variants)]

    def costs(tree: dict) -> list[float]:
        below = [tree[side] for side in ("left", "right") if side in tree]
        own = [tree["cost"]] if "cost" in tree else []
        return own + [cost for each in below for cost in costs(each)]

    assert variants
    # A node can go in two ways; then it has the cost of the later.
    assert set(costs(with_costs(formula(text), edits).tree)) <= {each.change for each in edits}
    assert costs(with_costs(formula(text), edits).tree)
