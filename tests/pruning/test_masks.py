"""Every mask is the one that a stable sort gives."""

import math
import multiprocessing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunerzero.pruning import masks
from prunerzero.pruning.pattern import Pattern

# Few values, so that ties are everywhere, with all that a sort treats in a way of its own.
TIED = st.sampled_from([0.0, -0.0, 1.0, 1.5, -1.0, 1e-45, math.inf, -math.inf, math.nan])
NON_NEGATIVE = st.sampled_from([0.0, -0.0, 1e-45, 0.5, 1.0, 3e38, math.inf])
ANY = st.floats(width=32, allow_nan=True)


def by_sorting(scores: torch.Tensor, pruned: int) -> torch.Tensor:
    order = torch.sort(scores, dim=1, stable=True).indices
    return torch.ones_like(scores, dtype=torch.bool).scatter(1, order[:, :pruned], False)


@st.composite
def matrices(draw: st.DrawFn, most_columns: int = 40, multiple: int = 1) -> torch.Tensor:
    rows = draw(st.integers(1, 6))
    columns = multiple * draw(st.integers(1, max(1, most_columns // multiple)))
    values = draw(st.sampled_from([TIED, NON_NEGATIVE, ANY]))
    count = rows * columns
    scores = torch.tensor(draw(st.lists(values, min_size=count, max_size=count)))
    if draw(st.booleans()):  # not contiguous
        return scores.reshape(columns, rows).T
    return scores.reshape(rows, columns)


@given(matrices(), st.data())
@pytest.mark.parametrize("kernel", [masks.keep_highest, masks.keep_highest_torch])
def test_rows(kernel, scores: torch.Tensor, data: st.DataObject) -> None:
    pruned = data.draw(st.integers(0 if kernel is masks.keep_highest else 1, scores.shape[1]))
    pruned = min(pruned, scores.shape[1] - 1)
    if kernel is masks.keep_highest_torch and pruned == 0:
        return
    assert torch.equal(kernel(scores, pruned), by_sorting(scores, pruned))


@given(matrices(), st.integers(1, 99))
def test_matrix(scores: torch.Tensor, percent: int) -> None:
    kept = Pattern.parse(f"{percent}%").mask(scores, group="matrix")
    flat = scores.reshape(1, -1)
    assert torch.equal(kept.reshape(1, -1), by_sorting(flat, flat.numel() * percent // 100))


@pytest.mark.parametrize("kernel", [masks.keep_n_of_m, masks.keep_n_of_m_torch])
@pytest.mark.parametrize("m", [2, 3, 4, 5, 8, 16])
def test_n_of_m(kernel, m: int) -> None:
    @settings(max_examples=40)
    @given(matrices(multiple=m), st.integers(1, m - 1))
    def check(scores: torch.Tensor, n: int) -> None:
        expected = by_sorting(scores.reshape(-1, m), m - n).reshape(scores.shape)
        assert torch.equal(kernel(scores, n, m), expected)

    check()


@pytest.mark.parametrize("m", [2, 4, 8])
def test_every_order_of_a_group(m: int) -> None:
    """All 4^m groups of four values: the arithmetic of ranks has no odd case."""
    values = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 2.0, math.nan])] * m)
    scores = values.reshape(-1, m)
    for n in range(1, m):
        assert torch.equal(masks.keep_n_of_m(scores, n, m), by_sorting(scores, m - n))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "ROWS_WORTH", 256)
    monkeypatch.setattr(masks, "GROUPS_WORTH", 256)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 512), (67, 48), (512, 8), (3, 640)])
def test_blocks_and_threads_do_not_show(small_blocks, threads: int, shape) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, shape, generator=generator).float()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rows = masks.keep_highest(scores, shape[1] // 2)
        groups = masks.keep_n_of_m(scores, 2, 4)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(rows, by_sorting(scores, shape[1] // 2))
    assert torch.equal(groups, by_sorting(scores.reshape(-1, 4), 2).reshape(shape))


@pytest.mark.parametrize("value", [0.0, 1.0, math.inf, math.nan, -2.0])
@pytest.mark.parametrize("group", ["row", "matrix"])
def test_of_equal_scores_the_lower_index_goes_first(value: float, group: str) -> None:
    kept = Pattern.parse("50%").mask(torch.full((300, 100), value), group=group)
    pruned_rows = 300 if group == "row" else 150
    expected = torch.ones(300, 100, dtype=torch.bool)
    if group == "row":
        expected[:, :50] = False
    else:
        expected[:pruned_rows] = False
    assert torch.equal(kept, expected)


def test_quantised_weights() -> None:
    """A 4-bit grid with a scale for each 32 weights, as in the bundled model."""
    generator = torch.Generator().manual_seed(1)
    grid = torch.randint(-8, 8, (400, 18, 32), generator=generator)
    scale = torch.rand(400, 18, 1, generator=generator).half()
    scores = (grid * scale).float().reshape(400, 576).abs()
    assert torch.equal(Pattern.parse("50%").mask(scores), by_sorting(scores, 288))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int32])
def test_any_real_dtype(dtype: torch.dtype) -> None:
    scores = torch.arange(12).reshape(2, 6).flip(1).to(dtype)
    kept = Pattern.parse("50%").mask(scores)
    assert kept.dtype == torch.bool
    assert kept.tolist() == [[True] * 3 + [False] * 3] * 2


def test_scores_are_left_alone_and_may_require_gradients() -> None:
    scores = torch.rand(8, 16).requires_grad_()
    before = scores.detach().clone()
    Pattern.parse("50%").mask(scores)
    Pattern.parse("2:4").mask(scores)
    assert torch.equal(scores.detach(), before)


@pytest.mark.parametrize("shape", [(0, 8), (5, 0), (5, 1)])
def test_shapes_of_which_nothing_goes(shape: tuple[int, int]) -> None:
    assert Pattern.parse("50%").mask(torch.rand(shape)).all()
    assert Pattern.parse("50%").mask(torch.rand(shape)).shape == shape


def _mask_in_child(scores: torch.Tensor, result) -> None:
    result.put(int(masks.keep_highest(scores, 4).sum()))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_gets_threads_of_its_own(small_blocks) -> None:
    scores = torch.rand(64, 8)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        masks.keep_highest(scores, 4)  # the parent's pool exists
        context = multiprocessing.get_context("fork")
        result = context.Queue()
        child = context.Process(target=_mask_in_child, args=(scores, result))
        child.start()
        assert result.get(timeout=30) == 64 * 4
        child.join(timeout=30)
    finally:
        torch.set_num_threads(before)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    scores = torch.randint(0, 50, (300, 128)).float()
    for text in ("50%", "2:4", "4:8"):
        for group in ("row", "matrix"):
            pattern = Pattern.parse(text)
            assert torch.equal(
                pattern.mask(scores.cuda(), group).cpu(), pattern.mask(scores, group)
            )
