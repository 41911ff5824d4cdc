"""Text sources from the Hugging Face hub, through `datasets`: they need internet once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from prunerzero.data.documents import DOCUMENT_SEPARATOR, Document, Split, TextSource
from prunerzero.errors import InputError, MissingExtraError

C4_DOCUMENTS = 10_000
"""Pages taken of the first shard of C4 (of 356 thousand): far more than any run reads."""

_ARTICLE_TITLE = re.compile(r" = [^=]+ = \n")


def _load_dataset(source: str, *args: str, **options: Any) -> Any:
    try:
        from datasets import load_dataset
    except ImportError:
        raise MissingExtraError("datasets", f"text source '{source}'") from None
    try:
        return load_dataset(*args, **options)
    except Exception as error:  # the hub and its client fail in many ways, none of them ours
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise InputError(
            f"text source '{source}': cannot be had from the Hugging Face hub ({reason}); "
            "it needs internet once, the sources in `prunerzero assets` do not"
        ) from None


def _wikitext2() -> list[Document]:
    """Its own validation and test splits keep their roles; its train split is shared out."""
    splits = _load_dataset("wikitext2", "Salesforce/wikitext", "wikitext-2-raw-v1")
    # The test split comes first because of documents with the same text the first is kept.
    roles = {"test": Split.HELDOUT, "validation": Split.VALIDATION, "train": None}
    return [
        Document(text, "wikitext2", f"{native}, article {number}", split)
        for native, split in roles.items()
        for number, text in enumerate(_articles(splits[native]["text"]), 1)
    ]


def _articles(rows: Iterable[str]) -> list[str]:
    """Joins rows (paragraphs, titles, blanks) to articles.

    Joined by the separator in their turn, the articles of the test split are the very string whose
    perplexity the pruning papers report: all rows, joined by that separator.
    """
    articles: list[list[str]] = []
    for row in rows:
        if not articles or (_ARTICLE_TITLE.fullmatch(row) and any(articles[-1])):
            articles.append([])
        articles[-1].append(row)
    return [DOCUMENT_SEPARATOR.join(article) for article in articles]


def _c4() -> list[Document]:
    pages = _load_dataset(
        "c4",
        "allenai/c4",
        data_files={"train": "en/c4-train.00000-of-01024.json.gz"},
        split=f"train[:{C4_DOCUMENTS}]",
    )
    return [Document(text, "c4", f"page {n}") for n, text in enumerate(pages["text"], 1)]


WIKITEXT2 = TextSource("wikitext2", "WikiText-2, raw (hub)", _wikitext2)
C4 = TextSource("c4", f"{C4_DOCUMENTS:,} web pages of C4's first shard (hub)", _c4)
