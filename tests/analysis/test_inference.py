import itertools
import math

import numpy as np
import pytest
from scipy import stats

from prunerzero.analysis.inference import (
    benjamini_hochberg,
    group_effect,
    mantel,
    paired_effect,
    rank_agreement,
)


def test_rank_agreement_by_hand():
    # 4 things, 6 pairs, one of them discordant: tau = (5 - 1) / 6; sum of d^2 = 2: rho = 0.8.
    found = rank_agreement([1, 2, 3, 4], [10, 30, 20, 40])
    assert found.kendall.value == pytest.approx(4 / 6)
    assert found.spearman.value == pytest.approx(0.8)
    assert found.n == 4
    assert found.kendall.low <= found.kendall.value <= found.kendall.high == pytest.approx(1)


def test_ties_and_resamples_are_scipys():
    from prunerzero.analysis import inference

    random = np.random.default_rng(3)
    x, y = random.integers(5, size=15).astype(float), random.integers(5, size=15).astype(float)
    found = rank_agreement(x.tolist(), y.tolist(), seed=1)
    assert found.kendall.value == pytest.approx(stats.kendalltau(x, y).statistic)
    assert found.kendall.p == pytest.approx(stats.kendalltau(x, y).pvalue)
    picks = random.integers(15, size=(20, 15))
    taus = inference._resampled_tau(x, y, picks)
    rhos = inference._resampled_rho(x, y, picks)
    for pick, tau, rho in zip(picks, taus, rhos, strict=True):
        assert tau == pytest.approx(stats.kendalltau(x[pick], y[pick]).statistic)
        assert rho == pytest.approx(stats.spearmanr(x[pick], y[pick]).statistic)


def test_the_interval_narrows_with_more_things_and_repeats():
    random = np.random.default_rng(0)

    def width(count):
        x = random.normal(size=count)
        y = x + random.normal(size=count)
        kendall = rank_agreement(x, y).kendall
        assert rank_agreement(x, y).kendall == kendall
        return kendall.high - kendall.low

    assert width(200) < width(12)


@pytest.mark.parametrize(
    ("first", "second"), [([1, 2, 3], [1, 2, 3]), ([1, 1, 1, 1], [1, 2, 3, 4])]
)
def test_no_agreement_of_too_few_or_of_constants(first, second):
    assert rank_agreement(first, second) is None


def test_paired_effect():
    differences = [-0.1, -0.2, -0.3, -0.4, -0.5, 0.6]
    effect = paired_effect(differences, "difference")
    # The 21 means of two, in order: the eleventh is the centre. The 0.6 alone moves the mean.
    means = sorted((a + b) / 2 for a, b in itertools.combinations_with_replacement(differences, 2))
    assert effect.value == pytest.approx(means[10])
    assert effect.low < effect.value < effect.high
    # Ranks 1 to 5 negative, 6 positive: W = min(15, 6). Exact p: 2 P(W+ <= 6) over 2^6 signs.
    below = sum(
        sum(rank for rank, up in enumerate(signs, 1) if up) <= 6
        for signs in itertools.product((0, 1), repeat=6)
    )
    assert effect.p == pytest.approx(2 * below / 64)
    assert paired_effect([0.0, 0.0], "difference") is None
    assert paired_effect([], "difference") is None


def test_group_effect():
    effect = group_effect([1, 2, 3], [2, 4, 5])
    # Of nine comparisons 7 are below, one equal, one above.
    assert effect.value == pytest.approx((1 - 7) / 9)
    assert effect.p == pytest.approx(stats.mannwhitneyu([1, 2, 3], [2, 4, 5]).pvalue)
    assert effect.low <= effect.value <= effect.high
    assert group_effect([], [1, 2]) is None
    assert group_effect([1] * 8, [2] * 8).value == -1


def test_benjamini_hochberg_by_hand():
    # p m / rank: 0.04, 0.04, 0.0533, 0.5 after taking minima from the right.
    assert benjamini_hochberg([0.01, 0.02, 0.04, 0.5]) == pytest.approx([0.04, 0.04, 0.16 / 3, 0.5])
    assert benjamini_hochberg([]) == []


def test_mantel_finds_a_common_arrangement_only():
    random = np.random.default_rng(0)
    places = random.normal(size=(12, 2))
    distance = np.linalg.norm(places[:, None] - places, axis=-1)
    same = mantel(distance, distance**2)
    assert same.rho == pytest.approx(1)
    assert same.p < 0.01
    other = random.normal(size=(12, 2))
    assert mantel(distance, np.linalg.norm(other[:, None] - other, axis=-1)).p > 0.05
    upper = np.triu_indices(12, 1)
    noisy = distance + np.abs(random.normal(size=(12, 12)))
    noisy = noisy + noisy.T
    expected = stats.spearmanr(distance[upper], noisy[upper]).statistic
    assert mantel(distance, noisy).rho == pytest.approx(expected)
    assert math.isnan(mantel(np.ones((4, 4)), distance[:4, :4]).rho)
