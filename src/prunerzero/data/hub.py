"""Text sources from the Hugging Face hub, through `datasets`: they need internet once.

`datasets` prefers a directory of the data set's name, so a copy of the files below the working
directory (``Salesforce/wikitext/...``) serves where there is no internet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from prunerzero.data.documents import (
    DOCUMENT_SEPARATOR,
    Benchmark,
    Document,
    Split,
    TextSource,
)
from prunerzero.errors import InputError, MissingExtraError

C4_DOCUMENTS = 10_000
"""Pages taken of C4's first training shard (of 356 thousand): far more than any run reads."""

C4_HELDOUT = 1_100
"""Pages of its first validation shard, of which the papers measure the first 256 windows."""

PTB_SENTENCES = 40
"""Penn Treebank comes as sentences without their articles; so many are one document."""

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


def _ptb() -> list[Document]:
    """Its own splits keep their roles, as WikiText-2's do."""
    # The repository holds a script, which `datasets` no longer runs; the hub keeps its output.
    place = {"revision": "refs/convert/parquet"}
    splits = _load_dataset("ptb", "ptb-text-only/ptb_text_only", **place)
    roles = {"test": Split.HELDOUT, "validation": Split.VALIDATION, "train": None}
    return [
        Document(" ".join(sentences), "ptb", f"{native}, sentences from {start}", split)
        for native, split in roles.items()
        for start, sentences in _groups(list(splits[native]["sentence"]), PTB_SENTENCES)
    ]


def _groups(rows: list[str], size: int) -> Iterator[tuple[int, list[str]]]:
    for start in range(0, len(rows), size):
        yield start + 1, rows[start : start + size]


def _c4() -> list[Document]:
    """Held-out are pages of the validation shard; those of the training shard are shared out."""
    parts = {
        "validation": ("en/c4-validation.00000-of-00008.json.gz", C4_HELDOUT, Split.HELDOUT),
        "train": ("en/c4-train.00000-of-01024.json.gz", C4_DOCUMENTS, None),
    }
    documents = []
    for native, (file, count, split) in parts.items():
        data_files = {native: file}
        part = f"{native}[:{count}]"
        pages = _load_dataset("c4", "allenai/c4", data_files=data_files, split=part)
        documents += [
            Document(text, "c4", f"{native}, page {number}", split)
            for number, text in enumerate(pages["text"], 1)
        ]
    return documents


WIKITEXT2 = TextSource(
    "wikitext2", "WikiText-2, raw (hub)", _wikitext2, Benchmark(DOCUMENT_SEPARATOR)
)
PTB = TextSource("ptb", "Penn Treebank, text only (hub)", _ptb, Benchmark(" "))
C4 = TextSource(
    "c4",
    f"C4: {C4_DOCUMENTS:,} web pages of its training part, {C4_HELDOUT:,} held out (hub)",
    _c4,
    Benchmark(" ", most_windows=256),
)
