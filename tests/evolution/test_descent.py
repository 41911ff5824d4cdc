import math

import numpy as np
import pytest

from prunerzero.evolution.descent import (
    LARGEST_EXPONENT,
    LARGEST_OFFSET,
    OTHER_KINDS,
    RATE,
    Descent,
    curves_of,
    smoothing_kernel,
)
from prunerzero.evolution.genome import FACTORS, Genome
from prunerzero.evolution.guidance import Guidance
from prunerzero.metric import Metric
from prunerzero.pruning.allocation import CurvesAllocation, MatrixShape, UniformAllocation
from prunerzero.pruning.pattern import Pattern

BLOCKS = 6
KINDS = {"q_proj": (32, 32), "up_proj": (64, 32), "down_proj": (32, 64)}
FAMILIES = {"q_proj": "attention", "up_proj": "mlp", "down_proj": "mlp"}
SHAPES = [
    MatrixShape(f"{block}.{kind}", kind, block, BLOCKS, *size)
    for block in range(BLOCKS)
    for kind, size in KINDS.items()
]
HALF = Pattern.parse("50%")
START = Genome(Metric.parse("W * A"), families=FAMILIES)
FLAT = dict.fromkeys((shape.name for shape in SHAPES), 1.0)
LEVEL = {kind: dict.fromkeys(FACTORS, 0.0) for kind in KINDS}


def slopes_at(genome, best):
    """Of a divergence that grows with the square of the distance from the best exponents."""
    return {
        kind: {
            factor: genome.powers.get(kind, {}).get(factor, 0.0) - best[kind].get(factor, 0.0)
            for factor in FACTORS
        }
        for kind in KINDS
    }


def offsets_of(genome):
    if isinstance(genome.allocation, UniformAllocation):
        return dict.fromkeys(FLAT, 0.0)
    return {shape.name: genome.allocation.offset(shape) for shape in SHAPES}


def follow(measure, steps, start=START, tied=False, spread=HALF):
    descent, point = Descent(SHAPES, tied=tied, spread=spread), start
    for _ in range(steps):
        point = descent.step(point, measure(point))
    return point


def mean_offset(genome):
    """Over all weights."""
    weights = sum(shape.rows * shape.columns for shape in SHAPES)
    return sum(s.rows * s.columns * offsets_of(genome)[s.name] for s in SHAPES) / weights


BEST = {"q_proj": {"A": 0.5, "F": -0.3}, "up_proj": {"A": -0.4}, "down_proj": {"colmean(W)": 0.2}}


def test_exponents_go_to_the_lowest_divergence():
    point = follow(lambda genome: Guidance(0.5, FLAT, slopes_at(genome, BEST)), 100)
    for kind in KINDS:
        for factor in FACTORS:
            expected = BEST[kind].get(factor, 0.0)
            assert point.powers[kind][factor] == pytest.approx(expected, abs=0.03)
    assert point.metric == START.metric


def test_tied_exponents_go_to_the_best_for_all_kinds_together():
    point = follow(lambda genome: Guidance(0.5, FLAT, slopes_at(genome, BEST)), 100, tied=True)
    for factor in FACTORS:
        (exponent,) = {point.powers[kind][factor] for kind in KINDS}
        mean = sum(BEST[kind].get(factor, 0.0) for kind in KINDS) / len(KINDS)
        assert exponent == pytest.approx(mean, abs=0.03)
    assert isinstance(point.recipe().metric, Metric)


def test_the_first_step_has_the_same_length_whatever_the_scale_of_the_slopes():
    for scale in (1.0, 1e3):
        slopes = {kind: dict.fromkeys(FACTORS, -scale) for kind in KINDS}
        point = follow(lambda _, slopes=slopes: Guidance(0.5, FLAT, slopes), 1)
        assert point.powers["q_proj"]["A"] == pytest.approx(RATE, abs=1e-3)
    # Slopes that are small for the divergence are noise.
    slopes = {kind: dict.fromkeys(FACTORS, 1e-3) for kind in KINDS}
    assert abs(follow(lambda _: Guidance(100.0, FLAT, slopes), 1).powers["q_proj"]["A"]) < 2e-3


def test_steps_become_shorter():
    slopes = {kind: dict.fromkeys(FACTORS, -1.0) for kind in KINDS}
    descent, point, exponents = Descent(SHAPES, tied=False, spread=None), START, [0.0]
    for _ in range(11):
        point = descent.step(point, Guidance(0.5, FLAT, slopes))
        exponents.append(point.powers["q_proj"]["A"])
    steps = np.diff(exponents)
    assert (np.diff(steps) < 0).all()
    assert steps[10] / steps[0] == pytest.approx(0.5**0.5, abs=0.02)


