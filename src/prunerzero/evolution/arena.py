"""One target of a search: what a candidate is read on, and against what.

An arena holds the dense model's predictions and the incumbent's readings on a rung's windows. It
decides nothing; the judge does (`judging`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from prunerzero.data.windows import Windows, WindowSampler
from prunerzero.evaluation.divergence import DenseReference, Divergence
from prunerzero.evolution.masking import Masker
from prunerzero.evolution.objective import COMPARE, READINGS
from prunerzero.evolution.rungs import RungPlan
from prunerzero.evolution.settings import FitnessKind
from prunerzero.models.compute import Compute
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.study.records import Measurement

NOTHING_READ = Divergence((), ())


class Arena:
    """Reads candidates and the incumbent on the same windows of one target.

    Rungs 1 and 2 get fresh windows every round; those of the old rung 1, where the incumbent's
    reading is known, then serve as rung 0. Dense predictions and the incumbent's readings are
    computed when a candidate gets to their windows.

    Args:
        masker: prunes the model.
        sampler: draws selection windows.
        compute: device and precision.
        plan: sizes of the rungs.
        fitness: ``kl``, divergence from the dense model, or ``loss``, log perplexity.
        name: what tells it from the search's other targets.
    """

    def __init__(
        self,
        masker: Masker,
        sampler: WindowSampler,
        compute: Compute,
        plan: RungPlan,
        fitness: FitnessKind = "kl",
        name: str = "",
    ) -> None:
        self.masker = masker
        self.plan = plan
        self.name = name
        self._sampler = sampler
        self._compute = compute
        self.fitness = fitness
        self._round = 0
        self._pruned_by: Recipe | None = None
        # By rung, first window and the window after the last.
        self._references: dict[tuple[int, int, int], DenseReference] = {}
        self._readings: dict[int, Divergence] = {}

    @property
    def round(self) -> int:
        """Number of the round, from 0."""
        return self._round

    def forget_model(self) -> None:
        """Others may have used the model since the last reading."""
        self._pruned_by = None

    def read(self, recipe: Recipe, rung: int, start: int, stop: int) -> Divergence:
        """The recipe's divergence and loss on some of a rung's windows.

        Raises:
            UnusableScores: if the recipe cannot rank weights, or predictions are not finite.
        """
        reference = self._reference(rung, start, stop)
        if self._pruned_by is not recipe:
            self.masker.apply(recipe)
            self._pruned_by = recipe
        reading = reference.measure(self.masker.model)
        require_finite(math.fsum(self.values(reading)))
        return reading

    def read_incumbent(self, incumbent: Recipe, rung: int, windows: int) -> Divergence:
        """The incumbent's reading of a rung's first windows; what is known is not read again."""
        known = self._readings.get(rung, NOTHING_READ)
        count = len(self.values(known))
        if count < windows:
            known += self.read(incumbent, rung, count, windows)
            self._readings[rung] = known
        return known.first(windows)

    def keep(self, rung: int, reading: Divergence) -> None:
        """Takes a reading of a rung's first windows as the incumbent's."""
        self._readings[rung] = reading

    def values(self, reading: Divergence) -> tuple[float, ...]:
        """What counts of a reading, for each window."""
        return reading.kl if self.fitness == "kl" else reading.losses

    def compare(
        self,
        rung: int,  # noqa: ARG002
        reading: Divergence,
        incumbents: Divergence,
    ) -> tuple[float, float]:
        """Log ratio of a candidate's reading to the incumbent's, and its standard error."""
        return COMPARE[self.fitness](self.values(reading), self.values(incumbents))

    def windows(self, rung: int) -> Windows:
        """Windows of a rung: pages of windows, turned by two a round.

        Rungs 1 and 2 share the next round's page, of which rung 0 then takes the first part.
        """
        page = self._sampler.draw(2 * (self._round + min(rung, 1)), self.plan.page)
        challenge = self.plan.challenge
        if rung == 2:
            return page.subset(challenge, self.plan.page)
        return page.subset(0, challenge if rung else self.plan.screening)

    def measurement(
        self,
        reading: Divergence,
        rung: int,
        incumbents: Divergence | None,
        notes: Mapping[str, Any],
    ) -> Measurement:
        """What the study keeps of a candidate's reading; how long it took is not yet in it."""
        data = {READINGS[self.fitness]: self.values(reading), **notes}
        if incumbents is not None:
            ratio, error = self.compare(rung, reading, incumbents)
            data |= {"log_ratio": ratio, "standard_error": error}
        windows = self.windows(rung).subset(0, len(reading.kl))
        return Measurement(
            purpose="fitness",
            rung=rung,
            windows=windows.hash,
            tokens=len(windows) * (windows.length - 1),
            loss=reading.mean_loss,
            kl=reading.mean_kl,
            data=data,
        )

    def fresh_reference(self, index: int) -> DenseReference:
        """The dense model's predictions on windows for gradients, apart from those of the rungs."""
        self.masker.restore()
        # Draws of the rungs and of the gradients alternate, so they share no window of an epoch.
        windows = self._sampler.draw(2 * index + 1, self.plan.page)
        tokens = windows.tokens[: self.plan.guidance]
        return DenseReference(self.masker.model, tokens, self._compute)

    def known(self) -> dict[int, Divergence]:
        """The incumbent's readings in this round, by rung."""
        return dict(self._readings)

    def learn(self, readings: Mapping[int, Divergence]) -> None:
        """Takes over readings of the incumbent in this round that were taken elsewhere."""
        for rung, reading in readings.items():
            known = self._readings.get(rung, NOTHING_READ)
            if len(self.values(reading)) > len(self.values(known)):
                self._readings[rung] = reading

    def move_to(self, number: int, readings: Mapping[int, Divergence]) -> None:
        """Goes on with a round that began elsewhere.

        Args:
            number: the round.
            readings: what is known of the incumbent there.
        """
        if number != self._round:
            follows = number == self._round + 1
            self.next_round(None)  # what the dense model predicts on the old rung 1 serves again
            if not follows:
                self._round = number
                self._references.clear()
            self._readings.clear()
        self.learn(readings)

    def next_round(self, challenge: Mapping[str, Any] | None) -> None:
        """Old rung 1 becomes rung 0, with what is known of the incumbent there.

        Args:
            challenge: the data of a new incumbent's measurement on rung 1; None if the old one
                stays.
        """
        known = self._readings.get(1)
        kept = self.plan.screening
        references = {
            (0, start, stop): reference
            for (rung, start, stop), reference in self._references.items()
            if rung == 1 and stop <= kept
        }
        self._round += 1
        self._references = references
        self._readings.clear()
        if challenge is not None:
            values = tuple(challenge[READINGS[self.fitness]][:kept])
            kl = self.fitness == "kl"
            self._readings[0] = Divergence(values, ()) if kl else Divergence((), values)
        elif known is not None:
            self._readings[0] = known.first(kept)

    def _reference(self, rung: int, start: int, stop: int) -> DenseReference:
        key = (rung, start, stop)
        if key not in self._references:
            self.masker.restore()
            self._pruned_by = None
            windows = self.windows(rung).subset(start, stop)
            # Passes of a glance each: a reading does not depend on the parts it was read in.
            self._references[key] = DenseReference(
                self.masker.model,
                windows.tokens,
                self._compute,
                batch_tokens=self.plan.glance * self.plan.length,
            )
        return self._references[key]


def require_finite(value: float) -> None:
    """Raises `UnusableScores` for a reading that is no number, or infinite."""
    if not math.isfinite(value):
        raise UnusableScores("the pruned model's predictions are not finite")
