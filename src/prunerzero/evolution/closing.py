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
from prunerzero.evolution import updating
from prunerzero.evolution.masking import Masker, Maskers, under
from prunerzero.evolution.objective import combine
from prunerzero.evolution.population import Individual
from prunerzero.evolution.settings import Objective
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
# Single formulas are close together, and at 2:4 their fitness tells little of their order on
# validation text.
FORMULAS = 5
FORMULA_REACH = 0.1
# Two recipes whose probe masks agree on more of the weights than this are one mask family.
FAMILY_AGREEMENT = 0.97

UNDER_FOUND_ALLOCATION = "{} under the found allocation"


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
        winner: the finalist, or single formula, with the lowest validation loss.
        best: its held-out reading.
        dense: the dense model's.
        baselines: the zoo's readings, uniform allocation.
        reallocated: Wanda (or another rival of recipes with an update) under the winner's
            allocation; None if that is uniform.
        finalists: validation readings of all these, best first.
        formula: the best candidate with one formula and uniform allocation; None if there is none.
        formula_alone: its held-out reading.
        intervals: the winner's change in held-out perplexity against each of the others, by name.
        formula_intervals: the same of the best single formula.
    """

    winner: Individual
    best: Reading
    dense: Reading
    baselines: tuple[Reading, ...]
    reallocated: Reading | None
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
        target: what tells this model, pattern and text from the search's others.
    """

    def __init__(
        self,
        study: Study,
        comparison: Measures,
        pattern: Pattern,
        validation: Windows,
        heldout: Windows,
        target: str = "",
    ) -> None:
        validation.require(Split.VALIDATION)
        heldout.require(Split.HELDOUT)
        self._study = study
        self._comparison = comparison
        self._pattern = pattern
        self._validation = validation
        self._heldout = heldout
        self.target = target

    @property
    def windows(self) -> str:
        """Hash of the held-out windows."""
        return self._heldout.hash

    def validate(self, name: str, recipe: Recipe, candidate: int | None = None) -> Reading:
        """Measures on validation text."""
        return self._measured(name, recipe, self._validation, candidate)

    def finish(
        self, finalists: Sequence[tuple[Individual, Reading]], formula: Individual | None
    ) -> Closing:
        """Measures winner, the best single formula and baselines on held-out text.

        Args:
            finalists: with their validation readings; the first is the winner.
            formula: the best single formula.
        """
        winner = finalists[0][0]
        best = self._read(f"candidate {winner.id}", winner.recipe, winner.id)
        dense = self._read("dense", None)
        update = winner.recipe.update
        baselines = tuple(
            self._read(recipe.name, recipe)
            for recipe in updating.baselines(update, mixture=self._comparison.mixture)
        )
        reallocated = None
        allocation = under(winner.recipe, self._pattern).allocation
        if allocation.key() != UniformAllocation().key():
            rival = updating.rival(update)
            recipe = rival.model_copy(update={"allocation": allocation})
            name = UNDER_FOUND_ALLOCATION.format(rival.name)
            if recipe.key(self._pattern) == winner.recipe.key(self._pattern):
                reallocated = Reading(name, recipe, best.loss)
            else:
                name = f"{name} of candidate {winner.id}"
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
            reallocated=reallocated,
            finalists=tuple(finalists),
            formula=formula,
            formula_alone=alone,
            intervals=_against(best, others),
            formula_intervals=_against(alone, others) if alone else {},
        )

    def _read(self, name: str, recipe: Recipe | None, candidate: int | None = None) -> Reading:
        return self._measured(name, recipe, self._heldout, candidate)

    def _measured(
        self, name: str, recipe: Recipe | None, windows: Windows, candidate: int | None
    ) -> Reading:
        purpose: Purpose = "heldout" if windows is self._heldout else "validation"
        label = f"{name}, {self.target}" if self.target else name
        if recipe is not None:
            recipe = under(recipe, self._pattern)
        for known in self._study.measurements(purpose):
            if known.name == label and known.windows == windows.hash:
                return Reading(name, recipe, TextLoss(tuple(known.data["losses"]), known.tokens))
        began = time.perf_counter()
        if recipe is None:
            loss = self._comparison.measure_dense(windows)
        else:
            # A finalist's masks serve again if it wins.
            final = purpose == "validation"
            step = f"{purpose}, {label}"
            outcome = self._comparison.measure(step, recipe, self._pattern, windows, remember=final)
            loss = outcome.loss
        self._study.add_measurement(
            Measurement(
                candidate_id=candidate,
                name=label,
                purpose=purpose,
                windows=windows.hash,
                tokens=loss.tokens,
                loss=loss.mean,
                data={"losses": loss.losses},
                seconds=time.perf_counter() - began,
            )
        )
        return Reading(name, recipe, loss)


