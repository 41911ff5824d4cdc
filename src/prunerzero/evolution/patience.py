"""How long a candidate may take: far longer than the usual one, so that only the absurd are cut."""

from __future__ import annotations

from bisect import insort

from prunerzero.timelimit import ENDLESS, Allowance

# A candidate that climbs all rungs takes ten times the usual one, which loses at a glance; a busy
# machine makes it several times as much again.
TIMES = 100.0
LEAST = 60.0  # seconds


class Patience:
    """What a candidate is allowed, from what others took: `TIMES` the median, `LEAST` at least.

    The median, as a few that were just within what is allowed must not raise it for the next.
    """

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def note(self, seconds: float) -> None:
        """Takes note of what a measured candidate took."""
        insort(self._seconds, seconds)

    @property
    def allowance(self) -> Allowance:
        """What the next one is allowed; endless before the first, which there is no measure for."""
        if not self._seconds:
            return ENDLESS
        usual = self._seconds[len(self._seconds) // 2]
        return Allowance(max(LEAST, TIMES * usual), usual)
