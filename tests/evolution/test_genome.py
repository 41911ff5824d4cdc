import json
from random import Random

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from prunerzero.evolution.genome import FACTORS, NEGLIGIBLE, Genome, times_powers
from prunerzero.evolution.grammar import DEFAULT
from prunerzero.metric import Metric
from prunerzero.pruning.allocation import CurvesAllocation
from prunerzero.recipe import Recipe

FAMILIES = {"q_proj": "attention", "k_proj": "attention", "up_proj": "mlp"}
CURVES = CurvesAllocation(curves={"q_proj": (0.1, -0.1)})
WANDA = Metric.parse("W * A")
TWO = {"attention": Metric.parse("W * A"), "mlp": Metric.parse("W * F")}


def same_powers(**powers):
    return dict.fromkeys(FAMILIES, powers)


def corrected(text, **powers):
    return str(times_powers(Metric.parse(text), powers))


@pytest.mark.parametrize(
    ("text", "powers", "expected"),
    [
        ("W * A", {"A": 0.2}, "W * A ** 1.2"),
        ("W * A", {"F": 0.25}, "W * A * F ** 0.25"),
        ("A * W", {"F": -0.1, "A": -0.5}, "A ** 0.5 * W * F ** -0.1"),
        ("W * sqrt(A)", {"A": 0.5}, "W * A"),
        ("W * A ** 0.3 * A", {"A": 0.1}, "W * A ** 1.4"),
        ("W * F ** 0.25", {"F": -0.25}, "W"),
        ("W * colmean(W) ** 0.5", {"colmean(W)": 0.25}, "W * colmean(W) ** 0.75"),
        ("W", {"A": 0.12345678}, "W * A ** 0.123"),
        ("W * A", {"A": NEGLIGIBLE / 2, "F": -NEGLIGIBLE / 2}, "W * A ** 1.002"),
        ("W * A", {"F": 1.2 * NEGLIGIBLE}, "W * A * F ** 0.006"),
        ("W * A", {}, "W * A"),
        ("W + F", {"A": 0.5}, "(W + F) * A ** 0.5"),
        ("W * (rown(F) + coln(F)) ** 0.5", {"A": 1.0}, "W * (rown(F) + coln(F)) ** 0.5 * A"),
        # Powers and roots take magnitudes, which signed operands are not to lose.
        ("W * zsn(A)", {"A": 0.5}, "zsn(A) * W * A ** 0.5"),
        ("zsn(A) * zsn(A) * W", {"A": 0.5}, "zsn(A) * zsn(A) * W * A ** 0.5"),
        ("W * sqrt(W - A)", {"A": 0.5}, "W * sqrt(W - A) * A ** 0.5"),
        ("W - A", {"A": 0.5}, "(W - A) * A ** 0.5"),
        ("-1 * W", {"A": 0.5}, "-1 * W * A ** 0.5"),
    ],
)
def test_powers_are_merged_with_those_of_the_formula(text, powers, expected):
    assert corrected(text, **powers) == str(Metric.parse(expected))


@pytest.mark.parametrize("text", ["A", "A * rowmean(W)", "2 * A"])
def test_a_correction_never_takes_away_what_ranks(text):
    assert corrected(text, A=-1.0) == str(Metric.parse(text))
    assert corrected(text, A=-0.9) == corrected(text, A=-0.5).replace("0.5", "0.1")


def tensors(seed, rows=6, columns=8):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W": rows, "F": rows, "A": 1}
    return {
        name: 0.2 + 1.8 * torch.rand(count, columns, generator=generator)
        for name, count in shapes.items()
    }


POWERS = st.fixed_dictionaries({name: st.floats(-3, 3) for name in FACTORS})


@given(st.integers(0, 2**32), POWERS)
def test_scores_are_multiplied_by_the_factors(seed, powers):
    metric = DEFAULT.tree(Random(seed)).simplify()
    inputs = tensors(seed % 1000)
    expected = metric.score(**inputs).double()
    for name, exponent in powers.items():
        expected = expected * FACTORS[name].score(**inputs).double() ** exponent
    changed = times_powers(metric, powers)
    assume(changed != metric)  # else all that ranks was cancelled, see above
    scores = changed.score(**inputs).double()
    scale = expected.abs().nan_to_num(0.0, 0.0, 0.0).max().item()
    assume(scale < 1e30)
    # Exponents are rounded, and those near zero left out.
    assert torch.allclose(scores, expected, rtol=0.03, atol=1e-6 * scale, equal_nan=True)


