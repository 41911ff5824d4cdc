"""The ladder's rules, on readings that are made up."""

import math
from itertools import combinations

import numpy as np
import pytest

from prunerzero.evolution.rungs import (
    AUDIT_EVERY,
    CONFIDENCE,
    MOST_SLACK,
    REVIEW_AUDITS,
    REVIEW_READINGS,
    SLACK_STEP,
    RungPlan,
    Trust,
    beats_incumbent,
    decisive,
    is_drawn,
    is_lost,
    is_promoted,
    is_won,
    log_ratio,
    parts,
    rung_tau,
    weighted_tau,
)
from prunerzero.study import Measurement


def reading(rung, ratio, error=0.01, windows=16, **notes):
    data = {"kl": [0.5] * windows, "log_ratio": ratio, "standard_error": error, **notes}
    return Measurement(purpose="fitness", windows="w", tokens=1, loss=1.0, rung=rung, data=data)


def test_standard_error_agrees_with_a_bootstrap():
    random = np.random.default_rng(0)
    for count in (16, 64, 400):
        incumbent = random.gamma(4.0, 0.1, count)
        candidate = incumbent * random.lognormal(-0.1, 0.2, count)
        ratio, error = log_ratio(candidate.tolist(), incumbent.tolist())
        assert ratio == pytest.approx(math.log(candidate.mean() / incumbent.mean()))
        picks = random.integers(count, size=(4000, count))
        resampled = np.log(candidate[picks].mean(1) / incumbent[picks].mean(1))
        assert error == pytest.approx(resampled.std(), rel=0.1)


def test_what_is_common_to_both_is_no_noise():
    incumbent = [0.1, 3.0, 0.5, 7.0]
    assert log_ratio(incumbent, incumbent) == (0.0, 0.0)
    ratio, error = log_ratio([0.9 * value for value in incumbent], incumbent)
    assert ratio == pytest.approx(math.log(0.9))
    assert error == pytest.approx(0.0, abs=1e-12)


def test_ratios_are_antisymmetric():
    first, second = [0.1, 0.4, 0.2], [0.2, 0.3, 0.3]
    ratio, error = log_ratio(first, second)
    assert log_ratio(second, first) == pytest.approx((-ratio, error))


def test_one_window_says_nothing_of_noise():
    assert log_ratio([1.0], [2.0]) == (math.log(0.5), math.inf)


@pytest.mark.parametrize(("confirm", "top", "page"), [(0, 1, 64), (256, 2, 320)])
def test_the_plan(confirm, top, page):
    plan = RungPlan(screening=16, challenge=64, confirm=confirm)
    assert (plan.top, plan.page) == (top, page)


def test_a_reading_may_end_after_a_glance_a_screening_and_half_a_challenge():
    plan = RungPlan()
    assert parts(plan.screening, plan) == [2, 4]
    assert parts(plan.challenge, plan) == [2, 4, 8, 16]
    assert parts(1, plan) == [1]


@pytest.mark.parametrize(
    ("ratio", "error", "slack", "glance", "share", "lost"),
    [
        (0.05, 0.04, 0.0, True, 0.0, True),
        (0.05, 0.06, 0.0, True, 0.0, False),
        (0.05, 0.04, 0.5, True, 0.0, False),
        (0.01, 0.001, 0.0, True, 0.125, False),  # two windows may agree by chance
        (-0.1, 0.001, 0.0, True, 0.125, False),
        (0.001, 0.1, 1.0, False, 0.0, True),
        (-0.001, 0.1, 0.0, False, 0.0, False),
        (-0.08, 0.1, 0.0, False, 0.25, True),  # four times the windows would halve the error
        (-0.09, 0.1, 0.0, False, 0.25, False),
    ],
)
def test_a_candidate_has_lost_when_it_is_worse_by_more_than_noise_or_will_not_win(
    ratio, error, slack, glance, share, lost
):
    assert is_lost(ratio, error, slack, glance=glance, share=share) is lost


def test_a_challenge_is_won_early_only_beyond_doubt():
    assert is_won(-0.36, 0.1, 0.5)
    assert not is_won(-0.34, 0.1, 0.5)
    assert not is_won(-0.36, 0.1, 0.25)


@pytest.mark.parametrize("ratio", [-0.2, -0.1, -0.05, 0.0])
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_what_ends_early_is_judged_by_the_same_rule(ratio, share):
    measured = [reading(0, -0.1), reading(1, ratio, error=0.05)]
    lost = is_lost(ratio, 0.05, 0.0, glance=False, share=share)
    won = is_won(ratio, 0.05, share)
    assert not (lost and beats_incumbent(measured))
    assert not won or beats_incumbent(measured)


def test_one_candidate_in_twenty_is_drawn():
    drawn = [number for number in range(20_000) if is_drawn(number)]
    assert len(drawn) == pytest.approx(20_000 / AUDIT_EVERY, rel=0.1)
    gaps = np.diff(drawn)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)  # as chance has it, not regular
    assert drawn[:4] == [12, 24, 49, 62]  # a study is replayed by these numbers


@pytest.mark.parametrize(
    ("ratio", "slack", "error", "promoted"),
    [
        (-0.005, 0.0, 0.1, True),
        (-0.0049, 0.0, 0.1, False),
        (0.095, 1.0, 0.1, True),
        (0.1, 1.0, 0.1, False),
        (0.1, 0.5, 0.1, False),
        (0.1, 0.0, math.inf, False),
        (0.1, 0.5, math.inf, True),
    ],
)
def test_promotion(ratio, slack, error, promoted):
    assert is_promoted(reading(0, ratio, error, slack=slack).data) is promoted


