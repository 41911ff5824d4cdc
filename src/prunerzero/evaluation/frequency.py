"""Rare and common tokens: what pruning does to each quarter of a text's tokens by frequency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from prunerzero.data.documents import Document
from prunerzero.data.windows import encode
from prunerzero.evaluation.perplexity import (
    Interval,
    mean_estimate,
    perplexity_of,
    relative_change,
)
from prunerzero.evaluation.tokens import TokenReadings

BANDS = ("rarest", "rare", "common", "most common")


@dataclass(frozen=True)
class FrequencyBand:
    """Both models' perplexity on tokens of one quarter of frequency.

    Attributes:
        name: one of `BANDS`.
        kinds: different tokens of the vocabulary in it, those never seen among the rarest.
        least: how often its least frequent token occurs in the text that was counted.
        most: how often its most frequent one does.
        tokens: tokens scored.
        dense_perplexity: the dense model's; None where no token was scored, as the next two.
        perplexity: the model's.
        change: perplexity against the dense model's, with its interval.
    """

    name: str
    kinds: int
    least: int
    most: int
    tokens: int
    dense_perplexity: float | None
    perplexity: float | None
    change: Interval | None

    def to_json(self) -> dict[str, Any]:
        """The band as a JSON-serialisable dictionary."""
        return asdict(self)


def token_counts(documents: Sequence[Document], tokenizer: Any, vocabulary: int) -> Tensor:
    """How often each token occurs in documents, LongTensor ``[vocabulary]``."""
    counts = torch.zeros(vocabulary, dtype=torch.int64)
    for document in documents:
        counts += torch.bincount(encode(tokenizer, document.text), minlength=vocabulary)
    return counts


def frequency_bands(counts: Tensor) -> Tensor:
    """The quarter of frequency that each token is in.

    The vocabulary is ordered by count and cut where a quarter, half and three quarters of all
    *occurrences* lie below, so that each band is about as much text; cut by kinds of tokens, three
    bands would be tokens that hardly occur. Tokens of one count are in one band: that of the middle
    of their occurrences.

    Args:
        counts: occurrences of each token ``[vocabulary]``, not all 0.

    Returns:
        LongTensor ``[vocabulary]``: 0 for the rarest to 3.
    """
    values, inverse, kinds = torch.unique(counts, return_inverse=True, return_counts=True)
    occurrences = (values * kinds).double()
    middle = (occurrences.cumsum(0) - occurrences / 2) / occurrences.sum()
    return (len(BANDS) * middle).long().clamp(max=len(BANDS) - 1)[inverse]


def by_frequency(
    readings: TokenReadings, counts: Tensor, seed: int = 0
) -> tuple[FrequencyBand, ...]:
    """Both models' perplexities by band.

    Args:
        readings: of both models, on windows of any texts.
        counts: occurrences of each token ``[vocabulary]``.
        seed: of the intervals' resampling.
    """
    bands = frequency_bands(counts)
    scored = bands[readings.targets]
    return tuple(
        _band(name, counts[bands == index], scored == index, readings, seed)
        for index, name in enumerate(BANDS)
    )


def _band(
    name: str, counts: Tensor, chosen: Tensor, readings: TokenReadings, seed: int
) -> FrequencyBand:
    tokens = int(chosen.sum())
    least, most = (int(counts.min()), int(counts.max())) if len(counts) else (0, 0)
    if not tokens:
        return FrequencyBand(name, len(counts), least, most, 0, None, None, None)
    difference = (readings.losses - readings.dense_losses).double() * chosen
    found = mean_estimate(difference.sum(1).tolist(), chosen.sum(1).tolist(), seed=seed)
    return FrequencyBand(
        name=name,
        kinds=len(counts),
        least=least,
        most=most,
        tokens=tokens,
        dense_perplexity=perplexity_of(float(readings.dense_losses[chosen].double().mean())),
        perplexity=perplexity_of(float(readings.losses[chosen].double().mean())),
        change=relative_change(found),
    )
