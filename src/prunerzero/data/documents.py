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
class Benchmark:
    """How the pruning papers read a text whose perplexity they publish.

    Its held-out documents are joined in their order, tokenised as one text with the special tokens
    that the tokenizer adds by default, and cut into consecutive windows. Read in ``datautils.py``
    of github.com/IST-DASLab/sparsegpt and ``lib/data.py`` of github.com/locuslab/wanda.

    Attributes:
        separator: Stands between the documents.
        most_windows: So many windows from the start are used; None for all.
    """

    separator: str
    most_windows: int | None = None


@dataclass(frozen=True)
class TextSource:
    """A text source that users name; registered in ``prunerzero.data.sources``.

    Attributes:
        name: The name on the command line.
        description: What it is, for listings.
        load: Returns its documents, in a fixed order; raises InputError if it cannot be had.
        benchmark: How papers read its held-out documents for a perplexity; None for texts that no
            paper measures on.
    """

    name: str
    description: str
    load: Callable[[], list[Document]]
    benchmark: Benchmark | None = None


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
