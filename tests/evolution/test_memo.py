import os
import sys
from pathlib import Path

import pytest
import torch

from prunerzero.evolution.memo import OVERHEAD, SLAB, SMALL, Memo


def entry(value, elements=1):
    return lambda: (torch.full((elements,), float(value)),)


def test_a_value_is_computed_once():
    memo = Memo(10 * OVERHEAD)
    first = memo.recall("a", entry(1))
    assert memo.recall("a", entry(2)) is first
    memo.forget()
    assert memo.bytes == 0
    assert memo.recall("a", entry(2))[0] == 2


def test_what_was_not_used_for_longest_goes_first():
    memo = Memo(3 * (OVERHEAD + 4))
    for key in "abc":
        memo.recall(key, entry(0))
    memo.recall("a", entry(1))
    memo.recall("d", entry(0))
    assert memo.bytes == memo.limit
    assert memo.recall("a", entry(1))[0] == 0
    assert memo.recall("b", entry(1))[0] == 1


def test_what_is_too_large_is_not_kept():
    memo = Memo(OVERHEAD + 400)
    small = memo.recall("small", entry(0))
    memo.recall("large", entry(0, 101))
    assert memo.recall("large", entry(1, 101))[0][0] == 1
    assert memo.recall("small", entry(1)) is small
    assert memo.bytes == OVERHEAD + 4


def test_small_values_share_a_slab_and_keep_what_they_are():
    memo = Memo(1 << 20)
    values = [torch.tensor(2.5), torch.arange(6.0).view(2, 3), torch.tensor([True, False])]
    kept = [
        memo.recall(index, lambda value=value: (value,))[0] for index, value in enumerate(values)
    ]
    for value, found in zip(values, kept, strict=True):
        assert torch.equal(value, found)
        assert value.dtype == found.dtype
        assert value.shape == found.shape
    assert len({found.untyped_storage().data_ptr() for found in kept}) == 1
    large = torch.zeros(SMALL)
    assert memo.recall("large", lambda: (large,))[0] is large


def test_a_full_slab_is_followed_by_another():
    memo = Memo(1 << 24)
    whole = SMALL // 4
    kept = [memo.recall(n, entry(n, whole))[0] for n in range(2 * SLAB // SMALL)]
    assert all((found == n).all() for n, found in enumerate(kept))
    assert len({found.untyped_storage().data_ptr() for found in kept}) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_scalars_leave_no_gaps_where_matrices_were():
    memo = Memo(1 << 24)

    def scalar():
        # As in a reduction over a matrix: large temporaries, of which a scalar stays.
        matrix = torch.ones(1024, 768)
        return ((matrix * 2).add_(matrix).sum(),)

    for index in range(20):  # until the allocator knows such sizes
        memo.recall(index, scalar)
    before = resident()
    for index in range(20, 220):
        memo.recall(index, scalar)
    assert resident() - before < 100 << 20  # 400 MB and more if they did


def resident():
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
