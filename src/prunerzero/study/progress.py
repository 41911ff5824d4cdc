"""What the rows of a study say about how far the search has come."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from prunerzero.study.records import Candidate, Event


def closing_winner(starts: Sequence[Event], closings: Sequence[Event]) -> int | None:
    """The candidate that won on validation text, if the search was closed last of all.

    Args:
        starts: Events of the kind ``session-start``.
        closings: Events of the kind ``heldout``.
    """
    started = max((event.id for event in starts), default=0)
    for event in reversed(closings):
        winner = event.data.get("winner") if isinstance(event.data, dict) else None
        if event.id > started and isinstance(winner, int):
            return winner
    return None


def improvements(rows: Iterable[Candidate]) -> Iterator[Candidate]:
    """The candidates that were better than all before them, in order."""
    lowest = math.inf
    for row in rows:
        if row.fitness is not None and row.fitness < lowest:
            lowest = row.fitness
            yield row


def pareto_front(evaluated: Iterable[Candidate]) -> list[Candidate]:
    """Those that are better than every shorter one, shortest first."""
    return list(improvements(sorted(evaluated, key=lambda row: (row.size, row.fitness or 0.0))))
