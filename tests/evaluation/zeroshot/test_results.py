import math
from itertools import product

import numpy as np
import pytest

from prunerzero.errors import InputError
from prunerzero.evaluation.zeroshot.results import (
    Accuracy,
    TaskResult,
    ZeroShot,
    chance_level,
    paired_difference,
)
from prunerzero.evaluation.zeroshot.table import zero_shot_table


def task(right, items_hash="h"):
    score = Accuracy(tuple(right), 0.5)
    return TaskResult({"acc": score, "acc_norm": score}, 100, items_hash, 0, "1.0")


def test_mean_and_standard_error():
    right = (1, 0, 1, 1, 0)
    score = Accuracy(right, 0.5)
    assert score.mean == 0.6
    assert score.stderr == pytest.approx(np.std(right, ddof=1) / math.sqrt(5))


def test_the_test_against_chance_counts_every_way_of_guessing():
    chance, right = 0.3, (1, 1, 1, 0, 1)
    expected = sum(
        chance ** sum(guesses) * (1 - chance) ** (5 - sum(guesses))
        for guesses in product((0, 1), repeat=5)
        if sum(guesses) >= sum(right)
    )
    assert Accuracy(right, chance).p_value == pytest.approx(expected)
    assert Accuracy(right, chance).above_chance is True
    assert Accuracy((0, 1), 0.5).above_chance is False
    assert Accuracy((0, 1), None).above_chance is None


def test_chance_is_guessing_unless_one_answer_is_frequent():
    assert chance_level([["a", "b"], ["c", "d", "e", "f"]], [0, 0]) == 0.375
    assert chance_level([["no", "yes"]] * 4, [1, 1, 1, 0]) == 0.75
    assert chance_level([["a", "b", "c"]] * 3, [0, 1, 2]) == pytest.approx(1 / 3)


def test_the_paired_interval_covers_as_often_as_it_says():
    random, covered = np.random.default_rng(0), 0
    for _ in range(400):
        shared = random.random((60, 2)) < (0.5, 0.7)
        dense = shared[:, 0] | shared[:, 1]  # right 85 %
        pruned = shared[:, 1]  # right 70 %
        found = paired_difference(pruned.astype(int).tolist(), dense.astype(int).tolist())
        assert found.change == pytest.approx(pruned.mean() - dense.mean())
        covered += found.low <= -0.15 <= found.high
    assert 0.92 < covered / 400 < 0.98


def test_equal_models_still_have_an_interval():
    found = paired_difference((1, 0, 1), (1, 0, 1))
    assert found.change == 0
    assert -1 <= found.low < 0 < found.high <= 1


def test_json_stands_beside_the_dense_model():
    settings = {"lm_eval": "0"}
    dense, pruned = (
        ZeroShot({"t": task([1, 1, 1, 1])}, settings),
        ZeroShot({"t": task([1, 0, 1, 0])}, settings),
    )
    found = pruned.to_json(dense)["tasks"]["t"]
    assert (found["acc"], found["acc_norm"]) == (0.5, 0.5)
    assert found["items"] == 4
    assert found["dense"]["acc"] == 1
    assert found["minus_dense"]["acc"]["change"] == -0.5
    columns, rows = zero_shot_table(pruned, dense)
    assert [row[:3] for row in rows] == [("t", "acc", "4 of 100"), ("t", "acc_norm", "4 of 100")]
    assert {len(row) for row in rows} == {len(columns)}
    assert len(zero_shot_table(dense)[1][0]) == len(zero_shot_table(dense)[0])


def test_different_items_are_not_paired():
    with pytest.raises(InputError, match="different items"):
        task([1, 0], "one").minus(task([1, 0], "other"))
