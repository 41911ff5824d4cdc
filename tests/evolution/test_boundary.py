import math

import pytest
import torch

from prunerzero.evolution.boundary import nm_slopes, unstructured_slopes
from prunerzero.pruning.masks import keep_highest, keep_n_of_m

ROWS, COLUMNS = 256, 1024
STEP = 0.05


def matrix(*, column=False, sign=1.0, seed=0):
    """Scores, a factor's logarithm, and benefits that go with both."""
    generator = torch.Generator().manual_seed(seed)

    def random(rows, draw=torch.rand):
        return draw(rows, COLUMNS, generator=generator)

    logs = (0.3 + 2 * random(1 if column else ROWS)).log()
    size = 0.05 + random(ROWS)
    benefit = 0.3 * random(ROWS, torch.randn) - logs - 0.5 * size
    scores = sign * size * (0.3 * random(ROWS, torch.randn)).exp()
    return scores, benefit, logs


def divergence(benefit, kept):
    return float(benefit.double()[kept].sum())


def measured_slope(scores, benefit, logs, keep):
    """The change of the divergence for a unit of the exponent, by a step either way."""
    up, down = (keep(scores * (step * logs).exp()) for step in (STEP, -STEP))
    return (divergence(benefit, up) - divergence(benefit, down)) / (2 * STEP)


FACTORS = {
    "full": matrix(),
    "column": matrix(column=True),
    "negative": matrix(sign=-1.0),
}


# At both ends there is less than half a band to one side.
@pytest.mark.parametrize("pruned", [10, 50, 200, 512, 800, 980, 1014])
@pytest.mark.parametrize("case", FACTORS)
def test_the_slope_is_that_of_the_divergence(case, pruned):
    scores, benefit, logs = FACTORS[case]
    _, (slope,) = unstructured_slopes(scores, benefit, pruned, [logs])
    expected = measured_slope(scores, benefit, logs, lambda s: keep_highest(s, pruned))
    assert slope == pytest.approx(expected, rel=0.1 if 40 < pruned < 990 else 0.2)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4), (3, 4)])
@pytest.mark.parametrize("case", FACTORS)
def test_the_slope_is_that_of_the_divergence_where_pairs_change_places(case, n, m):
    scores, benefit, logs = FACTORS[case]
    (slope,) = nm_slopes(scores, benefit, n, m, [logs])
    expected = measured_slope(scores, benefit, logs, lambda s: keep_n_of_m(s, n, m))
    assert slope == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("pruned", [10, 50, 512, 980])
@pytest.mark.parametrize("case", FACTORS)
def test_the_cost_is_that_of_one_more_weight(case, pruned):
    scores, benefit, _ = FACTORS[case]
    cost, slopes = unstructured_slopes(scores, benefit, pruned, [])
    more, fewer = (divergence(benefit, keep_highest(scores, pruned + n)) for n in (5, -5))
    assert slopes == []
    assert cost == pytest.approx((more - fewer) / (10 * ROWS), rel=0.1)


def test_a_factor_that_moves_all_alike_changes_nothing():
    scores, benefit, logs = matrix()
    _, (constant, of_scores, real) = unstructured_slopes(
        scores, benefit, 512, [torch.full((1, COLUMNS), 3.0), scores.log(), logs]
    )
    assert abs(constant) < 1e-4 * abs(real)
    # A power of the scores themselves keeps their order, so its slope is what the band blurs.
    assert abs(of_scores) < 0.02 * abs(real)
    constant, of_scores, real = nm_slopes(
        scores, benefit, 2, 4, [torch.full((1, COLUMNS), 3.0), scores.log(), logs]
    )
    assert constant == 0.0
    assert abs(of_scores) < 0.05 * abs(real)


def test_many_factors_have_the_slopes_of_each():
    scores, benefit, logs = matrix()
    factors = [logs, logs.mean(0, keepdim=True), -2 * logs]
    _, together = unstructured_slopes(scores, benefit, 512, factors)
    alone = [unstructured_slopes(scores, benefit, 512, [one])[1][0] for one in factors]
    assert together == alone
    assert together[2] == pytest.approx(-2 * together[0])
    together = nm_slopes(scores, benefit, 2, 4, factors)
    assert together == [nm_slopes(scores, benefit, 2, 4, [one])[0] for one in factors]


def test_the_scale_of_scores_does_not_matter():
    scores, benefit, logs = matrix()
    cost, slopes = unstructured_slopes(scores, benefit, 512, [logs])
    scaled = unstructured_slopes(scores * 2.0**-60, benefit, 512, [logs])
    assert scaled == (cost, pytest.approx(slopes, rel=1e-5))
    pairs = nm_slopes(scores, benefit, 2, 4, [logs])
    assert nm_slopes(scores * 2.0**-60, benefit, 2, 4, [logs]) == pytest.approx(pairs, rel=1e-5)


def degenerate(case):
    scores, _, _ = matrix()
    scores = scores.clone()
    if case == "constant rows":
        scores[::2] = 0.5
    elif case == "zero rows":
        scores[::2] = 0.0
    elif case == "ties":
        scores = (4 * scores).round()
    elif case == "both signs":
        scores = scores - scores.mean()
    elif case == "all equal":
        scores[:] = 0.5
    else:
        scores[:] = 0.0
    return scores


CASES = ["constant rows", "zero rows", "ties", "both signs", "all equal", "all zero"]


@pytest.mark.parametrize("pruned", [0, 1, 512, COLUMNS - 1])
@pytest.mark.parametrize("case", CASES)
def test_scores_that_are_hard_to_rank_give_finite_numbers(case, pruned):
    scores, (_, benefit, logs) = degenerate(case), matrix()
    cost, (slope,) = unstructured_slopes(scores, benefit, pruned, [logs])
    assert math.isfinite(cost)
    assert math.isfinite(slope)
    if case.startswith("all"):
        assert cost == slope == 0.0


@pytest.mark.parametrize("case", CASES)
def test_groups_that_are_hard_to_rank_give_finite_numbers(case):
    scores, (_, benefit, logs) = degenerate(case), matrix()
    (slope,) = nm_slopes(scores, benefit, 2, 4, [logs])
    assert math.isfinite(slope)
    if case.startswith("all"):
        assert slope == 0.0


def test_rows_that_cannot_be_ranked_do_not_change_the_slope_of_the_others():
    scores, benefit, logs = matrix()
    scores = scores.clone()
    scores[ROWS // 2 :] = 0.5
    top = slice(0, ROWS // 2)
    found = unstructured_slopes(scores, benefit, 512, [logs])
    cost, slopes = unstructured_slopes(scores[top], benefit[top], 512, [logs[top]])
    assert found == (pytest.approx(cost), pytest.approx(slopes))


def test_the_smallest_matrices_have_slopes():
    scores, benefit = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[0.0, -1.0, -1.0, -5.0]])
    logs = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    cost, (slope,) = unstructured_slopes(scores, benefit, 2, [logs])
    assert cost == 1.0  # of the second and third
    assert slope == 0.0  # which are worth the same
    assert unstructured_slopes(scores[:, :1], benefit[:, :1], 0, [logs[:, :1]]) == (0.0, [0.0])


def test_gaps_of_a_large_matrix_are_sampled(monkeypatch):
    scores, benefit, logs = matrix()
    whole = nm_slopes(scores, benefit, 2, 4, [logs])
    monkeypatch.setattr("prunerzero.evolution.boundary.SAMPLED_GAPS", 1 << 12)
    sampled = nm_slopes(scores, benefit, 2, 4, [logs])
    assert sampled == pytest.approx(whole, rel=0.05)
    assert sampled != whole
