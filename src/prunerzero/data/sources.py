"""Text sources by name or path."""

from __future__ import annotations

import os
from pathlib import Path

from prunerzero.data import bundled, hub, local, written
from prunerzero.data.documents import Benchmark, Document, TextSource, deduplicate
from prunerzero.data.splits import Split, documents_of, split_documents
from prunerzero.errors import InputError
from prunerzero.suggestions import did_you_mean

__all__ = [
    "SOURCES",
    "Document",
    "TextSource",
    "benchmark_of",
    "evaluation_documents",
    "is_named",
    "load_documents",
    "register",
    "text_name",
]

SOURCES: dict[str, TextSource] = {}
"""The named sources. To add one, write a TextSource and register it."""


def register(source: TextSource) -> None:
    """Makes a source available by its name."""
    SOURCES[source.name] = source


for _source in (
    bundled.WIKIPEDIA,
    bundled.NEWS,
    bundled.OPENWEBTEXT,
    bundled.WIKIPEDIA_PASSAGES,
    bundled.WEB,
    hub.WIKITEXT2,
    hub.PTB,
    hub.C4,
    written.SELF,
):
    register(_source)


def load_documents(source: str | Path) -> list[Document]:
    """Loads all documents of a source, without duplicates.

    Args:
        source: A registered name, several of them (``wikipedia+web``), or the path of a text file,
            a ``.jsonl`` file with a field ``text``, or a directory of ``.txt`` files. A name wins
            over a file of that name; write ``./name`` for the file.

    Raises:
        InputError: The source is unknown, cannot be had, or is no usable text.
    """
    named = _named(source)
    return deduplicate(named.load() if named else local.read_documents(_existing(source)))


def evaluation_documents(source: str | Path) -> list[Document]:
    """Loads what an evaluation reads: a file as a whole, a named source's held-out documents.

    Those of a benchmark are what the papers read, to the letter: a page that C4 holds twice stays.

    Args:
        source: As for ``load_documents``.

    Raises:
        InputError: The source is unknown, cannot be had, or is no usable text.
    """
    named = _named(source)
    if named and named.benchmark:
        return [document for document in named.load() if document.split is Split.HELDOUT]
    if named:
        return documents_of(load_documents(source), Split.HELDOUT)
    return local.read_whole(_existing(source))


def text_name(source: str | Path) -> str:
    """Returns what reports call a source: its name, or its file name without directories."""
    return str(source) if _named(source) else Path(os.path.abspath(source)).name


def benchmark_of(source: str | Path) -> Benchmark | None:
    """How papers read this text for a perplexity; None if they do not."""
    named = _named(source)
    return named.benchmark if named else None


def is_named(source: str | Path) -> bool:
    """Whether this is a registered source, or several, whose documents have splits."""
    return _named(source) is not None


def _named(source: str | Path) -> TextSource | None:
    if not isinstance(source, str):
        return None
    parts = [SOURCES.get(name) for name in source.split("+")]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    if len(known) == 1:
        return known[0]
    names = ", ".join(part.name for part in known)
    return TextSource(source, f"{names} together", lambda: _together(known))


def _together(sources: list[TextSource]) -> list[Document]:
    """The documents of several sources; each stays in the split that it has in its own."""
    return [
        document
        for source in sources
        for documents in split_documents(deduplicate(source.load())).values()
        for document in documents
    ]


def _existing(source: str | Path) -> Path:
    path = Path(source)
    if str(source) and path.exists():
        return path
    raise InputError(
        f"text '{source}': no such file, and no text source of that name; "
        f"the sources are {', '.join(SOURCES)}{did_you_mean(str(source), SOURCES)}"
    )
