"""Questions made from passages of running text: the order of sentences, and the last word.

Every choice is drawn from a hash of the passage, so that the questions are the same everywhere.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

# The end of a sentence: a full stop after a word of three small letters or more (not after an
# initial or "Mrs."), a number or a bracket, or behind a closing quotation mark; then a capital.
# It misses ends after words such as "it", which leaves two sentences in one piece: no harm.
_END = re.compile(r"(?:(?<=[a-z]{3}[.!?])|(?<=[0-9)\]][.!?])|(?<=[.!?][\"”]))\s+(?=[\"“]?[A-Z])")
_FINISHED = re.compile(r"[.!?][\"”)]?$")
_WORD = re.compile(r"[A-Za-z]{4,}")

ORDERED_SENTENCES = 3
"""Sentences after the first that a passage needs: two would leave one wrong order only."""
DISTRACTORS = 3


def complete_sentences(text: str) -> list[str]:
    """The sentences of a passage on single spaces, without a last one that breaks off."""
    sentences = _END.split(" ".join(text.split()))
    return sentences if _FINISHED.search(sentences[-1]) else sentences[:-1]


def sentence_order(passage: str) -> dict[str, Any] | None:
    """Asks which of two continuations of the first sentence is the passage's own.

    Both hold the same sentences and the same number of characters; one has them in the order of
    the passage, the other in another.

    Returns:
        ``context``, two ``choices``, the index ``answer``, and the ``passage``; None where it has
        too few sentences.
    """
    first, *rest = complete_sentences(passage) or [""]
    if len(rest) < ORDERED_SENTENCES or len(set(rest)) < len(rest):
        return None
    shuffled = sorted(rest, key=lambda sentence: _draw(passage, sentence))
    if shuffled == rest:
        shuffled = [*rest[1:], rest[0]]
    return _question(passage, first, " ".join(rest), [" ".join(shuffled)])


def last_word(passage: str) -> dict[str, Any] | None:
    """Asks for the last word of the last complete sentence.

    The other choices are words of the same passage, no shorter than four letters, with or without
    a capital like the right one, and as near to its length as there are.

    Returns:
        ``context``, four ``choices``, the index ``answer``, and the ``passage``; None where the
        sentence does not end in such a word, or the passage has too few others.
    """
    *before, last = " ".join(complete_sentences(passage)).split() or [""]
    word = last.rstrip('.!?"”)')
    if not before or not _WORD.fullmatch(word):
        return None
    others = {
        other
        for other in (one.strip('.,;:!?"“”()') for one in before)
        if _WORD.fullmatch(other)
        and other.lower() != word.lower()
        and other[0].isupper() == word[0].isupper()
    }
    nearest = sorted(others, key=lambda one: (abs(len(one) - len(word)), _draw(passage, one)))
    if len(nearest) < DISTRACTORS:
        return None
    return _question(passage, " ".join(before), word, nearest[:DISTRACTORS])


def _question(passage: str, context: str, right: str, wrong: list[str]) -> dict[str, Any]:
    choices = sorted([right, *wrong], key=lambda choice: _draw(passage, f"place {choice}"))
    return {
        "context": context,
        "choices": choices,
        "answer": choices.index(right),
        "passage": passage,
    }


def _draw(passage: str, thing: str) -> bytes:
    """A random number that belongs to one thing of one passage."""
    return hashlib.sha256(f"{thing}\n{passage}".encode("utf-8", "surrogatepass")).digest()
