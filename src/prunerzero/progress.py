"""How long steps tell their caller where they are."""

from __future__ import annotations

from collections.abc import Callable

Advance = Callable[[int], None]
"""Called with the number of parts of one step that are done."""

Report = Callable[[str, int, int], None]
"""Called with a step's name, the number of its parts that are done, and of all its parts."""


def advance_of(report: Report, step: str, total: int) -> Advance:
    """Reports the parts of one step that are done."""
    return lambda done: report(step, done, total)


def silent(*_: object) -> None:
    """Reports nothing: the default of both kinds of callback."""
