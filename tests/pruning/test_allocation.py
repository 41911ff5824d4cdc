import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from prunerzero.errors import InputError
from prunerzero.pruning.allocation import (
    MOST_KNOTS,
    Allocation,
    CurvesAllocation,
    MatrixShape,
    OwlAllocation,
    UniformAllocation,
)
from prunerzero.pruning.pattern import Pattern

KINDS = ["q_proj", "k_proj", "down_proj"]


def smollm2() -> list[MatrixShape]:
    shapes = {
        "q_proj": (576, 576),
        "k_proj": (192, 576),
        "v_proj": (192, 576),
        "o_proj": (576, 576),
        "gate_proj": (1536, 576),
        "up_proj": (1536, 576),
        "down_proj": (576, 1536),
    }
    return [
        MatrixShape(f"{block}.{kind}", kind, block, 30, rows, columns)
        for block in range(30)
        for kind, (rows, columns) in shapes.items()
    ]


@st.composite
def models(draw: st.DrawFn) -> list[MatrixShape]:
    blocks = draw(st.integers(1, 5))
    sizes = {kind: (draw(st.integers(1, 50)), draw(st.integers(1, 70))) for kind in KINDS}
    return [
        MatrixShape(f"{block}.{kind}", kind, block, blocks, *sizes[kind])
        for block in range(blocks)
        for kind in KINDS
    ]


offsets = st.floats(-1.5, 1.5)
allocations = st.builds(
    CurvesAllocation,
    curves=st.dictionaries(
        st.sampled_from(KINDS), st.lists(offsets, min_size=1, max_size=7).map(tuple)
    ),
)
shares = st.fractions(0, 1, max_denominator=1000).filter(lambda x: 0 < x < 1)


@given(models(), st.one_of(shares.map(Pattern.unstructured), st.just(Pattern.parse("2:4"))))
def test_uniform_is_the_patterns_sparsity(model: list[MatrixShape], pattern: Pattern) -> None:
    sparsities = UniformAllocation().sparsities(model, pattern)
    assert sparsities == {matrix.name: pattern.sparsity for matrix in model}


@given(allocations, models(), shares)
def test_total_is_exact_to_within_a_weight_a_row(allocation, model, sparsity) -> None:
    sparsities = allocation.sparsities(model, Pattern.unstructured(sparsity))
    weights = sum(matrix.rows * matrix.columns for matrix in model)
    pruned = sum(m.rows * int(m.columns * sparsities[m.name]) for m in model)
    assert 0 <= weights * sparsity - pruned <= sum(matrix.rows for matrix in model)


@given(allocations, models(), shares)
def test_each_sparsity_is_a_whole_count_within_bounds(allocation, model, sparsity) -> None:
    pattern = Pattern.unstructured(sparsity)
    for matrix in model:
        share = allocation.sparsities(model, pattern)[matrix.name]
        assert 0 < share < 1
        count = pattern.count(matrix.columns)
        if share != sparsity:
            assert (share * matrix.columns).denominator == 1
            low, high = Fraction(5, 100), Fraction(95, 100)
            assert min(low, Fraction(count, matrix.columns)) <= share
            assert share <= max(high, Fraction(count, matrix.columns))


@pytest.mark.parametrize("share", ["50%", "60%", "70%", "33.3%", "2%"])
def test_total_of_a_real_model_misses_by_less_than_one_small_matrix(share: str) -> None:
    allocation = CurvesAllocation(
        curves={"q_proj": (-0.1, 0.15, -0.2), "v_proj": (-0.06,), "up_proj": (-0.3, *[0.03] * 29)}
    )
    pattern = Pattern.parse(share)
    sparsities = allocation.sparsities(smollm2(), pattern)
    weights = sum(matrix.rows * matrix.columns for matrix in smollm2())
    pruned = sum(m.rows * int(m.columns * sparsities[m.name]) for m in smollm2())
    assert 0 <= math.floor(weights * pattern.sparsity) - pruned < 192


def curve(*knots: float, blocks: int = 30, kind: str = "q_proj") -> list[float]:
    """Offsets of a kind's matrices, from the first block to the last."""
    allocation = CurvesAllocation(curves={"q_proj": knots})
    return [allocation.offset(MatrixShape("", kind, n, blocks, 4, 4)) for n in range(blocks)]


def test_offsets_are_linear_between_knots() -> None:
    assert curve(0.2) == [0.2] * 30
    assert curve(-0.3, 0.3, blocks=7) == pytest.approx([-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3])
    assert curve(0.0, 0.2, 0.1, blocks=5) == pytest.approx([0.0, 0.1, 0.2, 0.15, 0.1])
    assert curve(0.1, 0.3, 0.2, blocks=2) == pytest.approx([0.1, 0.2])
    assert curve(0.1, 0.3, blocks=1) == [0.1]
    assert curve(0.1, 0.3, kind="k_proj") == [0.0] * 30


@given(st.lists(offsets, min_size=1, max_size=60))
def test_as_many_knots_as_blocks_give_each_its_own(knots: list[float]) -> None:
    assert curve(*knots, blocks=len(knots)) == pytest.approx(knots, abs=1e-9)


