import math
from fractions import Fraction
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.evolution import allocating
from prunerzero.evolution.allocating import LARGEST_OFFSET, STEP
from prunerzero.pruning.allocation import DepthKindAllocation, MatrixShape, UniformAllocation
from prunerzero.pruning.pattern import Pattern

KINDS = {"q_proj": (32, 32), "up_proj": (64, 32), "down_proj": (32, 64)}
BLOCKS = 6
SHAPES = [
    MatrixShape(f"{block}.{kind}", kind, block, BLOCKS, *size)
    for block in range(BLOCKS)
    for kind, size in KINDS.items()
]
ZERO = allocating.parameters_of(UniformAllocation(), SHAPES)
SEEDS = st.integers(0, 2**32)
HALF = Pattern.parse("50%")


def vector(seed, scale=0.3):
    random = Random(seed)
    return {name: random.uniform(-scale, scale) for name in ZERO}


def descended(cost_of, step=0.06, start=ZERO):
    costs = {shape.name: cost_of(shape) for shape in SHAPES}
    return allocating.descend(start, costs, SHAPES, step)


def offset(parameters, shape):
    return DepthKindAllocation.from_parameters(parameters).offset(shape)


def test_all_numbers_of_an_allocation():
    own = DepthKindAllocation(kinds={"q_proj": 0.1}, last=-0.2)
    found = allocating.parameters_of(own, SHAPES)
    assert found.keys() == ZERO.keys()
    assert set(ZERO.values()) == {0.0}
    assert len(ZERO) == len(KINDS) + 5
    assert {name: value for name, value in found.items() if value} == {
        "kind:q_proj": 0.1,
        "last": -0.2,
    }


@given(SEEDS, st.floats(-2, 2), st.floats(-2, 2), st.sampled_from(SHAPES))
def test_offsets_are_linear_in_the_features(seed, a, b, shape):
    first, second = vector(seed), vector(seed + 1)
    combined = {name: a * first[name] + b * second[name] for name in ZERO}
    expected = a * offset(first, shape) + b * offset(second, shape)
    assert offset(combined, shape) == pytest.approx(expected, abs=1e-9)
    names = sorted(ZERO)
    features = allocating._features(shape, names)
    dot = sum(f * first[name] for f, name in zip(features, names, strict=True))
    assert dot == pytest.approx(offset(first, shape), abs=1e-9)


def test_a_step_leads_away_from_costly_kinds():
    moved = descended(lambda shape: 3.0 if shape.kind == "q_proj" else 1.0)
    offsets = {shape.name: offset(moved, shape) for shape in SHAPES}
    for block in range(BLOCKS):
        assert offsets[f"{block}.q_proj"] < offsets[f"{block}.up_proj"] - 0.02
        up, down = offsets[f"{block}.up_proj"], offsets[f"{block}.down_proj"]
        assert up == pytest.approx(down, abs=2e-3)


def test_a_step_follows_depth_and_the_ends():
    deep = descended(lambda shape: 1.0 + 0.5 * (2 * shape.block / (BLOCKS - 1) - 1))
    assert deep["linear"] < -0.01
    first = descended(lambda shape: 3.0 if shape.block == 0 else 1.0)
    block = {s.block: offset(first, s) for s in SHAPES if s.kind == "q_proj"}
    assert block[0] < min(block[n] for n in range(1, BLOCKS)) - 0.02


def test_equal_costs_move_nothing_and_only_ratios_count():
    assert descended(lambda _: 2.0) == pytest.approx(ZERO, abs=1e-9)
    once = descended(lambda shape: 1.0 + shape.block)
    assert descended(lambda shape: 1e-6 * (1 + shape.block)) == pytest.approx(once, abs=1e-9)
    half = descended(lambda shape: 1.0 + shape.block, step=0.03)
    assert half == pytest.approx({name: value / 2 for name, value in once.items()}, abs=1e-9)


def test_a_step_starts_where_the_allocation_is():
    start = vector(5, 0.1)
    moved = descended(lambda shape: 1.0 + shape.block, start=start)
    fresh = descended(lambda shape: 1.0 + shape.block)
    assert moved == pytest.approx({n: start[n] + fresh[n] for n in ZERO}, abs=1e-9)


@pytest.mark.parametrize("cost", [0.0, -1.0, math.nan, math.inf])
def test_noise_moves_nothing(cost):
    start = vector(1)
    assert descended(lambda _: cost, start=start) == start
    random = Random(0)
    assert descended(lambda _: random.gauss(-1.0, 5.0), start=start) == start


@pytest.mark.parametrize("seed", range(20))
def test_noisy_costs_move_a_bounded_way(seed):
    noise = np.random.default_rng(seed)
    moved = descended(lambda _: float(1 + 50 * noise.standard_cauchy() ** 2), step=0.06)
    # A least-squares fit is no longer than its targets, which are clipped to log 0.3 and log 4.
    weights = np.array([shape.rows * shape.columns for shape in SHAPES])
    squares = np.array([offset(moved, shape) ** 2 for shape in SHAPES])
    assert math.sqrt(weights @ squares / weights.sum()) <= 0.06 * math.log(4) + 1e-9
    assert any(moved.values())


@given(SEEDS)
def test_a_random_step_moves_some_numbers_a_little(seed):
    start = vector(seed)
    moved = allocating.random_step(start, Random(seed))
    changes = [moved[name] - start[name] for name in ZERO if moved[name] != start[name]]
    assert changes
    assert all(abs(change) < 7 * STEP for change in changes)
    assert allocating.random_step(start, Random(seed)) == moved


def test_a_random_step_moves_a_third():
    moved = [allocating.random_step(ZERO, Random(seed)) for seed in range(300)]
    share = sum(value != 0 for numbers in moved for value in numbers.values()) / 300 / len(ZERO)
    assert share == pytest.approx(1 / 3, abs=0.05)


@given(SEEDS)
def test_a_blend_lies_on_the_segment_or_a_little_past_it(seed):
    first, second = vector(seed), vector(seed + 1)
    mixed = allocating.blend(first, second, Random(seed))
    shares = [(mixed[name] - first[name]) / (second[name] - first[name]) for name in ZERO]
    assert shares == pytest.approx([shares[0]] * len(shares), rel=1e-4, abs=1e-4)
    assert -0.26 < shares[0] < 1.26


@given(SEEDS, st.sampled_from(["50%", "20%", "70%"]))
def test_an_allocation_spends_the_exact_total(seed, pattern):
    parsed = Pattern.parse(pattern)
    allocation = allocating.allocation_from(vector(seed, 1.0))
    assert all(abs(value) <= LARGEST_OFFSET for value in allocation.parameters().values())
    sparsities = allocation.sparsities(SHAPES, parsed)
    total = sum(sparsities[s.name] * s.rows * s.columns for s in SHAPES)
    target = parsed.sparsity * sum(s.rows * s.columns for s in SHAPES)
    assert total <= target
    assert target - total < max(shape.rows for shape in SHAPES)


def test_a_step_changes_the_sparsities_as_it_says():
    moved = descended(lambda shape: 3.0 if shape.kind == "q_proj" else 1.0)
    sparsities = allocating.allocation_from(moved).sparsities(SHAPES, HALF)
    assert sparsities["2.q_proj"] < Fraction(1, 2) < sparsities["2.up_proj"]


def test_numbers_are_rounded_so_that_near_equal_allocations_are_equal():
    one = allocating.allocation_from(ZERO | {"linear": 0.12341})
    other = allocating.allocation_from(ZERO | {"linear": 0.12339})
    assert one == other
    assert allocating.allocation_from(ZERO).key() == UniformAllocation().key()