def close(
    study: Study,
    closers: Sequence[Closer],
    finalists: Sequence[Individual],
    formulas: Sequence[Individual] = (),
    objective: Objective = "mean",
) -> list[Closing]:
    """Chooses the winners on all targets' validation text, and takes each one's closing table.

    Args:
        study: where the reading of held-out text is noted.
        closers: one for each target.
        finalists: candidates to choose the winner from.
        formulas: more of them, one formula under uniform allocation each; the best of these is
            read on held-out text even if it does not win.
        objective: how targets are combined: the mean loss, or that which is worst against Wanda's.
    """
    chosen = {one.id: one for one in [*finalists, *formulas]}
    readings = {
        one.id: [closer.validate(f"candidate {one.id}", one.recipe, one.id) for closer in closers]
        for one in chosen.values()
    }
    origins = [0.0] * len(closers)
    if objective == "worst":  # as in the fitness, where targets are set off against the first
        first = updating.start(finalists[0].recipe.update)
        origins = [closer.validate(first.name, first).loss.mean for closer in closers]

    def height(finalist: Individual) -> float:
        losses = [reading.loss.mean for reading in readings[finalist.id]]
        above = [loss - origin for loss, origin in zip(losses, origins, strict=True)]
        return combine(above, objective)

    order = sorted(chosen.values(), key=height)
    formula = min(formulas, key=height, default=None)
    hashes = " ".join(dict.fromkeys(closer.windows for closer in closers))
    study.add_event("heldout", {"winner": order[0].id, "windows": hashes})
    return [
        closer.finish([(one, readings[one.id][target]) for one in order], formula)
        for target, closer in enumerate(closers)
    ]


def _against(reading: Reading, others: Sequence[Reading]) -> dict[str, Interval]:
    """The change in held-out perplexity against each of the others, by name."""
    return {other.name: paired_interval(reading.loss.losses, other.loss.losses) for other in others}


def single_formulas(
    individuals: Sequence[Individual], key: Callable[[Recipe], str]
) -> list[Individual]:
    """The individuals that are one formula under uniform allocation, without published ones.

    Args:
        individuals: evaluated candidates.
        key: equal for recipes that prune alike (`Maskers.key`).
    """
    rivals = updating.baselines(individuals[0].recipe.update, mixture=True) if individuals else ()
    published = {key(recipe) for recipe in (*zoo.published(mixture=True), *rivals)}
    return [
        individual
        for individual in individuals
        if isinstance(individual.recipe.metric, Metric)
        and individual.recipe.allocation == UniformAllocation()
        and key(individual.recipe) not in published
    ]


def choose_finalists(
    individuals: Sequence[Individual],
    incumbent: Individual | None,
    masker: Masker | Maskers,
    log_ratio: Callable[[float, float], float],
    count: int = FINALISTS,
    reach: float = WITHIN_REACH,
) -> list[Individual]:
    """The best few individuals within reach of the incumbent, from distinct mask families.

    The incumbent comes first: it has won by more than noise, where a candidate with a slightly
    lower fitness may only have been lucky.

    Args:
        individuals: evaluated candidates.
        incumbent: the one that nothing has beaten; None for the one with the lowest fitness.
        masker: gives their masks on the probe matrices.
        log_ratio: how far the first of two fitnesses is behind the other (`Judge.log_ratio`).
        count: how many to choose.
        reach: how far behind one may be.
    """
    if not individuals:
        return []
    incumbent = incumbent or min(individuals, key=lambda member: member.fitness)
    ranked = sorted(individuals, key=lambda member: (member.id != incumbent.id, member.fitness))
    chosen: list[tuple[Individual, list[Tensor]]] = []
    for individual in ranked[:CONSIDERED]:
        if log_ratio(individual.fitness, incumbent.fitness) > reach:
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

    update = closing.winner.recipe.update
    reallocated = f"{updating.rival(update).name}_under_found_allocation"
    return {
        "dense": entry(closing.dense),
        "baselines": {reading.name: entry(reading) for reading in closing.baselines},
        reallocated: entry(closing.reallocated) if closing.reallocated else None,
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
