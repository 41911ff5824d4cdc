"""SparseGPT's update against the reference, against a naive version, and what must always hold."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from prunerzero.errors import InputError
from prunerzero.pruning.masks import keep_n_of_m
from prunerzero.pruning.pattern import Pattern
from prunerzero.statistics.hessian import factored, inverse_factor
from prunerzero.updates import sparsegpt, updated
from prunerzero.updates.columnwise import lowest_of_group

GOLDEN = load_file(Path(__file__).parents[1] / "data" / "reference-sparsegpt.safetensors")
PATTERNS = {"unstructured_50": "50%", "unstructured_70": "70%", "2of4": "2:4"}
HALF, NM = Pattern.parse("50%"), Pattern.parse("2:4")


def make_case(rows=12, columns=40, tokens=200, seed=0, dead=()):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(tokens, columns, generator=generator)
    inputs += torch.randn(tokens, 3, generator=generator) @ torch.randn(
        3, columns, generator=generator
    )
    inputs[:, list(dead)] = 0
    return torch.randn(rows, columns, generator=generator), inputs.T @ inputs


def naive(weight, gram, mask, damping=0.01):
    """Removes one column after the other from the whole inverse, in float64 (OBS)."""
    weight, hessian = weight.double().clone(), gram.double()
    hessian = hessian + damping * hessian.diagonal().mean() * torch.eye(len(hessian))
    for column in range(len(hessian)):
        inverse = torch.linalg.inv(hessian[column:, column:])
        error = torch.where(mask[:, column], 0.0, weight[:, column]) / inverse[0, 0]
        weight[:, column:] -= error[:, None] * inverse[0]
    return weight.masked_fill(~mask, 0.0)


def lost(weight, result, gram):
    change = (result - weight).double()
    return float(((change @ gram.double()) * change).sum())


def is_plus_zero(tensor):
    return (tensor == 0) & ~torch.signbit(tensor)


@pytest.mark.parametrize("scale", [1.0, 0.5 / 40, 2.0**20])
@pytest.mark.parametrize("name", PATTERNS)
def test_agrees_with_the_reference_at_any_scale(name, scale):
    inputs = GOLDEN["inputs"].flatten(0, 1)
    gram = inputs.T @ inputs * scale
    before = GOLDEN["weight"].clone(), gram.clone()
    found = sparsegpt(GOLDEN["weight"], gram, Pattern.parse(PATTERNS[name]), block_size=32)
    expected = GOLDEN[name]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert torch.equal(found == 0, expected == 0)
    assert torch.equal(GOLDEN["weight"], before[0])
    assert torch.equal(gram, before[1])


@pytest.mark.parametrize("block_size", [1, 5, 8, 32, 128])
@pytest.mark.parametrize("columns", [1, 7, 40, 75])
def test_any_mask_at_any_block_size_equals_removing_columns_one_by_one(columns, block_size):
    weight, gram = make_case(columns=columns)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) > 0.4
    found = sparsegpt(weight, gram, HALF, mask=mask, block_size=block_size)
    torch.testing.assert_close(found.double(), naive(weight, gram, mask), rtol=1e-3, atol=1e-4)
    assert torch.equal(is_plus_zero(found), ~mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_mask_alone_counts_and_the_type_stays(dtype):
    weight, gram = make_case(dead=(3, 8))
    mask = HALF.mask(weight.abs())
    found = sparsegpt(weight.to(dtype), gram, Pattern.parse("1:4"), mask=mask)
    assert found.dtype == dtype
    assert found.is_contiguous()
    assert torch.equal(is_plus_zero(found), ~mask)
    # Nothing was seen of dead inputs, so their kept weights stay.
    assert torch.equal(found[:, 3][mask[:, 3]], weight.to(dtype)[:, 3][mask[:, 3]])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("pattern", ["30%", "50%", "80%", "2:4", "1:4", "4:8", "3:5"])
def test_loses_less_than_masking_alone(pattern, seed):
    pattern = Pattern.parse(pattern)
    weight, gram = make_case(seed=seed)
    mask = pattern.mask(weight.abs() * gram.diagonal().sqrt())
    found = sparsegpt(weight, gram, pattern, mask=mask)
    own = sparsegpt(weight, gram, pattern)
    masked = lost(weight, weight * mask, gram)
    assert lost(weight, found, gram) < masked
    assert lost(weight, own, gram) < masked


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "3:4", "4:8", "3:5", "20:40"])
@pytest.mark.parametrize("block_size", [6, 128])
def test_its_own_mask_keeps_n_of_m_at_any_block_size(pattern, block_size):
    weight, gram = make_case()
    pattern = Pattern.parse(pattern)
    found = sparsegpt(weight, gram, pattern, block_size=block_size)
    kept = (found != 0).reshape(len(weight), -1, pattern.m).sum(2)
    assert (kept == pattern.n).all()
    torch.testing.assert_close(found, sparsegpt(weight, gram, pattern, block_size=64))


def test_dead_inputs_lose_their_weights_under_its_own_mask():
    weight, gram = make_case(dead=(0, 17, 39))
    for pattern in (HALF, NM):
        found = sparsegpt(weight, gram, pattern)
        assert is_plus_zero(found[:, [0, 17, 39]]).all()
        assert torch.isfinite(found).all()
    nothing = sparsegpt(weight, torch.zeros_like(gram), HALF, mask=HALF.mask(weight.abs()))
    assert torch.equal(nothing, weight * HALF.mask(weight.abs()))


def test_a_transposed_weight_is_not_written_to():
    weight, gram = make_case()
    stored = weight.T.contiguous()  # as GPT-2 keeps it
    before = stored.clone()
    assert torch.equal(sparsegpt(stored.T, gram, NM), sparsegpt(weight, gram, NM))
    assert torch.equal(stored, before)


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 50),
    tokens=st.integers(1, 60),
    kept=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_masks_are_kept_exactly(rows, columns, tokens, kept, seed):
    weight, gram = make_case(rows, columns, tokens, seed)
    mask = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < kept
    found = updated(weight, mask, factored(gram), 16)
    assert torch.isfinite(found).all()
    assert is_plus_zero(found[~mask]).all()
    # A row of which nothing goes stays as it is, bit for bit.
    assert torch.equal(found[mask.all(1)], weight[mask.all(1)])


@given(st.integers(2, 16).flatmap(
    lambda m: st.tuples(
        st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5]), min_size=m, max_size=m),
                 min_size=1, max_size=6),
        st.integers(1, m - 1),
    )
))  # fmt: skip
def test_groups_settle_ties_as_masks_do(case):
    rows, count = case
    scores = torch.tensor(rows)
    m = scores.shape[1]
    expected = ~keep_n_of_m(scores, m - count, m)
    assert torch.equal(lowest_of_group(scores.T, count).T, expected)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight": torch.ones(3)}, "must be a real matrix"),
        ({"weight": torch.ones(12, 40, dtype=torch.long)}, "must be a real matrix"),
        ({"gram": torch.eye(39)}, r"must be \[40, 40\]"),
        ({"gram": -torch.eye(40)}, "diagonal is negative"),
        ({"gram": torch.full((40, 40), torch.nan)}, "not finite"),
        ({"weight": torch.full((12, 40), torch.inf)}, "weight: not finite"),
        ({"mask": torch.ones(12, 40)}, "must be bool"),
        ({"mask": torch.ones(12, 39, dtype=torch.bool)}, "must be bool"),
        ({"pattern": Pattern.parse("2:3")}, "not a multiple of 3"),
        ({"damping": -1.0}, "damping -1.0"),
        ({"block_size": 0}, "block size 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(change, says):
    weight, gram = make_case()
    given_ = {"weight": weight, "gram": gram, "pattern": NM} | change
    with pytest.raises(InputError, match=says) as caught:
        sparsegpt(**given_)
    assert "\n" not in str(caught.value)


def test_a_factor_is_computed_once_for_each_gram_matrix():
    _, gram = make_case()
    assert inverse_factor(gram) is inverse_factor(gram)
    assert inverse_factor(gram) is not inverse_factor(gram.clone())
