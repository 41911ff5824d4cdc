"""Splits by document: calibration, selection, validation, held-out (design section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from prunerzero.data.documents import Document, Split
from prunerzero.errors import InputError

__all__ = ["SHARES", "Split", "documents_of", "hashes_of", "split_documents"]

SHARES: dict[Split, Fraction] = {
    Split.CALIBRATION: Fraction(30, 100),
    Split.SELECTION: Fraction(30, 100),
    Split.VALIDATION: Fraction(15, 100),
    Split.HELDOUT: Fraction(25, 100),
}
"""Share of a source's characters that each split is to hold.

Calibration and selection are what a search draws windows from again and again, so they are the
largest. Held-out text decides what is reported, so it is larger than validation, which only ranks a
handful of finalists."""


def split_documents(documents: Sequence[Document]) -> dict[Split, list[Document]]:
    """Divides documents over the four splits.

    The documents are taken in the order of their hashes, each going to the split that is furthest
    below its share of the characters. So the result depends on nothing but the set of texts (not on
    their order, nor on a seed); every split gets at least one of four documents or more; and
    a document of most of the source's text fills one split only.

    A document whose ``split`` is set stays there; the others are shared out among the splits that
    no document was set for.

    Args:
        documents: Documents of one source, without duplicates.

    Returns:
        For each split its documents, in the given order and with ``split`` set. Documents that all
        had theirs are only sorted into it; then some splits may be empty.

    Raises:
        InputError: There are fewer documents than splits to fill.
    """
    if not documents:
        raise InputError("no documents to split")
    preset = {document.split for document in documents if document.split}
    free = [document for document in documents if document.split is None]
    to_fill = [split for split in Split if split not in preset] or list(Split)
    if free and len(free) < len(to_fill):
        raise InputError(
            f"text {documents[0].source}: too short to be split by document: {len(free)} "
            f"document{'s' if len(free) > 1 else ''} for {', '.join(map(str, to_fill))}; "
            f"at least {len(to_fill)} are needed"
        )
    characters = dict.fromkeys(to_fill, 0)
    chosen: dict[str, Split] = {}
    for document in sorted(free, key=lambda document: document.hash):
        split = min(to_fill, key=lambda split: characters[split] / SHARES[split])
        characters[split] += len(document.text)
        chosen[document.hash] = split
    result: dict[Split, list[Document]] = {split: [] for split in Split}
    for document in documents:
        split = document.split or chosen[document.hash]
        result[split].append(replace(document, split=split))
    return result


def documents_of(documents: Sequence[Document], split: Split | None) -> list[Document]:
    """Returns the documents of one split, all of them for ``split=None``.

    Raises:
        InputError: There are too few documents to split, or none of that split.
    """
    if split is None:
        return list(documents)
    chosen = split_documents(documents)[split]
    if not chosen:
        raise InputError(f"text {documents[0].source}: no documents of the {split} split")
    return chosen


def hashes_of(documents: Sequence[Document], *splits: Split) -> frozenset[str]:
    """Returns the hashes of the documents of some splits: what a model that used them has seen.

    Raises:
        InputError: There are too few documents to split, or none of one of these splits.
    """
    return frozenset(
        name
        for split in splits
        for document in documents_of(documents, split)
        for name in document.hashes
    )
