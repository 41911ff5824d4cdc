"""Tests and intervals of the analysis: rank correlations, paired effects, permutation tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from prunerzero.errors import MissingExtraError

Array = np.ndarray[Any, Any]

DRAWS = 2000
LOW, HIGH = 0.025, 0.975
FEWEST = 4  # pairs below which no rank correlation is worth a number


class Estimate(NamedTuple):
    """A number with its 95 % bootstrap interval and the p value of its being zero."""

    value: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


class RankAgreement(NamedTuple):
    """How far two readings of the same things order them alike.

    Attributes:
        kendall: tau-b.
        spearman: rho.
        n: how many things.
    """

    kendall: Estimate
    spearman: Estimate
    n: int


class Effect(NamedTuple):
    """The size of a difference.

    Attributes:
        measure: what ``value`` is: ``log ratio of perplexities``, ``Cliff's delta``, ...
        value: the difference; negative is better for the first of the two.
        low: lower end of its 95 % bootstrap interval.
        high: upper end.
        p: two-sided p value, not corrected.
        n: how many pairs, or things in both groups.
    """

    measure: str
    value: float
    low: float
    high: float
    p: float
    n: int


def require_scipy() -> None:
    """Finds out at once whether scipy is there.

    Raises:
        MissingExtraError: it is not.
    """
    try:
        import scipy.stats  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("analysis", "analysing a study") from error


def rank_agreement(
    first: Sequence[float], second: Sequence[float], *, seed: int = 0, draws: int = DRAWS
) -> RankAgreement | None:
    """Kendall's tau-b and Spearman's rho, with percentile intervals of a bootstrap over the things.

    Args:
        first: one finite reading of each thing.
        second: the other reading of each.
        seed: seed of the resampling.
        draws: number of resamples.

    Returns:
        None for fewer than `FEWEST` things, or where a reading is the same for all.
    """
    from scipy import stats

    x, y = np.asarray(first, float), np.asarray(second, float)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} readings against {len(y)}")
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    picks = np.random.default_rng(seed).integers(len(x), size=(draws, len(x)))
    tau, rho = stats.kendalltau(x, y), stats.spearmanr(x, y)
    return RankAgreement(
        Estimate(float(tau.statistic), *_interval(_resampled_tau(x, y, picks)), float(tau.pvalue)),
        Estimate(float(rho.statistic), *_interval(_resampled_rho(x, y, picks)), float(rho.pvalue)),
        len(x),
    )


def _resampled_tau(x: Array, y: Array, picks: Array) -> Array:
    """Tau-b of each resample ``[draws]``.

    A resample is a vector w of counts, and the sums over its pairs are quadratic forms in w: of
    the signs' product for the numerator, of "not tied" for the denominator (a thing drawn twice is
    tied with itself, as it should be).
    """
    counts = np.stack([np.bincount(pick, minlength=len(x)) for pick in picks]).astype(float)
    signs_x, signs_y = np.sign(x[:, None] - x), np.sign(y[:, None] - y)

    def form(matrix: Array) -> Array:
        return np.einsum("di,ij,dj->d", counts, matrix, counts, optimize=True)

    untied = form(np.abs(signs_x)) * form(np.abs(signs_y))
    return _divided(form(signs_x * signs_y), np.sqrt(untied))


def _resampled_rho(x: Array, y: Array, picks: Array) -> Array:
    """Spearman's rho of each resample ``[draws]``."""
    from scipy.stats import rankdata

    ranks_x, ranks_y = rankdata(x[picks], axis=1), rankdata(y[picks], axis=1)
    ranks_x -= ranks_x.mean(1, keepdims=True)
    ranks_y -= ranks_y.mean(1, keepdims=True)
    scale = np.sqrt((ranks_x**2).sum(1) * (ranks_y**2).sum(1))
    return _divided((ranks_x * ranks_y).sum(1), scale)


def _divided(above: Array, below: Array) -> Array:
    """The quotient, without the resamples in which all things are tied."""
    return above[below > 0] / below[below > 0]


def _interval(resampled: Array) -> tuple[float, float]:
    low, high = np.quantile(resampled, [LOW, HIGH])
    return float(low), float(high)


