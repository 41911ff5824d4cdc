"""Plain text of the articles in a MediaWiki XML dump."""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

MIN_CHARACTERS = 2_000
"""Shorter articles are stubs and disambiguation pages: lists of links, hardly running text."""

# A reference never nests, and an article may hold hundreds: cutting them (and comments) out of the
# source first makes the real parse five times cheaper.
_REFERENCE = re.compile(
    r"<!--.*?-->|<ref\b[^>]*?/>|<ref\b[^>]*>.*?</ref\s*>", re.DOTALL | re.IGNORECASE
)
# The lists of books and links that close an article are not prose; everything after them
# (navigation boxes, categories) goes with them.
_BACK_MATTER = re.compile(
    r"^==\s*(see also|references|external links|further reading|bibliography|notes|footnotes|"
    r"citations|works cited|notes and references|references and notes)\s*==\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_DROPPED_TAGS = frozenset(
    {"table", "gallery", "math", "timeline", "code", "source", "syntaxhighlight", "pre"}
    | {"score", "imagemap", "chem"}
)
_DROPPED_LINKS = frozenset({"file", "image", "category"})
# Dropped templates leave "( ; )" and "(, " behind.
_EMPTY_BRACKETS = re.compile(r"\s*\(\s*[,;:\s]*\)")
_BRACKET_START = re.compile(r"\(\s*[,;]\s*")
# What a table or link that its author did not close leaves at the start of a line.
_STRAY_MARKUP = ("{|", "|", "!", "[[")


def articles(dump: Path) -> Iterator[tuple[str, str]]:
    """Yields title and plain text of each real article of a dump, in the dump's order.

    Redirects, other namespaces, disambiguation pages and articles of less than
    ``MIN_CHARACTERS`` are skipped.

    Args:
        dump: A ``pages-articles`` file, XML compressed by bzip2.
    """
    for title, wikitext in _pages(dump):
        if title.endswith("(disambiguation)"):
            continue
        text = strip_markup(wikitext)
        if len(text) >= MIN_CHARACTERS:
            yield title, text


def strip_markup(wikitext: str) -> str:
    """Returns the prose of an article: no templates, tables, references, captions, link lists."""
    import mwparserfromhell

    wikitext = _REFERENCE.sub("", wikitext)
    end = _BACK_MATTER.search(wikitext)
    code = mwparserfromhell.parse(wikitext[: end.start()] if end else wikitext)
    for node in code.filter(matches=_is_dropped):
        with suppress(ValueError):  # it lies inside a node that is gone already
            code.remove(node)
    return _tidy(code.strip_code())


def _pages(dump: Path) -> Iterator[tuple[str, str]]:
    with bz2.open(dump) as stream:
        for _, element in ElementTree.iterparse(stream):
            namespace, _, tag = element.tag.rpartition("}")
            if tag != "page":
                continue
            prefix = f"{namespace}}}"
            is_article = element.findtext(f"{prefix}ns") == "0"
            if is_article and element.find(f"{prefix}redirect") is None:
                title = element.findtext(f"{prefix}title") or ""
                yield title, element.findtext(f"{prefix}revision/{prefix}text") or ""
            element.clear()


def _is_dropped(node: object) -> bool:
    from mwparserfromhell.nodes import Tag, Wikilink

    if isinstance(node, Tag):
        return str(node.tag).strip().lower() in _DROPPED_TAGS
    if isinstance(node, Wikilink):
        namespace, colon, _ = str(node.title).partition(":")
        return bool(colon) and namespace.strip().lower() in _DROPPED_LINKS
    return False


def _tidy(text: str) -> str:
    text = _BRACKET_START.sub("(", _EMPTY_BRACKETS.sub("", text.replace("''", "")))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    # A line without a letter or digit is what a dropped template left of a list item.
    lines = [
        line if any(map(str.isalnum, line)) and not line.startswith(_STRAY_MARKUP) else ""
        for line in lines
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
