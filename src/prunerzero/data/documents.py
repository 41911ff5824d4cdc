"""A document, the split of the data it may be used for, and the kind of thing it comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

DOCUMENT_SEPARATOR = "\n\n"
"""Stands between documents that are read as one text, as in the pruning papers' perplexity."""


class Split(Enum):
    """What a document may be used for (design section 2)."""

    CALIBRATION = "calibration"
    """Statistics for the pruning metric."""
    SELECTION = "selection"
    """Fitness of the search's candidates."""
    VALIDATION = "validation"
    """Which finalist wins."""
    HELDOUT = "heldout"
    """Measured at the end, for the winner and every baseline; nothing it says flows back."""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Document:
    """One text that is never divided between two splits.

    Attributes:
        text: The text, never empty.
        source: The text source it comes from: a registered name or a path.
        name: What it is within the source (a title, a file name, a line number).
        split: The split it belongs to; None until ``split_documents`` has placed it. A source that
            has splits of its own (WikiText-2's test articles) presets it.
        parts: Hashes of the documents that this one was put together from, when it was.
    """

    text: str
    source: str
    name: str
    split: Split | None = None
    parts: tuple[str, ...] = ()

    @cached_property
    def hash(self) -> str:
        """The first 16 hexadecimal digits of the text's SHA-256."""
        # "surrogatepass": JSON lines may hold lone surrogates, which strict UTF-8 refuses.
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def hashes(self) -> tuple[str, ...]:
        """Hashes of the documents whose text this is: its parts, or itself."""
        return self.parts or (self.hash,)


@dataclass(frozen=True)
class TextSource:
    """A text source that users name; registered in ``prunerzero.data.sources``.

    Attributes:
        name: The name on the command line.
        description: What it is, for listings.
        load: Returns its documents, in a fixed order; raises InputError if it cannot be had.
    """

    name: str
    description: str
    load: Callable[[], list[Document]]


def deduplicate(documents: Iterable[Document]) -> list[Document]:
    """Keeps the first of documents with the same text, in order.

    Without this, one text could lie in two splits.
    """
    first: dict[str, Document] = {}
    for document in documents:
        first.setdefault(document.hash, document)
    return list(first.values())


def common_split(documents: Sequence[Document]) -> Split | None:
    """Returns the split of the documents, None when they differ or have none."""
    splits = {document.split for document in documents}
    return splits.pop() if len(splits) == 1 else None
