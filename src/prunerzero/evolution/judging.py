"""Fitness: how a candidate is measured, and when it becomes the incumbent.

A judge keeps no secrets: whatever it decides follows from the measurements it returned, so a search
that goes on replays those from the study and is where it was. The rules are in `rungs.py`.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prunerzero.data.windows import Windows
from prunerzero.evaluation.divergence import Divergence
from prunerzero.evaluation.perplexity import measure_loss
from prunerzero.evolution.arena import NOTHING_READ, Arena, require_finite
from prunerzero.evolution.masking import Masker
from prunerzero.evolution.objective import combine, combined_ratio
from prunerzero.evolution.rungs import (
    RungPlan,
    Trust,
    beats_incumbent,
    data_of,
    decisive_data,
    is_drawn,
    is_lost,
    is_promoted,
    is_won,
    join_targets,
    parts,
    pooled,
)
from prunerzero.evolution.settings import Objective
from prunerzero.models.compute import Compute
from prunerzero.recipe import Recipe
from prunerzero.study.records import Measurement

__all__ = ["Arena", "IncumbentJudge", "Judge", "PerplexityJudge", "RungPlan", "Verdict"]


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


@dataclass(frozen=True)
class Stance:
    """What a worker must know to measure a candidate as the judge would now.

    Attributes:
        incumbent: what it is compared with.
        round: whose windows it is read on; each incumbent begins one.
        levels: the incumbent's fitness on each target.
        slack: what rung 0 grants, in standard errors.
        drawn: the candidate climbs to the top whatever the rungs say.
        readings: of the incumbent, as far as they are known: for each target, by rung.
    """

    incumbent: Recipe
    round: int
    levels: tuple[float, ...]
    slack: float
    drawn: bool
    readings: tuple[dict[int, Divergence], ...]


class Judge(ABC):
    """Measures candidates; see `IncumbentJudge` and `PerplexityJudge`.

    Where candidates are measured by workers, each has a copy of the judge for `measure`; the
    judge's own `recall` decides.
    """

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

    def stance(self, ahead: int) -> Stance | None:  # noqa: ARG002
        """What a copy needs to measure a candidate now, while so many others are out."""
        return None

    def measure(self, recipe: Recipe, stance: Stance | None) -> tuple[Measurement, ...]:
        """What `judge` measures, without taking note of it; only workers need it."""
        raise NotImplementedError(f"{type(self).__name__} cannot measure in workers")

    def learnt(self) -> Stance | None:
        """What a copy found out about the incumbent meanwhile."""
        return None

    def learn(self, stance: Stance) -> None:  # noqa: B027  most copies find nothing out
        """Takes over what a copy found out."""

    def is_outdated(self, measurements: Sequence[Measurement]) -> bool:  # noqa: ARG002
        """Whether a candidate must be measured again: it has beaten what is not the best now."""
        return False

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
        return self.recall(recipe, self.measure(recipe, None))

    def measure(self, recipe: Recipe, stance: Stance | None) -> tuple[Measurement, ...]:  # noqa: ARG002
        """See `Judge.measure`."""
        began = time.perf_counter()
        self._masker.apply(recipe)
        loss = measure_loss(self._masker.model, self._windows, self._compute)
        require_finite(loss.mean)
        measurement = Measurement(
            purpose="fitness",
            windows=self._windows.hash,
            tokens=loss.tokens,
            loss=loss.mean,
            seconds=time.perf_counter() - began,
        )
        return (measurement,)

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
    measured on: -0.1 is a divergence 10 % lower than the first candidate's. Arenas that compare
    losses give the logarithm of a ratio of perplexities instead. Of several targets it is the mean,
    or that of the worst.

    A candidate that is better than the incumbent on rung 0, or nearly (`Trust` says how nearly), is
    measured on rung 1, whose windows neither has been chosen on. If it wins there by more than
    noise it is confirmed on rung 2, where the plan has one, and becomes the incumbent. Then, and
    every ``round_length`` candidates, a new round begins (`Arena`).

    Windows are read a few at a time, and a reading ends as soon as the candidate has lost
    (`is_lost`; most lose at the first glance) or has won beyond doubt (`is_won`).

    One candidate in twenty climbs to the top whatever the rungs say, so that what rung 0 throws
    away is known.

    Args:
        arenas: one for each target; all have the same plan.
        objective: how several targets are combined.
    """

    def __init__(self, arenas: Sequence[Arena], objective: Objective = "mean") -> None:
        self.arenas = list(arenas)
        self._objective: Objective = objective
        self._plan = self.arenas[0].plan
        self._levels = [0.0] * len(self.arenas)
        self._past_levels: dict[int, list[float]] = {}  # by round, of the rounds before this one
        self._judged = 0
        self._judged_in_round = 0
        self._trust = Trust()

    def judge(self, recipe: Recipe) -> Verdict:
        """See `Judge.judge`."""
        for arena in self.arenas:
            arena.forget_model()
        if self.incumbent is None:
            return self._first(recipe)
        drawn = is_drawn(self._judged)
        return self.recall(recipe, self._climb(recipe, self._trust.slack, {}, drawn=drawn))

    def stance(self, ahead: int) -> Stance | None:
        """See `Judge.stance`."""
        assert self.incumbent is not None
        return Stance(
            self.incumbent,
            self.arenas[0].round,
            tuple(self._levels),
            self._trust.slack,
            is_drawn(self._judged + ahead),
            tuple(arena.known() for arena in self.arenas),
        )

    def measure(self, recipe: Recipe, stance: Stance | None) -> tuple[Measurement, ...]:
        """See `Judge.measure`."""
        assert stance is not None
        for arena, readings in zip(self.arenas, stance.readings, strict=True):
            arena.forget_model()
            arena.move_to(stance.round, readings)
        self.incumbent, self._levels = stance.incumbent, list(stance.levels)
        notes = {"round": stance.round}
        return tuple(self._climb(recipe, stance.slack, notes, drawn=stance.drawn))

    def learnt(self) -> Stance | None:
        """See `Judge.learnt`."""
        return self.stance(0)

    def learn(self, stance: Stance) -> None:
        """See `Judge.learn`."""
        for arena, readings in zip(self.arenas, stance.readings, strict=True):
            if stance.round == arena.round:
                arena.learn(readings)

    def is_outdated(self, measurements: Sequence[Measurement]) -> bool:
        """See `Judge.is_outdated`: the rest keep the fitness that they have by their round."""
        return self._round_of(measurements) != self.arenas[0].round and beats_incumbent(
            measurements
        )

    def recall(self, recipe: Recipe, measurements: Sequence[Measurement]) -> Verdict:
        """See `Judge.recall`."""
        self._judged += 1
        if self.incumbent is None:
            self.incumbent = recipe
            return Verdict(0.0, True, tuple(measurements))
        levels = [
            level + pooled(decisive_data(measurements, arena.name))[0]
            for level, arena in zip(
                self._past_levels.get(self._round_of(measurements), self._levels),
                self.arenas,
                strict=True,
            )
        ]
        fitness = combine(levels, self._objective)
        wins = beats_incumbent(measurements) and not self.is_outdated(measurements)
        self._trust.learn(measurements)
        self._judged_in_round += 1
        before = self.arenas[0].round, self._levels
        if wins:
            self.incumbent, self._levels = recipe, levels
        if wins or self._judged_in_round >= self._plan.round_length:
            self._judged_in_round = 0
            for arena in self.arenas:
                arena.next_round(data_of(measurements[1], arena.name) if wins else None)
            self._past_levels[before[0]] = before[1]
        return Verdict(fitness, wins, tuple(measurements))

    def _first(self, recipe: Recipe) -> Verdict:
        began = time.perf_counter()
        parts_read = []
        for arena in self._in_turn():
            reading = NOTHING_READ
            for windows in parts(self._plan.screening, self._plan):
                reading += arena.read(recipe, 0, len(reading.kl), windows)
            arena.keep(0, reading)
            parts_read.append(arena.measurement(reading, 0, None, {}))
        return self.recall(recipe, [self._joined(parts_read, {}, began)])

    def _round_of(self, measurements: Sequence[Measurement]) -> int:
        """The round that a candidate was measured in; where that is not noted, this one."""
        number: int = measurements[0].data.get("round", self.arenas[0].round)
        return number

    def _climb(
        self, recipe: Recipe, slack: float, first: Mapping[str, Any], *, drawn: bool
    ) -> list[Measurement]:
        """Measures from rung 0 upwards: as far as the candidate gets, or to the top if drawn.

        Args:
            recipe: the candidate.
            slack: what rung 0 grants.
            first: notes for the study, beside the measurement on rung 0.
            drawn: it climbs to the top.
        """
        climbed: list[Measurement] = []
        audit: dict[str, Any] = {}
        for rung in range(self._plan.top + 1):
            notes = audit or ({} if rung else {"slack": slack, **first})
            climbed.append(self._race(recipe, rung, slack, notes))
            passes = beats_incumbent(climbed) if rung else is_promoted(climbed[0].data)
            if not passes and not drawn:
                break
            if not passes:
                audit = {"audit": True}
        return climbed

    def _race(self, recipe: Recipe, rung: int, slack: float, notes: dict[str, Any]) -> Measurement:
        """Reads a rung's windows, part by part, until all are read or there is nothing to add.

        Every part is read on all targets before anything is decided.
        """
        assert self.incumbent is not None
        began = time.perf_counter()
        whole = len(self.arenas[0].windows(rung))
        readings = [NOTHING_READ] * len(self.arenas)
        incumbents = list(readings)
        ratio = error = 0.0
        for windows in parts(whole, self._plan):
            for i, arena in enumerate(self._in_turn()):
                incumbents[i] = arena.read_incumbent(self.incumbent, rung, windows)
                readings[i] += arena.read(recipe, rung, len(readings[i].kl), windows)
            ratio, error = self._compared(rung, readings, incumbents)
            glance = windows == self._plan.glance
            share = windows / whole if rung == 1 else 0.0
            if is_lost(ratio, error, slack, glance=glance, share=share):
                break
            if is_won(ratio, error, share):
                break
        read = [
            arena.measurement(reading, rung, known, {} if len(self.arenas) > 1 else notes)
            for arena, reading, known in zip(self.arenas, readings, incumbents, strict=True)
        ]
        return self._joined(read, {**notes, "log_ratio": ratio, "standard_error": error}, began)

    def _compared(
        self, rung: int, readings: Sequence[Divergence], incumbents: Sequence[Divergence]
    ) -> tuple[float, float]:
        ratios = [
            arena.compare(rung, reading, known)
            for arena, reading, known in zip(self.arenas, readings, incumbents, strict=True)
        ]
        return combined_ratio(self._levels, ratios, self._objective)

    def _in_turn(self) -> Iterator[Arena]:
        """The arenas, one after the other; those of one model take it from one another."""
        for arena in self.arenas:
            yield arena
            for other in self.arenas:
                if other is not arena and other.masker.model is arena.masker.model:
                    other.forget_model()

    def _joined(
        self, measurements: Sequence[Measurement], data: Mapping[str, Any], began: float
    ) -> Measurement:
        """One measurement of those of all targets, which ``data`` sums up."""
        seconds = time.perf_counter() - began
        if len(measurements) == 1:
            return replace(measurements[0], seconds=seconds)
        names = [arena.name for arena in self.arenas]
        return join_targets(dict(zip(names, measurements, strict=True)), data, seconds)
