"""What the best candidates have more often than all: one test a feature."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from prunerzero.analysis.features import Feature
from prunerzero.analysis.inference import benjamini_hochberg

BEST_SHARE = 0.1
FEWEST = 3  # a feature of fewer candidates is not tested: it could not be significant


class Enrichment(NamedTuple):
    """How often a feature is among the best candidates, and among all distinct ones.

    Attributes:
        kind: the feature's kind.
        name: its name.
        best_with: candidates among the best that have it.
        best: how many the best are.
        all_with: candidates that have it.
        all: how many there are.
        odds_ratio: odds of having it among the best over those among the others, with Haldane's
            half added to each count so that it is finite.
        p: Fisher's exact test, two-sided.
        q: after Benjamini and Hochberg, over all features tested.
        also: names of further features that the very same candidates have: one test serves them
            all, and cannot tell which of them it is.
    """

    kind: str
    name: str
    best_with: int
    best: int
    all_with: int
    all: int
    odds_ratio: float
    p: float
    q: float
    also: tuple[str, ...] = ()


def enrichment(
    candidates: Sequence[Collection[Feature]], fitness: Sequence[float], share: float = BEST_SHARE
) -> list[Enrichment]:
    """Tests each feature that some but not all candidates have.

    Args:
        candidates: features of every distinct candidate.
        fitness: their fitness, lower is better.
        share: how many count as the best; at least one does.

    Returns:
        The smallest q first.
    """
    from scipy.stats import fisher_exact

    count = len(candidates)
    ranked = sorted(range(count), key=lambda index: fitness[index])
    best = set(ranked[: max(1, math.ceil(share * count))])
    holders: dict[Feature, set[int]] = {}
    for index, candidate in enumerate(candidates):
        for feature in candidate:
            holders.setdefault(feature, set()).add(index)
    tested: dict[frozenset[int], list[Feature]] = {}
    for feature, having in sorted(holders.items(), key=lambda item: (-len(item[0].name), item[0])):
        if FEWEST <= len(having) < count:
            tested.setdefault(frozenset(having), []).append(feature)
    tables = [_table(having, best, count) for having in tested]
    p_values = [float(fisher_exact(table).pvalue) for table in tables]
    rows = [
        Enrichment(
            same[0].kind,
            same[0].name,
            best_with=table[0][0],
            best=len(best),
            all_with=len(having),
            all=count,
            odds_ratio=_odds_ratio(table),
            p=p,
            q=q,
            also=tuple(feature.name for feature in same[1:]),
        )
        for (having, same), table, p, q in zip(
            tested.items(), tables, p_values, benjamini_hochberg(p_values), strict=True
        )
    ]
    return sorted(rows, key=lambda row: (row.q, row.p, -row.odds_ratio, row.kind, row.name))


def _table(having: frozenset[int], best: set[int], count: int) -> list[list[int]]:
    """Best and others, with and without the feature."""
    both = len(having & best)
    others = len(having) - both
    return [[both, len(best) - both], [others, count - len(best) - others]]


def _odds_ratio(table: list[list[int]]) -> float:
    (a, b), (c, d) = table
    return (a + 0.5) * (d + 0.5) / ((b + 0.5) * (c + 0.5))
