import math

import numpy as np
import pytest

from prunerzero.evaluation.measurements import Measurement
from prunerzero.evaluation.perplexity import paired_interval
from prunerzero.evaluation.ranking import change, data_effects, rows_of, ties
from prunerzero.evaluation.trials import Trial
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe

HALF = Pattern.parse("50%")
WANDA = Recipe.named("wanda")


def made(losses, method="a", text="t", seed=0, pattern=HALF):
    trial = Trial(method, WANDA, pattern, text, seed)
    return trial, Measurement(tuple(losses), 31 * len(losses), 0.5, 1.0, 2.0, 100 + seed)


def rows(*pairs):
    return rows_of(*zip(*pairs, strict=True))


def test_seeds_are_joined_and_spread():
    [row] = rows(made([1.0, 2.0]), made([2.0, 3.0], seed=1))
    assert row.perplexity == pytest.approx(math.exp(2.0))
    assert row.perplexities == pytest.approx([math.exp(1.5), math.exp(2.5)])
    expected = (math.exp(2.5) - math.exp(1.5)) / math.sqrt(2)
    assert row.spread == pytest.approx(expected)
    assert (row.seconds, row.statistics_seconds, row.peak_bytes) == (1.0, 2.0, 101)
    [single] = rows(made([1.0, 2.0]))
    assert single.spread is None


def test_one_seed_gives_the_paired_interval():
    random = np.random.default_rng(0)
    mine, theirs = random.normal(3, 1, (2, 20))
    first, second = rows(made(mine), made(theirs, "b"))
    assert change(first, second) == paired_interval(tuple(mine), tuple(theirs))


def test_seeds_widen_the_interval():
    """Windows that agree say nothing of what the calibration draw does."""
    pairs = [made([3.0 + shift] * 8, "b", seed=seed) for seed, shift in enumerate((-0.2, 0.2, 0.3))]
    pairs += [made([3.0] * 8, seed=seed) for seed in range(3)]
    second, first = rows(*pairs)
    interval = change(second, first)
    assert interval.change == pytest.approx(math.expm1(0.1))
    assert interval.low == pytest.approx(math.expm1(-0.2))
    assert interval.high == pytest.approx(math.expm1(0.3))
    assert not interval.significant


def test_ties_are_with_the_best_of_the_same_pattern_and_text():
    noise = np.random.default_rng(1).normal(0, 0.01, 16)
    base = np.linspace(2, 4, 16)
    found = rows(
        made(base + 0.5, "worse"),
        made(base, "best"),
        made(base + noise - noise.mean() + 1e-4, "like it"),
        made(base + 9, "alone", pattern=Pattern.parse("2:4")),
    )
    assert ties(found) == [False, True, True, True]


def test_a_method_without_measurement_is_never_best():
    trial, _ = made([1.0], "bad")
    bad = trial, Measurement((), 0, 0.0, 0.0, 0.0, 0, "scores are not finite")
    found = rows(bad, made([1.0], "good"))
    assert ties(found) == [False, True]
    assert math.isnan(found[0].perplexity)
    assert found[0].error == "scores are not finite"


def table(method, text, interaction=0.0, noise=0.0):
    """Losses of two methods, two texts and two seeds from known effects."""
    return rows(
        *(
            made([3 + m * method + t * text + m * t * interaction + s * noise] * 2,
                 f"m{m}", f"t{t}", s)
            for m in (-1, 1) for t in (-1, 1) for s in (-1, 1)
        )
    )  # fmt: skip


def test_effects_are_told_apart():
    [effect] = data_effects(table(method=0.04, text=0.02, interaction=0.02, noise=0.01))
    shares = np.array([0.04, 0.02, 0.02, 0.01]) ** 2
    found = (effect.method, effect.text, effect.interaction, effect.seed)
    assert found == pytest.approx(tuple(shares / shares.sum()))
    assert effect.agreement == 1.0
    assert effect.gap == pytest.approx(0.08)
    assert (effect.methods, effect.texts) == (["m-1", "m1"], ["t-1", "t1"])


def test_methods_that_change_places():
    [effect] = data_effects(table(method=0.0, text=0.0, interaction=0.05))
    assert effect.interaction == pytest.approx(1.0)
    assert effect.agreement == -1.0


def test_methods_far_behind_are_judged_apart():
    pairs = [
        made([3 + far + 0.01 * t * near], name, f"t{t}")
        for name, far, near in (("a", 0, 1), ("b", 0.1, -1), ("far", 2, 0))
        for t in (0, 1)
    ]
    everything, near = data_effects(rows(*pairs))
    assert everything.methods == ["a", "b", "far"]
    assert near.methods == ["a", "b"]
    assert everything.method > near.method


def test_one_text_or_method_has_no_effect():
    assert data_effects(rows(made([1.0]), made([2.0], "b"))) == []
    assert data_effects(rows(made([1.0]), made([2.0], text="u"))) == []
