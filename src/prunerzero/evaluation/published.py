"""Perplexities that papers published, to stand beside one's own: ``published.json``.

A perplexity depends on the context length at least as much as on the method, so values of another
context are never given for comparison.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePath
from typing import Any

DENSE = "dense"


@dataclass(frozen=True)
class PublishedValue:
    """One perplexity from one table.

    Attributes:
        model: the paper's name of the model, with its size.
        pattern: as `Pattern` writes it, or ``dense``.
        method: the zoo's name of it where it has one.
        dataset: name of the text source.
        context: tokens in a window.
        value: the perplexity.
        source: the paper, and its table where that is known.
        read_in: where the value was read.
        checked: whether it was read in a publication of its authors, rather than quoted by others
            (``read_in`` says by whom).
    """

    model: str
    pattern: str
    method: str
    dataset: str
    context: int
    value: float
    source: str
    read_in: str
    checked: bool

    def to_json(self) -> dict[str, Any]:
        """The value as a JSON-serialisable dictionary."""
        return asdict(self)


def published_values(
    models: Iterable[str], dataset: str, context: int, pattern: str | None = None
) -> list[PublishedValue]:
    """What was published for a model, best first.

    Args:
        models: names that the model goes by: hub ids, paths, a configuration's ``_name_or_path``;
            what counts is their last part.
        dataset: name of the text source.
        context: tokens in a window.
        pattern: of the pruned model, ``dense``, or None for all.
    """
    found = [
        value
        for value in _of_models(models)
        if (value.dataset, value.context) == (dataset, context) and pattern in (None, value.pattern)
    ]
    return sorted(found, key=lambda value: (value.pattern, value.value))


def published_contexts(models: Iterable[str], dataset: str) -> list[int]:
    """Context lengths at which something was published for a model on a text."""
    return sorted({value.context for value in _of_models(models) if value.dataset == dataset})


def _of_models(models: Iterable[str]) -> list[PublishedValue]:
    wanted = {PurePath(name).name.lower() for name in models}
    return [value for value, names in _table() if wanted & names]


@cache
def _table() -> list[tuple[PublishedValue, frozenset[str]]]:
    text = (files("prunerzero.evaluation") / "published.json").read_text(encoding="utf-8")
    document = json.loads(text)
    return [
        (
            PublishedValue(
                model=model,
                pattern=pattern,
                method=method,
                value=value,
                **table["common"],
            ),
            frozenset(document["models"][model]),
        )
        for table in document["tables"]
        for pattern, methods in table["values"].items()
        for method, values in methods.items()
        for model, value in zip(table["models"], values, strict=True)
        if value is not None
    ]
