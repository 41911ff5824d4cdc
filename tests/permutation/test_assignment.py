from itertools import permutations

import pytest
import torch

from prunerzero.permutation import assignment
from prunerzero.permutation.assignment import best_order, kept


def random_scores(rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    important = torch.rand(columns, generator=generator) ** 4
    return torch.rand(rows, columns, generator=generator) * important


def naive_kept(scores, n, m):
    total = 0.0
    for row in scores.tolist():
        for start in range(0, len(row), m):
            total += sum(sorted(row[start : start + m])[m - n :])
    return total


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 4), (4, 8), (1, 2)])
def test_an_order_keeps_more(n, m):
    scores = random_scores(12, 16 * m)
    order = best_order(scores, n, m)
    assert sorted(order.tolist()) == list(range(16 * m))
    assert kept(scores, n, m) == pytest.approx(naive_kept(scores, n, m))
    assert kept(scores[:, order], n, m) > 1.002 * kept(scores, n, m)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8)])
def test_assignment_improves_on_the_heuristic(n, m):
    scores = random_scores(12, 16 * m)
    dealt = assignment._dealt(scores, m)
    refined = assignment._reassigned(scores, dealt, n, m)
    assert kept(scores[:, refined], n, m) >= kept(scores[:, dealt], n, m)


def test_one_place_is_assigned_optimally():
    scores = random_scores(5, 16)
    groups = torch.arange(16).view(4, 4)
    table = assignment._kept_table(scores, groups, 1, 2)
    best = max(permutations(range(4)), key=lambda p: sum(table[g, c] for g, c in enumerate(p)))
    for chosen in permutations(range(4)):
        order = groups.clone()
        order[:, 1] = groups[list(chosen), 1]
        base = kept(scores[:, order.reshape(-1)], 2, 4)
        order[:, 1] = groups[list(best), 1]
        assert base <= kept(scores[:, order.reshape(-1)], 2, 4) + 1e-6


def test_channels_are_dealt_to_and_fro():
    scores = torch.tensor([[8.0, 1, 5, 4, 7, 2, 6, 3]])
    order = assignment._dealt(scores, 4)
    # piles 8 7 | 6 5 | 4 3 | 2 1, every second reversed
    assert scores[0, order].tolist() == [8, 5, 4, 1, 7, 6, 3, 2]


def test_an_order_that_is_good_already_stays():
    scores = torch.ones(3, 8)
    assert best_order(scores, 2, 4).tolist() == list(range(8))


def test_many_groups_are_assigned_in_parts(monkeypatch):
    monkeypatch.setattr(assignment, "LARGEST", 5)
    scores = random_scores(6, 64)
    order = best_order(scores, 2, 4)
    assert sorted(order.tolist()) == list(range(64))
    assert kept(scores[:, order], 2, 4) > kept(scores, 2, 4)
