"""How alike recipes are: the masks and the scores that they give a few probe matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from prunerzero.analysis.inference import Array
from prunerzero.evolution.closing import FAMILY_AGREEMENT
from prunerzero.evolution.masking import Masker
from prunerzero.recipe import Recipe

ROWS = 32  # rows of a probe matrix on which scores are compared


class Similarity(NamedTuple):
    """Pairwise likeness of n recipes on the probe matrices, each ``[n, n]``.

    Attributes:
        jaccard: weights pruned by both over weights pruned by either.
        agreement: share of the weights that both treat alike.
        scores: mean Spearman correlation of the scores within rows.
    """

    jaccard: Array
    agreement: Array
    scores: Array


class Families(NamedTuple):
    """Recipes grouped by their masks.

    Attributes:
        linkage: the tree of average linkage on ``1 - agreement``, as scipy's ``[n - 1, 4]``.
        labels: the family of each recipe, from 0 in order of first appearance.
    """

    linkage: Array
    labels: tuple[int, ...]


def similarity(masker: Masker, recipes: Sequence[Recipe]) -> Similarity:
    """Compares the masks and scores of recipes, one probe matrix at a time.

    Raises:
        UnusableScores: if a recipe cannot rank the weights of a probe matrix.
    """
    count = len(recipes)
    both, pruned = np.zeros((count, count)), np.zeros(count)
    weights = 0
    sparsities = [masker.sparsities(recipe) for recipe in recipes]
    for probe in masker.probes:
        lost = [
            ~masker.mask(recipe, probe, planned[probe.name])
            for recipe, planned in zip(recipes, sparsities, strict=True)
        ]
        weights += lost[0].numel()
        pruned += [int(mask.sum()) for mask in lost]
        for i, mask in enumerate(lost):
            both[i, i:] += [int((mask & other).sum()) for other in lost[i:]]
    both = np.triu(both) + np.triu(both, 1).T
    either = pruned[:, None] + pruned - both
    ranks = [score_ranks(masker, recipe) for recipe in recipes]
    scores = np.eye(count)
    for i in range(count):
        for j in range(i):
            scores[i, j] = scores[j, i] = mean_row_correlation(ranks[i], ranks[j])
    return Similarity(both / np.maximum(either, 1), 1 - (either - both) / weights, scores)


def score_ranks(masker: Masker, recipe: Recipe) -> list[Array]:
    """Ranks of the recipe's scores within some rows of each probe matrix.

    Returns:
        ``[rows, in]`` a probe, each row centred and of length 1 (of length 0 where all scores of
        a row are equal), so that a product of two rows is Spearman's correlation.
    """
    from scipy.stats import rankdata

    found = []
    for probe in masker.probes:
        scores = masker.scores(recipe, probe)
        rows = torch.linspace(0, len(scores) - 1, min(ROWS, len(scores))).round().long()
        ranks = rankdata(scores[rows.to(scores.device)].cpu().numpy(), axis=1)
        ranks -= ranks.mean(1, keepdims=True)
        length = np.linalg.norm(ranks, axis=1, keepdims=True)
        found.append(ranks / np.where(length > 0, length, 1.0))
    return found


def mean_row_correlation(first: Sequence[Array], second: Sequence[Array]) -> float:
    """Mean of Spearman's correlation over the rows of all probes (`score_ranks`)."""
    rows = [(a * b).sum(1) for a, b in zip(first, second, strict=True)]
    return float(np.concatenate(rows).mean())


def mask_families(agreement: Array, least: float = FAMILY_AGREEMENT) -> Families:
    """Clusters recipes whose masks agree on more than a share of the weights.

    Args:
        agreement: share of the weights treated alike, ``[n, n]``, n of at least 2.
        least: the mean agreement between two clusters that makes them one.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    distance = np.clip(1.0 - agreement, 0.0, None)
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), "average")
    clusters = fcluster(tree, 1.0 - least, "distance")
    order = {cluster: place for place, cluster in enumerate(dict.fromkeys(clusters.tolist()))}
    return Families(tree, tuple(order[cluster] for cluster in clusters.tolist()))


def best_of_each(labels: Sequence[int], losses: Sequence[float]) -> list[int]:
    """The index of the lowest loss in each family, the best family first."""
    best: dict[int, int] = {}
    for index, label in enumerate(labels):
        if label not in best or losses[index] < losses[best[label]]:
            best[label] = index
    return sorted(best.values(), key=lambda index: losses[index])
