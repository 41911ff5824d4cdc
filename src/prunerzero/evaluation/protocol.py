"""What a perplexity was measured on, in the words that make it comparable with another's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from prunerzero.data.documents import DOCUMENT_SEPARATOR
from prunerzero.data.sources import benchmark_of, is_named


@dataclass(frozen=True)
class Protocol:
    """How a text becomes the windows whose tokens are scored.

    Every window is scored on its own and its first token is context only, so that a prediction has
    at most ``context - 1`` tokens before it.

    Attributes:
        context: tokens in a window.
        part: which part of the text is read.
        windows: ``consecutive`` ones from its start, or ``drawn`` at random.
        most_windows: how many of the consecutive ones are used; None for all.
        separator: what stands between documents that are read as one text.
        special_tokens: whether the tokenizer adds its special tokens, once before the whole text.
    """

    context: int
    part: Literal["whole", "held-out"]
    windows: Literal["consecutive", "drawn"]
    most_windows: int | None = None
    separator: str = DOCUMENT_SEPARATOR
    special_tokens: bool = False

    def to_json(self) -> dict[str, Any]:
        """The protocol as a JSON-serialisable dictionary."""
        return asdict(self)

    def __str__(self) -> str:
        some = f"the first {self.most_windows} " if self.most_windows else ""
        part = "the whole text" if self.part == "whole" else "held-out documents"
        return (
            f"{some}{self.windows} windows of {self.context} tokens of {part}, joined by "
            f"{self.separator!r}, {'with' if self.special_tokens else 'no'} special tokens"
        )


def protocol_of(text: str | Path, context: int) -> Protocol:
    """The protocol of a text: the papers' own for those that they publish values on."""
    benchmark = benchmark_of(text)
    if benchmark is not None:
        return Protocol(
            context,
            "held-out",
            "consecutive",
            benchmark.most_windows,
            benchmark.separator,
            special_tokens=True,
        )
    if is_named(text):
        return Protocol(context, "held-out", "drawn")
    return Protocol(context, "whole", "consecutive")
