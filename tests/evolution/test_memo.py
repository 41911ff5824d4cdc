import torch

from prunerzero.evolution.memo import OVERHEAD, Memo


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
