"""Which patterns the order of channels matters to; known before torch is imported."""

from __future__ import annotations

from prunerzero.errors import InputError
from prunerzero.pruning.pattern import Pattern


def check_permutable(pattern: Pattern) -> None:
    """Checks that an order of channels matters.

    Raises:
        InputError: the pattern is unstructured.
    """
    if not pattern.is_nm:
        raise InputError(
            f"permutation: {pattern} ranks whole rows, so the order of channels does not matter; "
            "it is for N:M patterns such as 2:4"
        )