def test_rung_0_counts_only_where_nothing_else_was_measured():
    assert decisive([reading(0, 0.3, 0.1)]) == (0.3, 0.1)
    assert decisive([reading(0, 0.3, 0.1), reading(1, -0.2, 0.05)]) == (-0.2, 0.05)


def test_pooling_is_as_if_measured_together():
    random = np.random.default_rng(0)
    incumbent = random.gamma(4.0, 0.1, 320)
    candidate = incumbent * random.lognormal(-0.05, 0.2, 320)
    whole = log_ratio(candidate.tolist(), incumbent.tolist())
    parts = [
        reading(rung, *log_ratio(candidate[part].tolist(), incumbent[part].tolist()), count)
        for rung, part, count in ((1, slice(64), 64), (2, slice(64, None), 256))
    ]
    ratio, error = decisive([reading(0, 9.0), *parts])
    assert ratio == pytest.approx(whole[0], abs=0.1 * whole[1])
    assert error == pytest.approx(whole[1], rel=0.05)


def test_winning_takes_more_than_rung_0():
    assert not beats_incumbent([reading(0, -5.0, 0.0)])
    assert beats_incumbent([reading(0, 1.0), reading(1, -1.01 * CONFIDENCE * 0.01)])
    assert not beats_incumbent([reading(0, 1.0), reading(1, -0.99 * CONFIDENCE * 0.01)])


# Kendall's tau


def test_tau_of_a_few():
    assert weighted_tau([], [], []) is None
    assert weighted_tau([1], [1], [1]) is None
    assert weighted_tau([1, 2, 3], [1, 2, 3], [1, 5, 9]) == 1.0
    assert weighted_tau([1, 2, 3], [3, 2, 1], [1, 5, 9]) == -1.0
    assert weighted_tau([1, 2, 3, 4], [1, 3, 2, 4], [1, 1, 1, 1]) == pytest.approx(4 / 6)
    assert weighted_tau([1, 1, 2], [1, 2, 3], [1, 1, 1]) == pytest.approx(2 / 3)  # a tie


def test_a_weight_counts_as_so_many_candidates():
    first, second, weights = [1, 2, 3, 4], [2, 1, 4, 3], [1, 3, 1, 2]
    copies = [n for n, weight in enumerate(weights) for _ in range(weight)]
    pairs = [(a, b) for a, b in combinations(copies, 2) if a != b]
    signs = [np.sign((first[a] - first[b]) * (second[a] - second[b])) for a, b in pairs]
    assert weighted_tau(first, second, weights) == pytest.approx(np.mean(signs))


def test_audits_take_the_selections_bias_away():
    random = np.random.default_rng(1)
    truth = random.normal(0.03, 0.03, 1500)
    first, second = (truth + random.normal(0, 0.02, (2, 1500))).tolist()
    everyone = weighted_tau(first, second, [1] * 1500)
    drawn = [is_drawn(number) for number in range(1500)]
    pairs = [
        (reading(0, a), reading(1, b, **({} if a <= 0 else {"audit": True})))
        for a, b, audit in zip(first, second, drawn, strict=True)
        if a <= 0 or audit
    ]
    assert rung_tau(pairs) == pytest.approx(everyone, abs=0.1)
    promoted = [(a, b) for a, b in zip(first, second, strict=True) if a <= 0]
    assert weighted_tau(*zip(*promoted, strict=True), [1] * len(promoted)) < everyone - 0.1


# Trust


def teach(trust, agree, count, audits=REVIEW_AUDITS):
    """Shows candidates that the two rungs order alike, or inversely; none of them wins."""
    for number in range(count):
        ratio = 0.1 + 0.01 * number
        notes = {"audit": True} if number < audits else {}
        trust.learn([reading(0, ratio), reading(1, ratio if agree else 1 - ratio, **notes)])


def test_slack_grows_while_rungs_disagree_and_shrinks_when_they_agree_again():
    trust = Trust()
    seen = []
    for agree in (True, False, False, False, False, False, True, True, True, True, True):
        teach(trust, agree, REVIEW_READINGS - 1)
        seen.append(trust.slack)
        teach(trust, agree, 1, audits=0)
    assert [slack / SLACK_STEP for slack in seen] == [0, 0, 1, 2, 3, 4, 4, 3, 2, 1, 0]
    assert trust.slack == 0.0
    assert MOST_SLACK == 4 * SLACK_STEP


def test_without_audits_nothing_is_concluded():
    trust = Trust()
    teach(trust, False, 5 * REVIEW_READINGS, audits=REVIEW_AUDITS - 1)
    assert trust.slack == 0.0
    teach(trust, False, 1, audits=1)
    assert trust.slack == SLACK_STEP


def test_a_winner_thrown_away_is_enough():
    trust = Trust()
    trust.learn([reading(0, 0.3), reading(1, -1.0, audit=True)])
    assert trust.slack == SLACK_STEP
    trust.learn([reading(0, -0.3), reading(1, -1.0)])  # an ordinary winner
    trust.learn([reading(0, 0.3)])
    assert trust.slack == SLACK_STEP