def test_marginal_costs_become_equal():
    """Each matrix's cost grows with its sparsity, from a level that follows kind and depth."""

    def levels(shape):
        return 0.4 * (shape.kind == "q_proj") - 0.8 * shape.block / (BLOCKS - 1)

    def costs(genome):
        offsets = offsets_of(genome)
        return {s.name: math.exp(levels(s) + 5 * offsets[s.name]) for s in SHAPES}

    before = list(costs(START).values())
    point = follow(lambda genome: Guidance(0.5, costs(genome), LEVEL), 120)
    after = list(costs(point).values())
    assert max(before) / min(before) > 3
    assert max(after) / min(after) < 1.2
    assert mean_offset(point) == pytest.approx(0.0, abs=1e-4)
    assert offsets_of(point)["5.up_proj"] > 0.05 > -0.05 > offsets_of(point)["0.q_proj"]


def test_without_a_spread_the_allocation_stays():
    costs = {shape.name: 1.0 + shape.block for shape in SHAPES}
    curves = CurvesAllocation(curves={"q_proj": (0.1,)})
    for allocation in (UniformAllocation(), curves):
        start = Genome(START.metric, {}, allocation, "row", FAMILIES)
        point = follow(lambda _: Guidance(0.5, costs, LEVEL), 3, start, spread=None)
        assert point.allocation == allocation
        nothing = follow(lambda _: Guidance(0.5, {}, LEVEL), 3, start, spread=None)
        assert nothing.allocation == allocation


def test_an_allocation_is_gone_on_from():
    curves = CurvesAllocation(curves={"q_proj": (0.2, -0.2)})
    start = Genome(START.metric, {}, curves, "row", FAMILIES)
    point = follow(lambda _: Guidance(0.5, FLAT, LEVEL), 3, start)
    for shape in SHAPES:
        assert offsets_of(point)[shape.name] == pytest.approx(curves.offset(shape), abs=1e-3)


def test_offsets_of_other_allocations_are_what_they_add():
    class Ends(UniformAllocation):
        def sparsities(self, matrices, pattern):
            dense = {0: 3, BLOCKS - 1: -1}
            return {s.name: pattern.sparsity - dense.get(s.block, 0) / s.columns for s in matrices}

    found = Descent(SHAPES, tied=False, spread=HALF)._offsets(Ends(), HALF)
    for shape, offset in zip(SHAPES, found, strict=True):
        expected = {0: -3, BLOCKS - 1: 1}.get(shape.block, 0) / shape.columns
        assert offset == pytest.approx(expected)


def test_a_matrix_shares_its_cost_with_neighbours():
    costs = FLAT | {"2.up_proj": 3.0}
    offsets = offsets_of(follow(lambda _: Guidance(0.5, costs, LEVEL), 1))
    assert offsets["2.up_proj"] < offsets["1.up_proj"] < offsets["0.up_proj"]
    assert offsets["2.up_proj"] < offsets["2.down_proj"] < offsets["5.down_proj"]


def test_costs_are_averaged_over_steps():
    descent = Descent(SHAPES, tied=False, spread=HALF)
    steep = {shape.name: 1.0 + 2 * shape.block for shape in SHAPES}
    first = descent.step(START, Guidance(0.5, FLAT, LEVEL))
    second = descent.step(first, Guidance(0.5, steep, LEVEL))
    alone = follow(lambda _: Guidance(0.5, steep, LEVEL), 1)
    assert offsets_of(first) == dict.fromkeys(FLAT, 0.0)
    assert offsets_of(second)["0.q_proj"] > 0.005  # the first block is the cheapest
    assert offsets_of(second)["0.q_proj"] < 0.8 * offsets_of(alone)["0.q_proj"]


@pytest.mark.parametrize("cost", [-1.0, 0.0, math.nan, math.inf])
def test_costs_without_a_direction_do_not_move_the_allocation(cost):
    costs = {shape.name: cost * (1 + shape.block) for shape in SHAPES}
    point = follow(lambda _: Guidance(0.5, costs, LEVEL), 3)
    assert set(offsets_of(point).values()) == {0.0}


@pytest.mark.parametrize("divergence", [0.0, math.nan, math.inf])
def test_no_divergence_means_no_direction(divergence):
    slopes = {kind: dict.fromkeys(FACTORS, 2.0) for kind in KINDS}
    point = follow(lambda _: Guidance(divergence, FLAT, slopes), 3)
    assert {value for powers in point.powers.values() for value in powers.values()} == {0.0}


