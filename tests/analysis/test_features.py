import pytest
from scipy.stats import fisher_exact

from prunerzero.analysis.edits import (
    ablations,
    edited,
    with_operator,
    without_operators,
    without_squares,
    without_terminals,
)
from prunerzero.analysis.enrichment import enrichment
from prunerzero.analysis.features import Feature, abstract, features
from prunerzero.metric import Metric
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe

HALF, TWO_FOUR = Pattern.parse("50%"), Pattern.parse("2:4")


def recipe(metric, **more):
    return Recipe.from_json({"metric": metric, **more})


def test_features_of_what_decides_the_masks():
    # The square at the root changes no mask, so the recipe has none.
    found = features(recipe("(W * mms(G) + A ** 0.25) ** 2"), HALF)
    assert Feature("scaling", "mms(G)") in found
    assert Feature("scaling", "A ** c") in found
    assert Feature("terminal", "G") in found
    assert Feature("operator", "mul") in found
    assert Feature("operator", "sqr") not in found
    assert not any(feature.kind == "setting" for feature in found)
    inside = features(recipe("sqr(W) * F + A"), HALF)
    assert {Feature("operator", "sqr"), Feature("scaling", "sqr(W)")} <= inside


def test_settings_count_where_they_mean_something():
    curves = {"name": "curves", "curves": {"q_proj": [0.1]}}
    one = recipe({"attention": "W", "mlp": "W * A"}, group="matrix", allocation=curves)
    assert {f.name for f in features(one, HALF) if f.kind == "setting"} == {
        "formulas by kind of matrix",
        "group matrix",
        "allocation not uniform",
    }
    plain = one.model_copy(update={"allocation": recipe("W").allocation})
    assert {f.name for f in features(plain, TWO_FOUR) if f.kind == "setting"} == {
        "formulas by kind of matrix"
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("W * A ** -0.028", "W * A ** c"),
        ("W - 0.5", "W - c"),
        ("W ** 2 * 1e-05 + G", "W ** c * c + G"),
    ],
)
def test_constants_are_abstracted(text, shown):
    assert abstract(Metric.parse(text).expression) == shown


def test_enrichment_is_fishers_test():
    a, b, everywhere = (Feature("terminal", name) for name in ("F", "A", "W"))
    candidates = [{everywhere, a}] * 3 + [{everywhere, b}] * 7 + [{everywhere}] * 10
    rows = enrichment(candidates, list(range(20)), share=0.15)
    assert [row.name for row in rows] == ["F", "A"]  # what all have is not tested
    assert (rows[0].best_with, rows[0].best, rows[0].all_with, rows[0].all) == (3, 3, 3, 20)
    assert rows[0].p == pytest.approx(fisher_exact([[3, 0], [0, 17]]).pvalue)
    assert rows[0].p == pytest.approx(1 / 1140)  # one of the 20 choose 3 ways
    assert rows[0].q == pytest.approx(2 / 1140)
    assert rows[0].odds_ratio == pytest.approx(3.5 * 17.5 / 0.25)
    assert enrichment([{a}, {a}, set()], [1, 2, 3]) == []  # two holders are too few
    # What the same candidates have is tested once, so its q is that of one test.
    twin = Feature("subtree", "F ** c")
    (row,) = enrichment([{a, twin}] * 3 + [set()] * 17, list(range(20)), share=0.15)
    assert (row.name, row.also) == ("F ** c", ("F",))
    assert row.q == row.p


def test_ablations_drop_one_thing_each():
    found = ablations(recipe("W * sqrt(A) + G"), HALF)
    edits = {variant.label: variant.recipe.expression for variant in found}
    assert edits == {
        "sqrt(A) -> A": "W * A + G",
        "without the factor sqrt(A)": "W + G",
        "without the factor W": "sqrt(A) + G",
        "without the term G": "W * sqrt(A)",
        "without the term W * sqrt(A)": "G",
    }
    # The square at the root changes nothing, and a row's mean ranks nothing.
    assert [v.recipe.expression for v in ablations(recipe("sqr(W * rowmean(W))"), HALF)] == []


def test_ablations_of_several_formulas_go_together():
    one = recipe({"q_proj": "W * A ** 0.3", "mlp": "W * A ** 0.7 * F ** 0.1", "k_proj": "W"})
    found = {variant.label: variant for variant in ablations(one, HALF)}
    dropped = found["without the factor A ** c"]
    assert dropped.kinds == ("q_proj", "mlp")
    assert list(map(str, dropped.recipe.formulas.values())) == ["W", "W * F ** 0.1", "W"]


@pytest.mark.parametrize(
    ("metric", "without"),
    [
        ("W * F ** 0.5 * A", "W * A"),
        ("W * A + W * mms(G)", "W * A + W"),
        ("A - G * W", "A - W"),
        ("W / G", "W"),
        ("G / W", "1 / W"),
        ("log(F) - W", "-W"),
        ("div(G, W) + W", "W"),
        ("G * F", None),
        ("W * A", None),
    ],
)
def test_gradients_taken_out(metric, without):
    found = edited(recipe(metric), without_terminals("gradient"), HALF)
    if without is None:
        assert found is None
    else:
        assert found.metric == Metric.parse(without)


def test_operators_and_squares_taken_out():
    scaled = edited(recipe("W * mms(G)"), without_operators(("mms",)), HALF)
    assert scaled.expression == "W * G"
    assert edited(recipe("mms(W * A)"), without_operators(("mms",)), HALF) is None  # same masks
    for square in ("sqr(W)", "W ** 2", "W * W", "pow(W)"):
        assert edited(recipe(f"{square} + A"), without_squares, HALF).expression == "W + A"
    assert edited(recipe("sqr(W - A) + W"), without_squares, HALF).expression == "abs(W - A) + W"
    assert edited(recipe("sqr(W * A)"), without_squares, HALF) is None


def test_operators_put_in():
    scaled = edited(recipe("W * G + F"), with_operator("mms", "gradient"), HALF)
    assert scaled.expression == "W * mms(G) + mms(F)"
    assert edited(recipe("W * A"), with_operator("mms", "gradient"), HALF) is None  # nothing there
    assert edited(recipe("W"), with_operator("sqr", "weight"), HALF) is None  # the same masks
