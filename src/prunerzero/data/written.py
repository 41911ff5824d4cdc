"""The text source ``self``: what the model that is pruned writes itself.

A source has no model; whoever has one lends it by `lend`, and within that context ``self`` is a
source like any other, alone or in ``wikipedia+self``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from prunerzero.data.documents import Document, TextSource
from prunerzero.errors import InputError

NAME = "self"

_writer: ContextVar[Callable[[], list[str]] | None] = ContextVar("writer", default=None)


@contextmanager
def lend(write: Callable[[], list[str]]) -> Iterator[None]:
    """Makes ``self`` a usable source.

    Args:
        write: returns the texts; called only if the source is read.
    """
    before = _writer.set(write)
    try:
        yield
    finally:
        _writer.reset(before)


def without_self(source: str | Path) -> str | Path | None:
    """The part of a source that can be read without a model; None where there is none."""
    if not isinstance(source, str):
        return source
    return "+".join(part for part in source.split("+") if part != NAME) or None


def _load() -> list[Document]:
    write = _writer.get()
    if write is None:
        raise InputError(
            f"text '{NAME}': is written by the model that is pruned, in memory, so it is for "
            "--calibration of `prune` and `compare` only, without --stream; give another here"
        )
    return [
        Document(text, NAME, f"{NAME} {number}")
        for number, text in enumerate(write(), 1)
        if text.strip()
    ]


SELF = TextSource(NAME, "what the model writes itself (to calibrate on)", _load)
