"""Text sources that are read from the demo assets, so without a model hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from prunerzero.data import wikipedia
from prunerzero.data.assets import ASSETS, asset_path
from prunerzero.data.documents import Document, TextSource
from prunerzero.files import cache_dir, read_json, write_json


def _wikipedia() -> list[Document]:
    """Stripping the markup takes seconds, so the plain text is cached."""
    cache = cache_dir() / "text" / f"wikipedia-{ASSETS['wikipedia'].sha256[:8]}-v1.json"
    if not cache.exists():
        write_json(cache, list(wikipedia.articles(asset_path("wikipedia"))))
    pairs = read_json(cache, "cached text")
    return [Document(text, "wikipedia", title) for title, text in pairs]


def _news() -> list[Document]:
    lines = asset_path("news").read_text(encoding="utf-8").splitlines()
    return _numbered("news", lines)


def _openwebtext() -> list[Document]:
    # Key "0" is the passage, the other keys are shufflings of it.
    return _numbered("openwebtext", (row["0"] for row in _rows("openwebtext")))


def _wikipedia_passages() -> list[Document]:
    return _numbered("wikipedia-passages", (row["0"] for row in _rows("wikipedia-passages")))


def _web() -> list[Document]:
    rows = _rows("web")
    return _numbered("web", (row["text"] for row in rows if row["type"] in ("c4", "oscar")))


def _rows(asset: str) -> Iterator[dict[str, Any]]:
    with asset_path(asset).open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _numbered(source: str, texts: Iterable[str]) -> list[Document]:
    return [
        Document(text.strip(), source, f"{source} {number}")
        for number, text in enumerate(texts, 1)
        if text.strip()
    ]


WIKIPEDIA = TextSource("wikipedia", "94 articles of the English Wikipedia", _wikipedia)
NEWS = TextSource("news", "293 Australian news stories of 2001", _news)
OPENWEBTEXT = TextSource("openwebtext", "1,000 passages of web pages, OpenWebText", _openwebtext)
WIKIPEDIA_PASSAGES = TextSource(
    "wikipedia-passages", "1,000 short passages of Wikipedia", _wikipedia_passages
)
WEB = TextSource("web", "100 web pages of C4 and OSCAR", _web)

DOMAINS = ("wikipedia", "openwebtext", "news", "web")
"""Texts of different kinds, for evaluations by domain: encyclopaedia, two of web pages, press."""
