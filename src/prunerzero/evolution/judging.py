"""Fitness: how a candidate is measured, and when it becomes the incumbent.

A judge keeps no secrets: whatever it decides follows from the measurements it returned, so a search
that goes on replays those from the study and is where it was. The rules are in `rungs.py`.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prunerzero.data.windows import Windows, WindowSampler
from prunerzero.evaluation.divergence import DenseReference, Divergence
from prunerzero.evaluation.perplexity import measure_loss
from prunerzero.evolution.masking import Masker
from prunerzero.evolution.rungs import (
    RungPlan,
    Trust,
    beats_incumbent,
    decisive,
    is_drawn,
    is_lost,
    is_promoted,
    is_won,
    log_ratio,
    parts,
)
from prunerzero.models.compute import Compute
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.study.records import Measurement

__all__ = ["IncumbentJudge", "Judge", "PerplexityJudge", "RungPlan", "Verdict", "log_ratio"]

NOTHING_READ = Divergence((), ())


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

    def log_ratio(self, fitness: float, other: float) -> float:
        """How much worse the first fitness is than the other, as the logarithm of a ratio."""
        return fitness - other


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

    def log_ratio(self, fitness: float, other: float) -> float:
        """See `Judge.log_ratio`."""
        return math.log(fitness / other)


class IncumbentJudge(Judge):
    """Divergence from the dense model, relative to the incumbent's on the same windows.

    The fitness is the logarithm of a candidate's mean KL divergence over that of the first
    candidate, chained through the incumbents, so that it means the same whatever windows it was
    measured on: -0.1 is a divergence 10 % lower than the first candidate's.

    A candidate that is better than the incumbent on rung 0, or nearly (`Trust` says how nearly), is
    measured on rung 1, whose windows neither has been chosen on. If it wins there by more than
    noise it is confirmed on rung 2, where the plan has one, and becomes the incumbent. Then, and
    every ``round_length`` candidates, a new round begins: the upper rungs get fresh windows, and
    those of the old rung 1, where the incumbent's reading is known, serve as rung 0.

    Windows are read a few at a time, and a reading ends as soon as the candidate has lost
    (`is_lost`; most lose at the first glance) or has won beyond doubt (`is_won`).

    One candidate in twenty climbs to the top whatever the rungs say, so that what rung 0 throws
    away is known.

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
        self._judged_in_round = 0
        self._trust = Trust()
        self._pruned_by: Recipe | None = None
        # By rung, first window and the window after the last.
        self._references: dict[tuple[int, int, int], DenseReference] = {}
        self._readings: dict[int, Divergence] = {}

    def judge(self, recipe: Recipe) -> Verdict:
        """See `Judge.judge`."""
        self._pruned_by = None  # others may have used the model since
        if self.incumbent is None:
            return self._first(recipe)
        return self.recall(recipe, self._climb(recipe))

    def recall(self, recipe: Recipe, measurements: Sequence[Measurement]) -> Verdict:
        """See `Judge.recall`."""
        self._judged += 1
        if self.incumbent is None:
            self.incumbent = recipe
            return Verdict(0.0, True, tuple(measurements))
        ratio, _ = decisive(measurements)
        fitness = self._level + ratio
        wins = beats_incumbent(measurements)
        self._trust.learn(measurements)
        self._judged_in_round += 1
        if wins:
            self.incumbent, self._level = recipe, fitness
        if wins or self._judged_in_round >= self._plan.round_length:
            self._next_round(self._reading_of_challenge(measurements[1]) if wins else None)
        return Verdict(fitness, wins, tuple(measurements))

    def fresh_reference(self, index: int) -> DenseReference:
        """The dense model's predictions on windows for gradients, apart from those of the rungs."""
        self._masker.restore()
        # Draws of the rungs and of the gradients alternate, so they share no window of an epoch.
        windows = self._sampler.draw(2 * index + 1, self._plan.page)
        tokens = windows.tokens[: self._plan.guidance]
        return DenseReference(self._masker.model, tokens, self._compute)

    def _first(self, recipe: Recipe) -> Verdict:
        began = time.perf_counter()
        reading = NOTHING_READ
        for windows in parts(self._plan.screening, self._plan):
            reading += self._read(recipe, 0, len(reading.kl), windows)
        self._readings[0] = reading
        return self.recall(recipe, [self._measurement(reading, 0, None, began, {})])

    def _climb(self, recipe: Recipe) -> list[Measurement]:
        """Measures from rung 0 upwards: as far as the candidate gets, or to the top if drawn."""
        drawn = is_drawn(self._judged)
        climbed: list[Measurement] = []
        audit: dict[str, Any] = {}
        for rung in range(self._plan.top + 1):
            notes = audit or ({} if rung else {"slack": self._trust.slack})
            climbed.append(self._race(recipe, rung, notes))
            passes = beats_incumbent(climbed) if rung else is_promoted(climbed[0].data)
            if not passes and not drawn:
                break
            if not passes:
                audit = {"audit": True}
        return climbed

    def _race(self, recipe: Recipe, rung: int, notes: dict[str, Any]) -> Measurement:
        """Reads a rung's windows, part by part, until all are read or there is nothing to add."""
        assert self.incumbent is not None
        began = time.perf_counter()
        reading = incumbents = NOTHING_READ
        whole = len(self._windows(rung))
        for windows in parts(whole, self._plan):
            known = self._readings.get(rung, NOTHING_READ)
            if len(known.kl) < windows:
                known += self._read(self.incumbent, rung, len(known.kl), windows)
                self._readings[rung] = known
            incumbents = known.first(windows)
            reading += self._read(recipe, rung, len(reading.kl), windows)
            ratio, error = log_ratio(reading.kl, incumbents.kl)
            glance = windows == self._plan.glance
            share = windows / whole if rung == 1 else 0.0
            if is_lost(ratio, error, self._trust.slack, glance=glance, share=share):
                break
            if is_won(ratio, error, share):
                break
        return self._measurement(reading, rung, incumbents, began, notes)

    def _read(self, recipe: Recipe, rung: int, start: int, stop: int) -> Divergence:
        """The recipe's divergence on some of a rung's windows."""
        reference = self._reference(rung, start, stop)
        if self._pruned_by is not recipe:
            self._masker.apply(recipe)
            self._pruned_by = recipe
        reading = reference.measure(self._masker.model)
        _require_finite(reading.mean_kl)
        return reading

    def _reference(self, rung: int, start: int, stop: int) -> DenseReference:
        key = (rung, start, stop)
        if key not in self._references:
            self._masker.restore()
            self._pruned_by = None
            windows = self._windows(rung).subset(start, stop)
            # Passes of a glance each: a reading does not depend on the parts it was read in.
            self._references[key] = DenseReference(
                self._masker.model,
                windows.tokens,
                self._compute,
                batch_tokens=self._plan.glance * self._plan.length,
            )
        return self._references[key]

    def _windows(self, rung: int) -> Windows:
        """Windows of a rung: pages of windows, turned by two a round.

        Rungs 1 and 2 share the next round's page, of which rung 0 then takes the first part.
        """
        page = self._sampler.draw(2 * (self._round + min(rung, 1)), self._plan.page)
        challenge = self._plan.challenge
        if rung == 2:
            return page.subset(challenge, self._plan.page)
        return page.subset(0, challenge if rung else self._plan.screening)

    def _measurement(
        self,
        reading: Divergence,
        rung: int,
        incumbent: Divergence | None,
        began: float,
        notes: Mapping[str, Any],
    ) -> Measurement:
        data: dict[str, Any] = {"kl": reading.kl, **notes}
        if incumbent is not None:
            ratio, error = log_ratio(reading.kl, incumbent.kl)
            data |= {"log_ratio": ratio, "standard_error": error}
        windows = self._windows(rung).subset(0, len(reading.kl))
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
        kept = self._plan.screening
        references = {
            (0, start, stop): reference
            for (rung, start, stop), reference in self._references.items()
            if rung == 1 and stop <= kept
        }
        self._round += 1
        self._judged_in_round = 0
        self._references = references
        self._readings.clear()
        if incumbents_reading is not None:
            self._readings[0] = incumbents_reading
        elif known is not None:
            self._readings[0] = known.first(kept)


def _require_finite(value: float) -> None:
    if not math.isfinite(value):
        raise UnusableScores("the pruned model's predictions are not finite")
