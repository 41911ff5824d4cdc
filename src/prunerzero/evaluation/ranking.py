"""What the measurements of a comparison say: means over seeds, spreads, ties, and what the data do.

All intervals are paired bootstraps: methods are compared on the same windows and, of several
seeds, on the same calibration draws.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunerzero.evaluation.measurements import Measurement
from prunerzero.evaluation.perplexity import Interval, paired_interval, perplexity_of
from prunerzero.evaluation.trials import Trial

NEAR = 0.25  # methods whose perplexity is at most this much above the best are judged by themselves

Losses = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One method under one pattern and one calibration text, over all seeds.

    Attributes:
        trials: one a seed.
        measurements: of these trials.
    """

    trials: tuple[Trial, ...]
    measurements: tuple[Measurement, ...]

    @property
    def trial(self) -> Trial:
        """The first seed's."""
        return self.trials[0]

    @property
    def error(self) -> str:
        """Why there is nothing to measure; empty where there is."""
        return next((one.error for one in self.measurements if one.error), "")

    @property
    def losses(self) -> Losses:
        """Mean loss ``[seeds, windows]``, nats a token."""
        return np.array([one.losses for one in self.measurements])

    @property
    def mean(self) -> float:
        """Mean loss, nats a token; NaN where there is none."""
        return (
            math.nan
            if self.error
            else math.fsum(m.loss.mean for m in self.measurements) / len(self.measurements)
        )

    @property
    def perplexity(self) -> float:
        """``exp(mean loss)``, over seeds the geometric mean; NaN where there is none."""
        return math.nan if self.error else perplexity_of(self.mean)

    @property
    def perplexities(self) -> list[float]:
        """Each seed's."""
        return [] if self.error else [one.loss.perplexity for one in self.measurements]

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds (unbiased); None with fewer than two."""
        found = self.perplexities
        return float(np.std(found, ddof=1)) if len(found) > 1 else None

    def bits_per_byte(self, scored_bytes: int) -> float:
        """Mean loss in bits a byte of text (`TextLoss.bits_per_byte`); NaN where there is none."""
        if self.error:
            return math.nan
        found = [one.loss.bits_per_byte(scored_bytes) for one in self.measurements]
        return math.fsum(found) / len(found)

    @property
    def seconds(self) -> float:
        """Mean time of pruning."""
        return sum(one.seconds for one in self.measurements) / len(self.measurements)

    @property
    def statistics_seconds(self) -> float:
        """Mean time of the shared passes over the text that it needs."""
        return sum(one.statistics_seconds for one in self.measurements) / len(self.measurements)

    @property
    def peak_bytes(self) -> int:
        """Largest resident memory meanwhile."""
        return max(one.peak_bytes for one in self.measurements)


def rows_of(trials: Sequence[Trial], measurements: Sequence[Measurement]) -> list[Row]:
    """Joins the seeds of each method, pattern and calibration text, in the trials' order."""
    joined: dict[tuple[object, ...], list[tuple[Trial, Measurement]]] = {}
    for trial, measurement in zip(trials, measurements, strict=True):
        recipe = trial.recipe
        place = (trial.method, recipe.group, recipe.update, trial.allocation, trial.permuted)
        key = (*place, str(trial.pattern), trial.calibration)
        joined.setdefault(key, []).append((trial, measurement))
    return [
        Row(tuple(trial for trial, _ in pairs), tuple(one for _, one in pairs))
        for pairs in joined.values()
    ]


def change(row: Row, against: Row, seed: int = 0, draws: int = 10_000) -> Interval:
    """Relative change in perplexity, with a paired 95 % interval over windows and seeds.

    Args:
        row: the method of interest.
        against: another one, with the same windows and seeds.
        seed: seed of the resampling.
        draws: number of resamples.
    """
    mine, theirs = row.losses, against.losses
    if len(mine) == 1:
        return paired_interval(tuple(mine[0]), tuple(theirs[0]), seed=seed, draws=draws)
    differences = mine - theirs
    random = np.random.default_rng(seed)
    seeds, windows = differences.shape
    # Means over a draw of seeds and a draw of windows: weights on either side of the matrix.
    left = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    right = random.multinomial(windows, np.full(windows, 1 / windows), size=draws) / windows
    resampled = np.expm1(((left @ differences) * right).sum(1))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(np.expm1(differences.mean())), float(low), float(high))


