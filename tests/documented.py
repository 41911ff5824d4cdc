"""The commands that README and docs show, as the reader would type them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
# What a comment behind a command may say instead of the command being run.
MARKS = ("needs internet", "needs a GPU", "needs docker", "needs a cluster")


class Command(NamedTuple):
    """One command of a page.

    Attributes:
        page: the page's path below the root.
        line: its line there.
        words: the command, split as a shell does.
        comment: what stands behind ``#``.
    """

    page: str
    line: int
    words: tuple[str, ...]
    comment: str

    @property
    def marked(self) -> bool:
        """Whether the comment says that it needs what CI does not have."""
        return any(mark in self.comment for mark in MARKS)

    @property
    def usage(self) -> bool:
        """Whether it shows a form, with parts to choose or fill in."""
        return any("[" in word or re.fullmatch(r"[A-Z][A-Z0-9.]*", word) for word in self.words)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


def commands() -> list[Command]:
    """The commands in the ``console`` blocks of all pages."""
    return [command for page in PAGES for command in _of(page)]


def _of(page: Path) -> Iterator[Command]:
    inside, begun = False, ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside and line.strip() == "```console"
            continue
        if not inside:
            continue
        begun += line.strip()
        if begun.endswith("\\"):
            begun = begun[:-1]
            continue
        whole, begun = begun, ""
        # Output that a block may show after its command starts with the program's name and a colon.
        if not whole or whole.startswith(("#", "prunerzero: ")):
            continue
        lexer = shlex.shlex(whole, posix=True, punctuation_chars=False)
        lexer.whitespace_split, lexer.commenters = True, ""
        words = list(lexer)
        while words and re.match(r"[A-Z_]+=", words[0]):  # an environment of its own
            words.pop(0)
        at = next((i for i, word in enumerate(words) if word.startswith("#")), len(words))
        yield Command(str(page.relative_to(ROOT)), number, tuple(words[:at]), " ".join(words[at:]))
