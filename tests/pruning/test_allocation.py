import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from prunerzero.errors import InputError
from prunerzero.pruning.allocation import (
    Allocation,
    DepthKindAllocation,
    MatrixShape,
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
    DepthKindAllocation,
    kinds=st.dictionaries(st.sampled_from(KINDS), offsets),
    linear=offsets,
    quadratic=offsets,
    first=offsets,
    second=offsets,
    last=offsets,
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
    allocation = DepthKindAllocation(
        kinds={"q_proj": 0.1, "v_proj": -0.06}, quadratic=0.07, linear=0.03, first=-0.13, last=-0.14
    )
    pattern = Pattern.parse(share)
    sparsities = allocation.sparsities(smollm2(), pattern)
    weights = sum(matrix.rows * matrix.columns for matrix in smollm2())
    pruned = sum(m.rows * int(m.columns * sparsities[m.name]) for m in smollm2())
    assert 0 <= math.floor(weights * pattern.sparsity) - pruned < 192


def test_offsets_do_what_they_say() -> None:
    pattern = Pattern.parse("50%")

    def sparsity(name: str, **numbers) -> float:
        return float(DepthKindAllocation(**numbers).sparsities(smollm2(), pattern)[name])

    assert sparsity("9.q_proj", kinds={"q_proj": 0.1}) > 0.58
    assert sparsity("9.k_proj", kinds={"q_proj": 0.1}) < 0.5
    assert sparsity("0.q_proj", first=-0.2) < 0.31 < 0.5 < sparsity("1.q_proj", first=-0.2)
    assert sparsity("1.q_proj", second=-0.2) < 0.31 < 0.5 < sparsity("0.q_proj", second=-0.2)
    assert sparsity("29.q_proj", last=-0.2) < 0.31 < 0.5 < sparsity("28.q_proj", last=-0.2)
    assert sparsity("0.q_proj", linear=0.2) < 0.31
    assert sparsity("29.q_proj", linear=0.2) > 0.69
    bowl = [sparsity(f"{block}.q_proj", quadratic=0.2) for block in (0, 15, 29)]
    assert bowl[1] < 0.45
    assert bowl[0] > 0.6
    assert bowl[0] == pytest.approx(bowl[2], abs=2 / 576)


@given(allocations, models(), shares, st.sampled_from(KINDS), st.floats(0, 1))
def test_a_higher_offset_never_makes_its_kind_denser(
    allocation, model, sparsity, kind: str, more: float
) -> None:
    pattern = Pattern.unstructured(sparsity)
    kinds = allocation.kinds | {kind: allocation.kinds.get(kind, 0.0) + more}
    before = allocation.sparsities(model, pattern)
    after = allocation.model_copy(update={"kinds": kinds}).sparsities(model, pattern)
    for matrix in model:
        if matrix.kind == kind:  # rounding to whole weights may take one back
            count = [int(s[matrix.name] * matrix.columns) for s in (before, after)]
            assert count[1] >= count[0] - 1


@given(shares)
def test_without_offsets_every_matrix_has_its_share(sparsity) -> None:
    pattern = Pattern.unstructured(sparsity)
    sparsities = DepthKindAllocation().sparsities(smollm2(), pattern)
    for matrix in smollm2():
        count = int(sparsities[matrix.name] * matrix.columns)
        assert 0 <= count - pattern.count(matrix.columns) <= 1


@given(allocations)
def test_parameters_go_there_and_back(allocation: DepthKindAllocation) -> None:
    assert DepthKindAllocation.from_parameters(allocation.parameters()) == allocation


def test_n_m_takes_no_other_allocation() -> None:
    with pytest.raises(InputError, match="2:4 fixes every matrix's sparsity"):
        DepthKindAllocation().sparsities(smollm2(), Pattern.parse("2:4"))


def test_key_is_rounded_and_has_no_zeros() -> None:
    assert DepthKindAllocation(kinds={"q_proj": 1e-6}, first=-0.00001).key() == "uniform"
    near = [DepthKindAllocation(linear=x, kinds={"q_proj": 0.1}).key() for x in (0.2, 0.2 + 1e-7)]
    assert near[0] == near[1] == "depth-kind(kind:q_proj=0.1000, linear=0.2000)"


def test_is_chosen_by_name() -> None:
    adapter = TypeAdapter(Allocation)
    for allocation in (UniformAllocation(), DepthKindAllocation(kinds={"q_proj": 0.1}, last=0.5)):
        assert adapter.validate_python(allocation.model_dump()) == allocation
    for bad in ({"name": "owl"}, {"name": "uniform", "linear": 1}, {"linear": math.nan}):
        with pytest.raises(ValidationError):
            adapter.validate_python({"name": "depth-kind"} | bad)
