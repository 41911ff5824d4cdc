import math
from random import Random

from prunerzero.evolution.patience import LEAST, TIMES, Patience


def test_the_first_has_no_limit():
    assert math.isinf(Patience().allowance.seconds)


def test_a_hundred_times_the_median_and_a_minute_at_least():
    patience = Patience()
    patience.note(0.01)
    assert (patience.allowance.seconds, patience.allowance.usual) == (LEAST, 0.01)
    seconds = [float(number) for number in range(2, 100)]
    Random(0).shuffle(seconds)
    for one in seconds:
        patience.note(one)
    usual = patience.allowance.usual
    assert usual == sorted([0.01, *seconds])[49]
    assert patience.allowance.seconds == TIMES * usual


def test_what_was_just_allowed_allows_the_next_no_more():
    patience = Patience()
    for _ in range(3):
        patience.note(1.0)
    patience.note(0.99 * patience.allowance.seconds)
    patience.note(0.99 * patience.allowance.seconds)
    assert patience.allowance.seconds == TIMES