@given(st.integers(0, 2**32), POWERS)
def test_a_corrected_formula_ranks_and_reads_back(seed, powers):
    changed = times_powers(DEFAULT.tree(Random(seed)).simplify(), powers)
    changed.check_rankable()
    assert Metric.parse(str(changed)) == changed


def test_without_powers_the_recipe_is_what_the_genome_was_made_of():
    for metric in (WANDA, TWO):
        recipe = Recipe(metric=metric, group="matrix", allocation=CURVES)
        assert Genome.of(recipe, FAMILIES).recipe() == recipe


def test_one_formula_where_all_kinds_agree():
    genome = Genome(WANDA, same_powers(A=0.2), CURVES, "row", FAMILIES)
    assert genome.recipe() == Recipe(metric=Metric.parse("W * A ** 1.2"), allocation=CURVES)
    negligible = Genome(WANDA, {"q_proj": {"F": NEGLIGIBLE / 2}}, families=FAMILIES)
    assert negligible.recipe().metric == WANDA
    # Different families, but the powers make them the same.
    powers = {"q_proj": {"F": 0.5}, "k_proj": {"F": 0.5}, "up_proj": {"A": 1.0, "F": -0.5}}
    met = Genome(TWO, powers, families=FAMILIES).recipe()
    assert isinstance(met.metric, dict)  # but for the operands' order, which is not looked at
    assert met.metric["up_proj"] == Metric.parse("W * F ** 0.5 * A")


def test_a_formula_for_each_kind_where_they_differ():
    powers = {"q_proj": {"A": 0.2}, "up_proj": {"F": 0.25}}
    found = Genome(TWO, powers, families=FAMILIES).recipe()
    assert found.metric == {
        "q_proj": Metric.parse("W * A ** 1.2"),
        "k_proj": Metric.parse("W * A"),
        "up_proj": Metric.parse("W * F ** 1.25"),
    }
    for kind, family in FAMILIES.items():
        assert found.metric_for(kind, family) == found.metric[kind]


def test_the_formula_of_the_kind_comes_before_that_of_the_family():
    metric = TWO | {"k_proj": Metric.parse("W")}
    genome = Genome(metric, families=FAMILIES)
    assert [str(genome.formula_for(kind)) for kind in FAMILIES] == ["W * A", "W", "W * F"]
    assert Genome(WANDA, families=FAMILIES).formula_for("k_proj") == WANDA


def test_another_formula_for_all():
    genome = Genome(TWO, same_powers(A=0.2), CURVES, "matrix", FAMILIES)
    changed = genome.with_formula(Metric.parse("W"))
    assert changed.recipe() == Recipe(
        metric=Metric.parse("W * A ** 0.2"), group="matrix", allocation=CURVES
    )
    assert genome.metric == TWO


@pytest.mark.parametrize("base", [WANDA, TWO])
def test_another_formula_for_one_family(base):
    genome = Genome(base, same_powers(A=0.2), CURVES, "row", FAMILIES)
    changed = genome.with_formula(Metric.parse("W"), "attention")
    for kind, family in FAMILIES.items():
        expected = Metric.parse("W") if family == "attention" else genome.formula_for(kind)
        assert changed.formula_for(kind) == expected
    assert (changed.powers, changed.allocation) == (genome.powers, CURVES)


def test_formulas_of_single_kinds_stay_with_the_other_family():
    metric = TWO | {"k_proj": Metric.parse("W"), "up_proj": Metric.parse("W ** 2 * F")}
    changed = Genome(metric, families=FAMILIES).with_formula(Metric.parse("F"), "mlp")
    assert [str(changed.formula_for(kind)) for kind in FAMILIES] == ["W * A", "W", "F"]


def test_a_model_may_have_one_family_only():
    genome = Genome(WANDA, families={"in_proj": "mlp"}).with_formula(Metric.parse("F"), "mlp")
    assert genome.formula_for("in_proj") == Metric.parse("F")
    assert genome.recipe().metric_for("in_proj", "mlp") == Metric.parse("F")


@given(st.integers(0, 2**32), st.lists(POWERS, min_size=3, max_size=3), st.booleans())
def test_recipes_go_to_json_and_back(seed, powers, two):
    random = Random(seed)
    metric = DEFAULT.tree(random).simplify()
    if two:
        metric = {"attention": metric, "mlp": DEFAULT.tree(random).simplify()}
    by_kind = dict(zip(FAMILIES, powers, strict=True))
    recipe = Genome(metric, by_kind, CURVES, "matrix", FAMILIES).recipe()
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_wanda_is_read_as_a_product_with_the_factor_a():
    tuned = times_powers(Metric.named("wanda"), {"A": 0.25})
    assert tuned == Metric.parse("W * A ** 1.25")
