"""How long to train, and at which learning rate in each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunerzero.errors import InputError

WARM_UP = 0.05  # share of the training


@dataclass(frozen=True)
class Length:
    """Steps, seconds, or both: whichever is over first.

    Steps give the same result wherever they run, and however often they are interrupted; seconds
    give what a machine can do in them.
    """

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise InputError("fine-tuning: give a number of steps, or a time")

    def progress(self, step: int, seconds: float) -> float:
        """The share that is done, 1 or more at the end.

        Args:
            step: steps done.
            seconds: time they took. One more step must fit into what is left.
        """
        by_steps = step / self.steps if self.steps is not None else 0.0
        if self.seconds is None:
            return by_steps
        after_next = seconds + (seconds / step if step else 0.0)
        spent = 1.0 if step and after_next > self.seconds else seconds / self.seconds
        return max(by_steps, spent)


def learning_rate(peak: float, progress: float) -> float:
    """Linear warm-up, then linear decay to zero.

    Args:
        peak: the highest rate.
        progress: share of the training that is done, below 1.
    """
    if progress < WARM_UP:
        return peak * max(progress, 0.1 * WARM_UP) / WARM_UP
    return peak * (1 - progress) / (1 - WARM_UP)


@dataclass
class Rates:
    """The learning rates of a training: chosen as it goes, or those of another one.

    Attributes:
        peak: the highest rate.
        length: how long to train; unused where rates are given.
        given: the rates of another training, to train for as many steps at the same rates.
    """

    peak: float
    length: Length
    given: Sequence[float] | None = None

    def next(self, step: int, seconds: float) -> float | None:
        """The rate of the next step; None at the end.

        Args:
            step: steps done.
            seconds: time they took.
        """
        if self.given is not None:
            return self.given[step] if step < len(self.given) else None
        progress = self.length.progress(step, seconds)
        return learning_rate(self.peak, progress) if progress < 1 else None

    def done(self, step: int, seconds: float) -> tuple[int, int]:
        """How much is done, and of how much: steps where they limit the training, else seconds."""
        if self.given is not None:
            return step, len(self.given)
        steps, limit = self.length.steps, self.length.seconds
        if limit is None or (steps and step / steps > seconds / limit):
            assert steps is not None
            return step, steps
        return min(round(seconds), round(limit)), round(limit)
