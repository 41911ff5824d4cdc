"""Fitness: how a candidate is measured, and when it becomes the incumbent.

A judge keeps no secrets: whatever it decides follows from the measurements it returned, so a search
that goes on replays those from the study and is where it was.
"""

from __future__ import annotations

import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prunerzero.data.windows import Windows, WindowSampler
from prunerzero.evaluation.divergence import DenseReference, Divergence
from prunerzero.evaluation.perplexity import measure_loss
from prunerzero.evolution.masking import Masker
from prunerzero.models.compute import Compute
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.study.records import Measurement

# One-sided 95 %: how many standard errors a new incumbent must win by.
CONFIDENCE = 1.645


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one candidate.

    Attributes:
        fitness: lower is better.
        incumbent: the candidate is the one to beat from now on.
        measurements: what was measured, for the study.
    """

    fitness: float
    incumbent: bool
    measurements: tuple[Measurement, ...]


class Judge(ABC):
    """Measures candidates; see `IncumbentJudge` and `PerplexityJudge`."""

    incumbent: Recipe | None = None

    @abstractmethod
    def judge(self, recipe: Recipe) -> Verdict:
        """Prunes by ``recipe``, measures, and takes note; the model is left pruned.

        Raises:
            UnusableScores: if the recipe's scores cannot rank weights.
        """

    @abstractmethod
    def recall(self, recipe: Recipe, measurements: Sequence[Measurement]) -> Verdict:
        """Takes note of a verdict that an earlier session reached, without measuring."""


class PerplexityJudge(Judge):
    """The paper's fitness: perplexity of the pruned model on fixed windows.

    Args:
        masker: prunes the model.
        windows: selection windows.
        compute: device and precision.
    """

    def __init__(self, masker: Masker, windows: Windows, compute: Compute) -> None:
        self._masker = masker
        self._windows = windows
        self._compute = compute
        self._best = math.inf

    def judge(self, recipe: Recipe) -> Verdict:
        """See `Judge.judge`; the fitness is the perplexity."""
        began = time.perf_counter()
        self._masker.apply(recipe)
        loss = measure_loss(self._masker.model, self._windows, self._compute)
        _require_finite(loss.mean)
        measurement = Measurement(
            purpose="fitness",
            windows=self._windows.hash,
            tokens=loss.tokens,
            loss=loss.mean,
            seconds=time.perf_counter() - began,
        )
        return self.recall(recipe, [measurement])

    def recall(self, recipe: Recipe, measurements: Sequence[Measurement]) -> Verdict:
        """See `Judge.recall`."""
        loss = measurements[-1].loss
        assert loss is not None
        fitness = math.exp(min(loss, 700.0))
        better = fitness < self._best
        if better:
            self._best, self.incumbent = fitness, recipe
        return Verdict(fitness, better, tuple(measurements))


@dataclass(frozen=True)
class RungPlan:
    """How many tokens each rung reads, and when windows change.

    Attributes:
        length: tokens in a window; many short windows cover more documents than a few long ones.
        screening: windows of rung 0, which every candidate is measured on.
        challenge: windows of rung 1, for candidates that may beat the incumbent.
        round_length: candidates after which windows are drawn afresh even without a new incumbent.
    """

    length: int = 128
    screening: int = 8
    challenge: int = 16
    round_length: int = 40


class IncumbentJudge(Judge):
    """Divergence from the dense model, relative to the incumbent's on the same windows.

    The fitness is the logarithm of a candidate's mean KL divergence over that of the first
    candidate, chained through the incumbents, so that it means the same whatever windows it was
    measured on: -0.1 is a divergence 10 % lower than the first candidate's.

    A candidate as good as the incumbent on rung 0 is measured on rung 1, whose windows neither has
    been chosen on. It becomes the incumbent if it wins there by more than noise. Then, and every
    ``round_length`` candidates, a new round begins: rung 1 gets fresh windows, and those of the old
    rung 1, where the incumbent's reading is known, serve as rung 0.

    Args:
        masker: prunes the model.
        sampler: draws selection windows.
        compute: device and precision.
        plan: sizes of the rungs.
    """

    def __init__(
        self, masker: Masker, sampler: WindowSampler, compute: Compute, plan: RungPlan
    ) -> None:
        self._masker = masker
        self._sampler = sampler
        self._compute = compute
        self._plan = plan
        self._level = 0.0
        self._round = 0
        self._judged = 0
        self._references: dict[int, DenseReference] = {}
        self._readings: dict[int, Divergence] = {}

    def judge(self, recipe: Recipe) -> Verdict:
        """See `Judge.judge`."""
        if self.incumbent is None:
            return self._first(recipe)
        measurements = [self._measure(recipe, rung=0)]
        if measurements[0].data["log_ratio"] <= 0:
            measurements.append(self._measure(recipe, rung=1))
        return self.recall(recipe, measurements)

    def recall(self, recipe: Recipe, measurements: Sequence[Measurement]) -> Verdict:
        """See `Judge.recall`."""
        last = measurements[-1]
        if self.incumbent is None:
            self.incumbent = recipe
            return Verdict(0.0, True, tuple(measurements))
        ratio, error = last.data["log_ratio"], last.data["standard_error"]
        fitness = self._level + ratio
        wins = last.rung == 1 and ratio < -CONFIDENCE * error
        self._judged += 1
        if wins:
            self.incumbent, self._level = recipe, fitness
        if wins or self._judged >= self._plan.round_length:
            self._next_round(self._reading_of_challenge(last) if wins else None)
        return Verdict(fitness, wins, tuple(measurements))

    def fresh_reference(self, index: int) -> DenseReference:
        """The dense model's predictions on windows for gradients, apart from those of the rungs."""
        self._masker.restore()
        # Draws of the rungs and of the gradients alternate, so they share no window of an epoch.
        windows = self._sampler.draw(2 * index + 1, self._plan.challenge)
        tokens = windows.tokens[: self._plan.screening]
        return DenseReference(self._masker.model, tokens, self._compute)

    def _first(self, recipe: Recipe) -> Verdict:
        began = time.perf_counter()
        reading = self._read(recipe, rung=0)
        self._readings[0] = reading
        return self.recall(recipe, [self._measurement(reading, 0, None, began)])

    def _measure(self, recipe: Recipe, rung: int) -> Measurement:
        assert self.incumbent is not None
        began = time.perf_counter()
        if rung not in self._readings:
            self._readings[rung] = self._read(self.incumbent, rung)
        reading = self._read(recipe, rung)
        return self._measurement(reading, rung, self._readings[rung], began)

    def _read(self, recipe: Recipe, rung: int) -> Divergence:
        reference = self._reference(rung)
        self._masker.apply(recipe)
        reading = reference.measure(self._masker.model)
        _require_finite(reading.mean_kl)
        return reading

    def _reference(self, rung: int) -> DenseReference:
        if rung not in self._references:
            self._masker.restore()
            windows = self._windows(rung)
            self._references[rung] = DenseReference(
                self._masker.model, windows.tokens, self._compute
            )
        return self._references[rung]

    def _windows(self, rung: int) -> Windows:
        """Windows of a rung: draw ``2 (round + rung)``, of which rung 0 takes the first part."""
        drawn = self._sampler.draw(2 * (self._round + rung), self._plan.challenge)
        return drawn if rung else drawn.subset(0, self._plan.screening)

    def _measurement(
        self, reading: Divergence, rung: int, incumbent: Divergence | None, began: float
    ) -> Measurement:
        data: dict[str, Any] = {"kl": reading.kl}
        if incumbent is not None:
            ratio, error = log_ratio(reading.kl, incumbent.kl)
            data |= {"log_ratio": ratio, "standard_error": error}
        windows = self._windows(rung)
        return Measurement(
            purpose="fitness",
            rung=rung,
            windows=windows.hash,
            tokens=len(windows) * (windows.length - 1),
            loss=reading.mean_loss,
            kl=reading.mean_kl,
            data=data,
            seconds=time.perf_counter() - began,
        )

    def _reading_of_challenge(self, challenge: Measurement) -> Divergence:
        kept = self._plan.screening
        return Divergence(tuple(challenge.data["kl"][:kept]), ())

    def _next_round(self, incumbents_reading: Divergence | None) -> None:
        """Old rung 1 becomes rung 0, with what is known of the incumbent there."""
        known = self._readings.get(1)
        reference = self._references.get(1)
        self._round += 1
        self._judged = 0
        self._references.clear()
        self._readings.clear()
        kept = self._plan.screening
        if reference is not None:
            self._references[0] = reference.first(kept)
        if incumbents_reading is not None:
            self._readings[0] = incumbents_reading
        elif known is not None:
            self._readings[0] = Divergence(known.kl[:kept], known.losses[:kept])


def _require_finite(value: float) -> None:
    if not math.isfinite(value):
        raise UnusableScores("the pruned model's predictions are not finite")


def log_ratio(candidate: Sequence[float], incumbent: Sequence[float]) -> tuple[float, float]:
    """Log of the ratio of two mean divergences on the same windows, and its standard error.

    Args:
        candidate: mean divergence of each window, nats a token.
        incumbent: the same windows' under the incumbent.

    Returns:
        ``log(mean(candidate) / mean(incumbent))`` and its standard error (delta method, paired).
    """
    above, below = math.fsum(candidate), math.fsum(incumbent)
    count = len(candidate)
    terms = [
        c * count / above - i * count / below for c, i in zip(candidate, incumbent, strict=True)
    ]
    error = statistics.stdev(terms) / math.sqrt(count) if count > 1 else math.inf
    return math.log(above / below), error
