import torch
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.pruning.pattern import Pattern
from prunerzero.updates import dsnot

HALF = Pattern.parse("50%")


def make_case(rows=20, columns=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    mean = torch.randn(1, columns, generator=generator)
    variance = torch.rand(1, columns, generator=generator) + 0.1
    return weight, mean, variance


def error(weight, mask, mean):
    return (weight * mean * ~mask).sum(1).abs()


@given(
    st.integers(1, 8),
    st.integers(1, 12),
    st.sampled_from(["50%", "20%", "2:4", "1:4"]),
    st.integers(0, 99),
)
def test_swaps_keep_the_pattern_and_lower_every_rows_expected_error(rows, groups, pattern, seed):
    pattern = Pattern.parse(pattern)
    weight, mean, variance = make_case(rows, 4 * groups, seed)
    wanda = weight.abs() * (variance + mean.square()).sqrt()
    mask = pattern.mask(wanda)
    before = mask.clone()
    found = dsnot(weight, mask, mean, variance, pattern)
    assert torch.equal(mask, before)
    width = pattern.m or weight.shape[1]
    kept = [each.reshape(rows, -1, width).sum(2) for each in (found, mask)]
    assert torch.equal(*kept)
    assert (error(weight, found, mean) <= error(weight, mask, mean) + 1e-5).all()


def test_errors_shrink_a_great_deal():
    weight, mean, variance = make_case()
    for pattern in (HALF, Pattern.parse("2:4")):
        mask = pattern.mask(weight.abs())
        found = dsnot(weight, mask, mean, variance, pattern)
        left = error(weight, found, mean).sum() / error(weight, mask, mean).sum()
        assert left < 0.5
        assert 0 < (found != mask).sum() <= 2 * 48 * len(weight)


def test_the_first_swap_is_the_papers():
    # Lost so far: 2 + 0.3 of the expected output. Input 1 has the largest mean share over its
    # variance; of the kept ones with shares below zero, input 3 has the lowest Wanda score.
    weight = torch.tensor([[1.0, 0.3, 5.0, -0.5, -4.0, 0.1]])
    mean = torch.tensor([[2.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    variance = torch.tensor([[9.0, 0.1, 1.0, 1.0, 1.0, 1.0]])
    mask = torch.tensor([[False, False, True, True, True, True]])
    found = dsnot(weight, mask, mean, variance, HALF, cycles=1)
    assert found.tolist() == [[False, True, True, False, True, True]]


def test_nothing_moves_without_means_or_cycles():
    weight, mean, variance = make_case()
    mask = HALF.mask(weight.abs())
    assert torch.equal(dsnot(weight, mask, mean * 0, variance, HALF), mask)
    assert torch.equal(dsnot(weight, mask, mean, variance, HALF, cycles=0), mask)
    everything = torch.ones_like(mask)
    assert torch.equal(dsnot(weight, everything, mean, variance, HALF), everything)
