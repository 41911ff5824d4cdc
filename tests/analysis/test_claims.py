import pytest

from prunerzero.analysis.claims import (
    CLAIMS,
    ClaimData,
    ClaimTest,
    Pair,
    RandomComparison,
    Scored,
    combining_helps,
    confidence,
    evolution_beats_random,
    gradients_matter,
    judge_claims,
    min_max_helps,
    squares_help,
    verdict,
)
from prunerzero.analysis.inference import Effect, benjamini_hochberg
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe

HALF = Pattern.parse("50%")


def scored(metric, fitness):
    return Scored(Recipe.from_json({"metric": metric}), fitness)


def data(candidates=(), pairs=(), random=None):
    return ClaimData(HALF, candidates, pairs, random)


def pairs(thing, differences):
    """Pairs whose log perplexity with the thing is above that without by the differences."""
    return [Pair(4.0, {thing: 4.0 - difference}) for difference in differences]


HELPS = [-0.01 * step for step in range(1, 13)]


@pytest.mark.parametrize(
    ("claim", "thing"),
    [(gradients_matter, "gradients"), (min_max_helps, "min-max"), (squares_help, "squares")],
)
def test_pairs_decide(claim, thing):
    (confirmed,) = judge_claims([claim(data(pairs=pairs(thing, HELPS)))])
    assert (confirmed.verdict, confirmed.confidence) == ("confirmed", "high")
    assert confirmed.effect.value == pytest.approx(-0.065)
    assert confirmed.effect.n == 12
    put_in = [Pair(4.0, {}, {thing: 4.0 + difference}) for difference in HELPS]
    assert claim(data(pairs=put_in)).effect == claim(data(pairs=pairs(thing, HELPS))).effect
    (refuted,) = judge_claims([claim(data(pairs=pairs(thing, [-d for d in HELPS])))])
    assert refuted.verdict == "refuted"
    (undecided,) = judge_claims(
        [claim(data(pairs=pairs(thing, [-0.1, 0.1, 0.2, -0.2, 0.3, -0.3])))]
    )
    assert (undecided.verdict, undecided.confidence) == ("not decided", "low")
    (other,) = judge_claims([claim(data(pairs=pairs("something else", HELPS)))])
    assert other.verdict == "not decided"
    assert other.effect is None


def test_candidates_alone_decide_nothing():
    candidates = [scored("W * F", -1 - n / 10) for n in range(8)]
    candidates += [scored("W * A", n / 10) for n in range(8)]
    test = gradients_matter(data(candidates, pairs("gradients", [0.5] * 3)))
    assert test.effect.measure == "Cliff's delta"
    assert test.effect.value == -1
    (principle,) = judge_claims([test])
    assert principle.q < 0.01
    # However clear, the difference may come from what else sets the candidates apart.
    assert (principle.verdict, principle.confidence) == ("not decided", "low")
    assert principle.evidence[0].startswith("3 pairs")
    assert principle.evidence[1].startswith("8 candidates with it, 8 without")


def test_combining_is_held_against_the_better_half():
    alone = [Pair(4.0, {"gradients": 4.0 + step, "weights": 4.5 + step}) for step in range(1, 8)]
    assert combining_helps(data(pairs=alone)).effect.value == pytest.approx(-4)
    one = [Pair(4.0, {"gradients": 5.0})] * 8  # only one half could be measured
    assert combining_helps(data(pairs=one)).effect is None


def test_squares_that_change_no_mask_are_none():
    candidates = [scored("sqr(W)", n) for n in range(4)] + [
        scored("sqr(W) + A", n) for n in range(4)
    ]
    assert squares_help(data(candidates)).evidence[1].startswith("4 candidates with it, 4 without")


def test_evolution_against_chance():
    assert evolution_beats_random(data()).effect is None
    contest = RandomComparison(20, tuple(3.0 - n / 50 for n in range(8)), (3.1,) * 8)
    (principle,) = judge_claims([evolution_beats_random(data(random=contest))])
    assert principle.verdict == "confirmed"
    assert principle.confidence == "low"  # one search of each kind
    assert "20 distinct candidates" in principle.evidence[0]
    reverse = RandomComparison(20, contest.random, contest.evolved)
    (principle,) = judge_claims([evolution_beats_random(data(random=reverse))])
    assert principle.verdict == "refuted"


def test_p_values_are_corrected_for_the_claims_tested():
    mixed = [*pairs("gradients", HELPS[:7]), *pairs("squares", HELPS), *pairs("min-max", [0.1])]
    tests = [claim(data(pairs=mixed)) for claim in CLAIMS]
    principles = judge_claims(tests)
    assert len(principles) == 5
    tested = [p for p in principles if p.q is not None]
    assert [p.q for p in tested] == benjamini_hochberg([p.effect.p for p in tested])
    assert tested[1].q == pytest.approx(2 * tested[1].effect.p)  # the smaller of two


def test_verdict_and_confidence():
    effect = Effect("x", -1.0, -2.0, -0.5, 0.001, 20)
    test = ClaimTest("x helps", effect, decides=True, repeated=True, evidence=())
    assert verdict(test, 0.04) == "confirmed"
    assert verdict(test._replace(effect=effect._replace(value=1.0)), 0.04) == "refuted"
    assert verdict(test, 0.05) == verdict(test._replace(decides=False), 0.01) == "not decided"
    assert verdict(test._replace(effect=None), None) == "not decided"
    assert confidence(test, 0.005) == "high"
    assert confidence(test, 0.03) == "moderate"
    assert confidence(test, 0.3) == "low"
    assert confidence(test._replace(repeated=False), 0.005) == "low"
    assert confidence(test._replace(effect=effect._replace(n=8)), 0.005) == "moderate"