@given(st.lists(offsets, min_size=2, max_size=9), st.integers(2, 8), st.integers(2, 8))
def test_a_curve_has_the_same_shape_in_a_model_of_another_depth(knots, steps, others) -> None:
    """At equal depth models have equal offsets, so each depth of the knots has its knot."""
    few = curve(*knots, blocks=(len(knots) - 1) * steps + 1)
    many = curve(*knots, blocks=(len(knots) - 1) * others + 1)
    assert few[::steps] == pytest.approx(knots, abs=1e-9)
    assert many[::others] == pytest.approx(knots, abs=1e-9)
    finer = curve(*knots, blocks=(len(knots) - 1) * steps * others + 1)
    assert finer[::others] == pytest.approx(few, abs=1e-9)


@given(st.lists(offsets, min_size=1, max_size=9), st.integers(1, 40))
def test_offsets_stay_between_neighbouring_knots(knots: list[float], blocks: int) -> None:
    for block, offset in enumerate(curve(*knots, blocks=blocks)):
        place = block / max(1, blocks - 1) * (len(knots) - 1)
        near = [knots[n] for n in {math.floor(place), math.ceil(place)} if n < len(knots)]
        assert min(near) - 1e-9 <= offset <= max(near) + 1e-9


def test_offsets_do_what_they_say() -> None:
    pattern = Pattern.parse("50%")

    def sparsity(name: str, **curves: tuple[float, ...]) -> float:
        return float(CurvesAllocation(curves=curves).sparsities(smollm2(), pattern)[name])

    assert sparsity("9.q_proj", q_proj=(0.1,)) > 0.58
    assert sparsity("9.k_proj", q_proj=(0.1,)) < 0.5
    assert sparsity("0.q_proj", q_proj=(-0.2, 0.2)) < 0.31
    assert sparsity("29.q_proj", q_proj=(-0.2, 0.2)) > 0.69
    assert sparsity("15.q_proj", q_proj=(-0.2, 0.2)) == pytest.approx(0.5, abs=0.02)
    one = (0.0,) * 12 + (-0.3,) + (0.0,) * 17
    assert sparsity("12.q_proj", q_proj=one) < 0.21 < 0.5 <= sparsity("11.q_proj", q_proj=one)


@given(allocations, models(), shares, st.sampled_from(KINDS), st.floats(0, 1))
def test_a_higher_offset_never_makes_its_kind_denser(
    allocation, model, sparsity, kind: str, more: float
) -> None:
    pattern = Pattern.unstructured(sparsity)
    knots = allocation.curves.get(kind, (0.0,))
    raised = allocation.curves | {kind: tuple(knot + more for knot in knots)}
    before = allocation.sparsities(model, pattern)
    after = CurvesAllocation(curves=raised).sparsities(model, pattern)
    for matrix in model:
        if matrix.kind == kind:  # rounding to whole weights may take one back
            count = [int(s[matrix.name] * matrix.columns) for s in (before, after)]
            assert count[1] >= count[0] - 1


@given(shares)
def test_without_offsets_every_matrix_has_its_share(sparsity) -> None:
    pattern = Pattern.unstructured(sparsity)
    sparsities = CurvesAllocation(curves={}).sparsities(smollm2(), pattern)
    for matrix in smollm2():
        count = int(sparsities[matrix.name] * matrix.columns)
        assert 0 <= count - pattern.count(matrix.columns) <= 1


def test_n_m_takes_no_other_allocation() -> None:
    with pytest.raises(InputError, match="2:4 fixes every matrix's sparsity"):
        CurvesAllocation(curves={}).sparsities(smollm2(), Pattern.parse("2:4"))


def test_key_is_rounded_and_has_no_zeros() -> None:
    assert CurvesAllocation(curves={}).key() == "uniform"
    assert CurvesAllocation(curves={"q_proj": (1e-6,), "v_proj": (0.0, -4e-5)}).key() == "uniform"
    near = [
        CurvesAllocation(curves={"v_proj": (0.0, x), "k_proj": (0.0,), "q_proj": (0.1,)}).key()
        for x in (0.2, 0.2 + 1e-7)
    ]
    assert near[0] == near[1] == "curves(q_proj: 0.1000; v_proj: 0.0000 0.2000)"


@given(allocations, allocations)
def test_equal_keys_mean_equal_offsets(one: CurvesAllocation, other: CurvesAllocation) -> None:
    if one.key() == other.key():
        for shape in smollm2():
            assert one.offset(shape) == pytest.approx(other.offset(shape), abs=1e-4)
    again = CurvesAllocation(curves=dict(reversed(one.curves.items())))
    assert again.key() == one.key()


def test_is_chosen_by_name() -> None:
    adapter = TypeAdapter(Allocation)
    curves = CurvesAllocation(curves={"q_proj": (0.1, -0.5)})
    for allocation in (UniformAllocation(), curves, OwlAllocation(spread=0.1)):
        assert adapter.validate_python(allocation.model_dump()) == allocation
        assert adapter.validate_json(allocation.model_dump_json()) == allocation


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "evopress"},
        {"name": "owl", "spread": 2},
        {"name": "owl", "outlier": 0},
        {"name": "uniform", "curves": {}},
        {"name": "curves"},
        {"name": "curves", "curves": {}, "linear": 1},
        {"name": "curves", "curves": {"q_proj": 0.1}},
        {"name": "curves", "curves": {"q_proj": []}},
        {"name": "curves", "curves": {"q_proj": [math.nan]}},
        {"name": "curves", "curves": {"q_proj": [math.inf]}},
        {"name": "curves", "curves": {"q_proj": ["steep"]}},
        {"name": "curves", "curves": {"q_proj": [0.0] * (MOST_KNOTS + 1)}},
    ],
)
def test_bad_allocations_are_refused(bad: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Allocation).validate_python(bad)