def test_one_bad_point_does_not_end_the_descent():
    readings = iter([Guidance(0.0, dict.fromkeys(FLAT, 0.0), LEVEL)])
    point = follow(lambda genome: next(readings, Guidance(0.5, FLAT, slopes_at(genome, BEST))), 100)
    assert point.powers["q_proj"]["A"] == pytest.approx(0.5, abs=0.03)


def test_numbers_stay_within_bounds():
    costs = {shape.name: 1e3 if shape.block < 3 else 1e-6 for shape in SHAPES}
    slopes = {kind: {"A": -1.0, "F": 1.0} | dict.fromkeys([*FACTORS][2:], 0.0) for kind in KINDS}
    point = follow(lambda _: Guidance(0.5, costs, slopes), 200)
    offsets = offsets_of(point).values()
    assert min(offsets) == -LARGEST_OFFSET
    assert max(offsets) == LARGEST_OFFSET
    assert {tuple(powers.values()) for powers in point.powers.values()} == {
        (LARGEST_EXPONENT, -LARGEST_EXPONENT, 0.0, 0.0)
    }


def test_rows_of_the_smoothing_kernel_add_up_to_one():
    sizes = np.array([shape.rows * shape.columns for shape in SHAPES], dtype=float)
    kernel = smoothing_kernel(SHAPES, sizes / sizes.sum())
    assert kernel.shape == (len(SHAPES), len(SHAPES))
    assert kernel.sum(1) == pytest.approx(np.ones(len(SHAPES)))
    assert (kernel >= 0).all()
    at = {shape.name: index for index, shape in enumerate(SHAPES)}
    row = kernel[at["2.up_proj"]]
    assert row[at["2.up_proj"]] > row[at["1.up_proj"]] > row[at["0.up_proj"]]
    same, other = row[at["2.up_proj"]], row[at["2.down_proj"]]
    assert other / same == pytest.approx(OTHER_KINDS / (1 + OTHER_KINDS))
    assert row[at["2.down_proj"]] / row[at["2.q_proj"]] == pytest.approx(2)  # twice the weights


def test_deeper_models_are_smoothed_over_more_blocks():
    deep = [MatrixShape(f"{block}", "q_proj", block, 60, 8, 8) for block in range(60)]
    kernel = smoothing_kernel(deep, np.full(60, 1 / 60))
    assert kernel[30, 34] / kernel[30, 30] == pytest.approx(math.exp(-0.5))


def test_curves_give_back_offsets():
    offsets = np.linspace(-0.3, 0.3, len(SHAPES))
    curves = curves_of(SHAPES, offsets)
    assert [curves.offset(shape) for shape in SHAPES] == pytest.approx(offsets, abs=1e-4)
    assert {kind: len(knots) for kind, knots in curves.curves.items()} == dict.fromkeys(KINDS, 6)


def test_experts_of_a_block_share_their_mean():
    experts = [
        MatrixShape(f"{block}.experts.{n}.up_proj", "up_proj", block, 2, 8, 8)
        for block in range(2)
        for n in range(3)
    ]
    curves = curves_of(experts, np.array([0.1, 0.2, 0.3, -0.1, -0.1, 0.5]))
    assert curves.curves == {"up_proj": (0.2, 0.1)}


def test_kinds_may_be_missing_in_some_blocks():
    shapes = [
        MatrixShape("0.up_proj", "up_proj", 0, 3, 8, 8),
        MatrixShape("1.router", "router", 1, 3, 8, 8),
        MatrixShape("2.up_proj", "up_proj", 2, 3, 8, 8),
    ]
    curves = curves_of(shapes, np.array([0.1, 0.2, -0.3]))
    assert curves.curves == {"up_proj": (0.1, 0.0, -0.3), "router": (0.0, 0.2, 0.0)}
    assert [curves.offset(shape) for shape in shapes] == pytest.approx([0.1, 0.2, -0.3])
    slopes = {kind: dict.fromkeys(FACTORS, 0.0) for kind in ("up_proj", "router")}
    costs = {"0.up_proj": 1.0, "1.router": 2.0, "2.up_proj": 3.0}
    start = Genome(START.metric, families={"up_proj": "mlp", "router": "mlp"})
    moved = Descent(shapes, tied=False, spread=HALF).step(start, Guidance(1.0, costs, slopes))
    assert moved.allocation.offset(shapes[0]) > moved.allocation.offset(shapes[2])
