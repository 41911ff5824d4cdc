"""The end of a search: finalists on validation text, then the winner once on held-out text."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from prunerzero import zoo
from prunerzero.data.splits import Split
from prunerzero.data.windows import Windows
from prunerzero.evaluation.comparison import Measures
from prunerzero.evaluation.perplexity import Interval, TextLoss, paired_interval
from prunerzero.evolution.masking import Masker
from prunerzero.evolution.population import Individual
from prunerzero.metric import Metric
from prunerzero.pruning.allocation import UniformAllocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.study import Measurement, Study
from prunerzero.study.records import Purpose

FINALISTS = 3
# Candidates considered as finalists; masks of more would take longer than they are worth.
CONSIDERED = 40
# A candidate whose fitness is this far (log ratio) behind the best one's will not win on validation
# text (0.004 behind has won, 0.06 and 0.07 lost clearly), and validating it takes as long as a good
# one.
WITHIN_REACH = 0.05
# Two recipes whose probe masks agree on more of the weights than this are one mask family.
FAMILY_AGREEMENT = 0.97

UNDER_FOUND_ALLOCATION = "wanda under the found allocation"


@dataclass(frozen=True)
class Reading:
    """A model's loss on held-out or validation windows."""

    name: str
    recipe: Recipe | None
    loss: TextLoss


@dataclass(frozen=True)
class Closing:
    """What a finished search shows.

    Attributes:
        winner: the finalist with the lowest validation loss.
        best: its held-out reading.
        dense: the dense model's.
        baselines: the zoo's readings, uniform allocation.
        wanda_reallocated: Wanda under the winner's allocation; None if that is uniform.
        finalists: validation readings, best first.
        formula: the best candidate with one formula and uniform allocation; None if there is none.
        formula_alone: its held-out reading.
        intervals: the winner's change in held-out perplexity against each of the others, by name.
        formula_intervals: the same of the best single formula.
    """

    winner: Individual
    best: Reading
    dense: Reading
    baselines: tuple[Reading, ...]
    wanda_reallocated: Reading | None
    finalists: tuple[tuple[Individual, Reading], ...]
    formula: Individual | None
    formula_alone: Reading | None
    intervals: dict[str, Interval]
    formula_intervals: dict[str, Interval]


class Closer:
    """Takes the closing measurements; those that the study has already are not repeated.

    Args:
        study: where measurements go.
        comparison: prunes and measures, sequentially, on the same calibration windows for all.
        pattern: what may be zero.
        validation: windows that choose the winner.
        heldout: windows that nothing but the final table reads.
    """

    def __init__(
        self,
        study: Study,
        comparison: Measures,
        pattern: Pattern,
        validation: Windows,
        heldout: Windows,
    ) -> None:
        validation.require(Split.VALIDATION)
        heldout.require(Split.HELDOUT)
        self._study = study
        self._comparison = comparison
        self._pattern = pattern
        self._validation = validation
        self._heldout = heldout

    def close(self, finalists: Sequence[Individual], formula: Individual | None = None) -> Closing:
        """Measures finalists, winner, the best single formula and baselines."""
        ranked = sorted(
            ((finalist, self._validated(finalist)) for finalist in finalists),
            key=lambda pair: pair[1].loss.mean,
        )
        winner = ranked[0][0]
        self._study.add_event("heldout", {"winner": winner.id, "windows": self._heldout.hash})
        best = self._read(f"candidate {winner.id}", winner.recipe, winner.id)
        dense = self._read("dense", None)
        baselines = tuple(
            self._read(recipe.name, recipe.model_copy(update={"allocation": UniformAllocation()}))
            for recipe in zoo.published(mixture=self._comparison.mixture)
        )
        reallocated = None
        if winner.recipe.allocation.key() != UniformAllocation().key():
            wanda = Recipe.named("wanda")
            recipe = wanda.model_copy(update={"allocation": winner.recipe.allocation})
            if recipe.key(self._pattern) == winner.recipe.key(self._pattern):
                reallocated = Reading(UNDER_FOUND_ALLOCATION, recipe, best.loss)
            else:
                name = f"{UNDER_FOUND_ALLOCATION} of candidate {winner.id}"
                reallocated = self._read(name, recipe)
        alone = None
        if formula is not None:
            alone = self._read(f"candidate {formula.id}", formula.recipe, formula.id)
        others = [dense, *baselines, *([reallocated] if reallocated else [])]
        return Closing(
            winner=winner,
            best=best,
            dense=dense,
            baselines=baselines,
            wanda_reallocated=reallocated,
            finalists=tuple(ranked),
            formula=formula,
            formula_alone=alone,
            intervals=_against(best, others),
            formula_intervals=_against(alone, others) if alone else {},
        )

    def _validated(self, finalist: Individual) -> Reading:
        name = f"candidate {finalist.id}"
        return self._measured(name, finalist.recipe, self._validation, finalist.id)

    def _read(self, name: str, recipe: Recipe | None, candidate: int | None = None) -> Reading:
        return self._measured(name, recipe, self._heldout, candidate)

    def _measured(
        self, name: str, recipe: Recipe | None, windows: Windows, candidate: int | None
    ) -> Reading:
        purpose: Purpose = "heldout" if windows is self._heldout else "validation"
        for known in self._study.measurements(purpose):
            if known.name == name and known.windows == windows.hash:
                return Reading(name, recipe, TextLoss(tuple(known.data["losses"]), known.tokens))
        began = time.perf_counter()
        if recipe is None:
            loss = self._comparison.measure_dense(windows)
        else:
            # A finalist's masks serve again if it wins.
            final = purpose == "validation"
            step = f"{purpose}, {name}"
            outcome = self._comparison.measure(step, recipe, self._pattern, windows, remember=final)
            loss = outcome.loss
        self._study.add_measurement(
            Measurement(
                candidate_id=candidate,
                name=name,
                purpose=purpose,
                windows=windows.hash,
                tokens=loss.tokens,
                loss=loss.mean,
                data={"losses": loss.losses},
                seconds=time.perf_counter() - began,
            )
        )
        return Reading(name, recipe, loss)


