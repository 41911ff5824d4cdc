import pytest

from prunerzero.errors import InputError
from prunerzero.finetuning.schedule import Length, Rates, learning_rate


def test_the_rate_rises_then_falls_to_zero():
    rates = Rates(1.0, Length(steps=100))
    found = [rates.next(step, 0.0) for step in range(101)]
    assert found[-1] is None
    assert 0 < found[0] < found[3] < found[5] == 1.0
    assert found[5:100] == sorted(found[5:100], reverse=True)
    assert 0 < found[99] < 0.02
    assert learning_rate(2.0, 0.525) == pytest.approx(1.0)


def test_time_ends_before_a_step_that_would_not_fit():
    rates = Rates(1.0, Length(seconds=10.0))
    assert rates.next(0, 0.0) is not None
    assert rates.next(3, 6.0) is not None  # 2 s a step
    assert rates.next(4, 8.5) is None
    assert rates.done(3, 6.0) == (6, 10)
    assert Rates(1.0, Length(steps=1, seconds=1e-9)).next(0, 0.0) is not None  # one step always


def test_whichever_is_over_first_ends_it():
    both = Rates(1.0, Length(steps=4, seconds=100.0))
    assert both.next(4, 1.0) is None
    assert both.next(1, 99.5) is None
    assert both.done(2, 3.0) == (2, 4)
    with pytest.raises(InputError, match="give a number of steps"):
        Length()


def test_another_trainings_rates_are_repeated():
    rates = Rates(1.0, Length(seconds=1.0), [0.3, 0.2])
    assert [rates.next(step, 50.0) for step in range(3)] == [0.3, 0.2, None]
    assert rates.done(1, 50.0) == (1, 2)