def paired_effect(
    differences: Sequence[float], measure: str, *, seed: int = 0, draws: int = DRAWS
) -> Effect | None:
    """Hodges-Lehmann's centre of paired differences, its interval, and Wilcoxon's p value.

    The centre is the median of the means of all pairs of differences: what the signed-rank test
    tests, and deaf to one recipe that ruins the model.

    Args:
        differences: one a pair.
        measure: what they are.
        seed: seed of the resampling.
        draws: number of resamples.

    Returns:
        None for no pair, or where no pair differs.
    """
    from scipy.stats import wilcoxon

    values = np.asarray(differences, float)
    if not np.any(values):
        return None
    picks = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    low, high = _interval(_centres(values[picks]))
    p = float(wilcoxon(values).pvalue)
    return Effect(measure, float(_centres(values[None])[0]), low, high, p, len(values))


def _centres(rows: Array) -> Array:
    """Hodges-Lehmann's centre of each row."""
    first, second = np.triu_indices(rows.shape[1])
    centres: Array = np.median((rows[:, first] + rows[:, second]) / 2, axis=1)
    return centres


def group_effect(
    first: Sequence[float], second: Sequence[float], *, seed: int = 0, draws: int = DRAWS
) -> Effect | None:
    """Cliff's delta of two groups, and the Mann-Whitney p value.

    Delta is the probability that one of the first group is above one of the second, minus that it
    is below.

    Args:
        first: readings of one group.
        second: readings of the other.
        seed: seed of the resampling.
        draws: number of resamples.

    Returns:
        None where a group is empty.
    """
    from scipy.stats import mannwhitneyu

    x, y = np.asarray(first, float), np.asarray(second, float)
    if not len(x) or not len(y):
        return None
    random = np.random.default_rng(seed)
    signs = np.sign(x[:, None] - y)
    rows = random.integers(len(x), size=(draws, len(x)))
    columns = random.integers(len(y), size=(draws, len(y)))
    picked_x = np.stack([np.bincount(pick, minlength=len(x)) for pick in rows]) / len(x)
    picked_y = np.stack([np.bincount(pick, minlength=len(y)) for pick in columns]) / len(y)
    low, high = _interval(np.einsum("di,ij,dj->d", picked_x, signs, picked_y, optimize=True))
    p = float(mannwhitneyu(x, y).pvalue)
    return Effect("Cliff's delta", float(signs.mean()), low, high, p, len(x) + len(y))


class Mantel(NamedTuple):
    """Whether two distance matrices of the same things go together.

    Attributes:
        rho: Spearman's rho over all pairs.
        p: one-sided permutation p value: of so large a rho where the things are matched by chance.
        n: how many things.
    """

    rho: float
    p: float
    n: int


def mantel(first: Array, second: Array, *, seed: int = 0, permutations: int = DRAWS) -> Mantel:
    """Mantel's test with Spearman's rho: rows and columns of one matrix are permuted together.

    Args:
        first: symmetric distances ``[n, n]``.
        second: symmetric distances ``[n, n]``.
        seed: seed of the permutations.
        permutations: how many.
    """
    from scipy.stats import rankdata

    n = len(first)
    upper = np.triu_indices(n, 1)
    ranks = np.zeros((n, n))
    ranks[upper] = rankdata(first[upper])
    ranks += ranks.T
    fixed = rankdata(second[upper])
    fixed = fixed - fixed.mean()
    scale = math.sqrt(float(((ranks[upper] - ranks[upper].mean()) ** 2).sum() * (fixed**2).sum()))
    if not scale:
        return Mantel(math.nan, 1.0, n)

    def covariance(order: Array) -> float:
        return float((ranks[np.ix_(order, order)][upper] * fixed).sum())

    random = np.random.default_rng(seed)
    observed = covariance(np.arange(n))
    # A hair of tolerance, so that the same pairs in another order count as equal.
    above = sum(
        covariance(random.permutation(n)) >= observed - 1e-9 * scale for _ in range(permutations)
    )
    return Mantel(observed / scale, (1 + above) / (1 + permutations), n)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """False discovery rates (q values) of several tests, in their order."""
    from scipy.stats import false_discovery_control

    return [float(q) for q in false_discovery_control(p_values)] if len(p_values) else []