def ties(rows: Sequence[Row], seed: int = 0) -> list[bool]:
    """Which rows are the best of their pattern and text, or not significantly worse than it."""
    found = []
    for row in rows:
        rivals = [other for other in rows if _place(other) == _place(row) and not other.error]
        best = min(rivals, key=lambda other: other.mean, default=None)
        found.append(
            best is not None
            and not row.error
            and (row is best or not change(row, best, seed).significant)
        )
    return found


def _place(row: Row) -> tuple[str, str]:
    return str(row.trial.pattern), row.trial.calibration


@dataclass(frozen=True)
class DataEffect:
    """How much of the difference between measurements is the methods', and how much the data's.

    A two-way analysis of variance of log perplexity with replicates: methods, calibration texts,
    their interaction (a text that suits one method better), and seeds. Shares of the total sum of
    squares.

    Attributes:
        pattern: of the measurements.
        methods: those compared.
        texts: the calibration texts.
        method: share of the differences between methods.
        text: share of the differences between texts that all methods have.
        interaction: share of those that only some have.
        seed: share of what remains: the draw of windows.
        agreement: Kendall's tau of the methods' order between each two texts, the mean of them.
        gap: the largest difference in log perplexity that the text alone makes to one method.
    """

    pattern: str
    methods: list[str]
    texts: list[str]
    method: float
    text: float
    interaction: float
    seed: float
    agreement: float
    gap: float

    def to_json(self) -> dict[str, Any]:
        """The shares as a JSON-serialisable dictionary."""
        return asdict(self)


def data_effects(rows: Sequence[Row]) -> list[DataEffect]:
    """The analysis for every pattern: of all methods, and of those near the best one.

    Methods without a measurement are left out. Patterns with fewer than two methods or texts have
    nothing to compare.
    """
    found = []
    for pattern in dict.fromkeys(str(row.trial.pattern) for row in rows):
        mine = [row for row in rows if str(row.trial.pattern) == pattern]
        texts = list(dict.fromkeys(row.trial.calibration for row in mine))
        table: dict[str, dict[str, Losses]] = {}
        for row in mine:
            if not row.error:
                by_text = table.setdefault(_name(row), {})
                by_text[row.trial.calibration] = row.losses.mean(1)
        whole = {name: by for name, by in table.items() if len(by) == len(texts)}
        means = {name: np.mean(list(by.values())) for name, by in whole.items()}
        best = min(means.values(), default=0.0)
        near = {name: by for name, by in whole.items() if means[name] <= best + math.log1p(NEAR)}
        groups = (whole, near) if len(near) < len(whole) else (whole,)
        found += [_effect(pattern, one, texts) for one in groups if min(len(one), len(texts)) > 1]
    return found


def _name(row: Row) -> str:
    parts = [row.trial.method]
    parts += [row.trial.recipe.update] if row.trial.recipe.update != "none" else []
    parts += [row.trial.allocation] if row.trial.allocation != "uniform" else []
    parts += ["permuted"] if row.trial.permuted else []
    return ", ".join(parts)


def _effect(pattern: str, table: dict[str, dict[str, Losses]], texts: list[str]) -> DataEffect:
    values = np.array([[by[text] for text in texts] for by in table.values()])  # [m, t, seeds]
    grand, cells = values.mean(), values.mean(2)
    by_method, by_text = cells.mean(1), cells.mean(0)
    methods, count, seeds = values.shape
    interaction = cells - by_method[:, None] - by_text[None, :] + grand
    sums = np.array(
        [
            ((by_method - grand) ** 2).sum() * count * seeds,
            ((by_text - grand) ** 2).sum() * methods * seeds,
            (interaction**2).sum() * seeds,
            ((values - cells[:, :, None]) ** 2).sum(),
        ]
    )
    shares = sums / sums.sum() if sums.sum() > 0 else sums
    taus = [_kendall(a, b) for a, b in itertools.combinations(cells.T, 2)]
    return DataEffect(
        pattern,
        list(table),
        texts,
        method=float(shares[0]),
        text=float(shares[1]),
        interaction=float(shares[2]),
        seed=float(shares[3]),
        agreement=float(np.mean(taus)),
        gap=float((cells.max(1) - cells.min(1)).max()),
    )


def _kendall(first: Losses, second: Losses) -> float:
    """Kendall's tau-a of two orders."""
    pairs = list(itertools.combinations(range(len(first)), 2))
    return float(
        np.mean([np.sign(first[i] - first[j]) * np.sign(second[i] - second[j]) for i, j in pairs])
    )