def _against(reading: Reading, others: Sequence[Reading]) -> dict[str, Interval]:
    """The change in held-out perplexity against each of the others, by name."""
    return {other.name: paired_interval(reading.loss.losses, other.loss.losses) for other in others}


def best_formula(individuals: Sequence[Individual], pattern: Pattern) -> Individual | None:
    """The best individual that is one formula under uniform allocation.

    None if that is a published one, which the closing measures anyway.
    """
    published = {recipe.key(pattern) for recipe in zoo.published(mixture=True)}
    alone = [
        individual
        for individual in individuals
        if isinstance(individual.recipe.metric, Metric)
        and individual.recipe.allocation == UniformAllocation()
    ]
    best = min(alone, key=lambda individual: individual.fitness, default=None)
    return None if best is None or best.recipe.key(pattern) in published else best


def choose_finalists(
    individuals: Sequence[Individual],
    incumbent: Individual,
    masker: Masker,
    log_ratio: Callable[[float, float], float],
    count: int = FINALISTS,
) -> list[Individual]:
    """The best few individuals within reach of the incumbent, from distinct mask families.

    The incumbent comes first: it has won by more than noise, where a candidate with a slightly
    lower fitness may only have been lucky.

    Args:
        individuals: evaluated candidates.
        incumbent: the one that nothing has beaten.
        masker: gives their masks on the probe matrices.
        log_ratio: how far the first of two fitnesses is behind the other (`Judge.log_ratio`).
        count: how many to choose.
    """
    ranked = sorted(individuals, key=lambda member: (member.id != incumbent.id, member.fitness))
    chosen: list[tuple[Individual, list[Tensor]]] = []
    for individual in ranked[:CONSIDERED]:
        if log_ratio(individual.fitness, incumbent.fitness) > WITHIN_REACH:
            break
        masks = masker.probe_masks(individual.recipe)
        if all(mask_agreement(masks, other) < FAMILY_AGREEMENT for _, other in chosen):
            chosen.append((individual, masks))
        if len(chosen) == count:
            break
    return [individual for individual, _ in chosen]


def mask_agreement(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Share of weights that two recipes treat alike on the same matrices."""
    agreeing = sum(int((a == b).sum()) for a, b in zip(first, second, strict=True))
    return agreeing / sum(mask.numel() for mask in first)


def closing_json(closing: Closing) -> dict[str, Any]:
    """The closing measurements as `prunerzero search --json` prints them."""

    def entry(reading: Reading) -> dict[str, Any]:
        document: dict[str, Any] = {"heldout_perplexity": reading.loss.perplexity}
        if reading.recipe is not None:
            document |= {
                "expression": reading.recipe.expression,
                "group": reading.recipe.group,
            }
        for key, intervals in (
            ("best_against_it", closing.intervals),
            ("formula_against_it", closing.formula_intervals),
        ):
            if reading.name in intervals:
                document[key] = asdict(intervals[reading.name]) | {
                    "significant": intervals[reading.name].significant
                }
        return document

    return {
        "dense": entry(closing.dense),
        "baselines": {reading.name: entry(reading) for reading in closing.baselines},
        "wanda_under_found_allocation": (
            entry(closing.wanda_reallocated) if closing.wanda_reallocated else None
        ),
        "formula_alone": (
            entry(closing.formula_alone) | {"candidate": closing.formula.id}
            if closing.formula_alone and closing.formula
            else None
        ),
        "finalists": [
            {
                "candidate": individual.id,
                "expression": individual.recipe.expression,
                "group": individual.recipe.group,
                "allocation": individual.recipe.allocation.key(),
                "fitness": individual.fitness,
                "validation_perplexity": reading.loss.perplexity,
            }
            for individual, reading in closing.finalists
        ],
    }
