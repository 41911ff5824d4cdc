"""A time limit on a piece of work, which is looked at between its parts.

Nothing is interrupted: long work calls `check_time` wherever it may stop, and for whoever set no
limit that does nothing. Threads of `prunerzero.threads` share the limit of whoever called them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from prunerzero.errors import TooSlow


@dataclass(frozen=True)
class Allowance:
    """The time that a piece of work may take.

    Attributes:
        seconds: how long.
        usual: what such work usually takes; 0 where that is not known.
    """

    seconds: float = math.inf
    usual: float = 0.0

    def __str__(self) -> str:
        if not self.usual:
            return f"{self.seconds:.3g} s"
        times = self.seconds / self.usual
        return f"{self.seconds:.3g} s, {times:.3g} times the usual {self.usual:.2g} s"


ENDLESS = Allowance()

_ends: ContextVar[tuple[float, Allowance] | None] = ContextVar("ends", default=None)


@contextmanager
def time_limit(allowance: Allowance) -> Iterator[None]:
    """Lets `check_time` raise once the work in this context has taken longer than allowed."""
    token = _ends.set((time.monotonic() + allowance.seconds, allowance))
    try:
        yield
    finally:
        _ends.reset(token)


def check_time() -> None:
    """Returns while there is time.

    Raises:
        TooSlow: it is over.
    """
    ends = _ends.get()
    if ends is not None and time.monotonic() > ends[0]:
        raise TooSlow(f"took more than {ends[1]}")
