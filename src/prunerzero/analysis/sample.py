"""From a study to the recipes that an analysis measures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from prunerzero.errors import InputError
from prunerzero.evolution.rungs import decisive
from prunerzero.evolution.settings import STREAMED, SearchSettings
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.study import Candidate, Measurement, Study

FEWEST = 3
# Who proposes recipes that no measurement on this model has shaped.
UNTUNED = frozenset({"zoo", "guess", "seed", "random"})
# Settings that a search and the random search it is compared with have in common.
SAME = ("model_hash", "pattern", "genome", "calibration", "samples", "sequence_length", "selection")


class Distinct(NamedTuple):
    """A candidate whose masks no earlier one has.

    Attributes:
        id: its row.
        origin: what proposed it.
        recipe: its recipe.
        fitness: lower is better.
        rungs: its reading on each rung that it reached, on the scale of the fitness.
    """

    id: int
    origin: str
    recipe: Recipe
    fitness: float
    rungs: tuple[float, ...]


class StudyContent(NamedTuple):
    """What an analysis reads of a study.

    Attributes:
        path: its file.
        settings: what defines the search.
        candidates: the distinct ones, in order of insertion.
    """

    path: Path
    settings: SearchSettings
    candidates: list[Distinct]

    @property
    def pattern(self) -> Pattern:
        """What may be zero."""
        return Pattern.parse(self.settings.pattern)

    @property
    def untuned(self) -> list[Distinct]:
        """The candidates that no measurement on this model has shaped."""
        return [candidate for candidate in self.candidates if candidate.origin in UNTUNED]

    @property
    def best(self) -> Distinct:
        """The candidate of the lowest fitness."""
        return min(self.candidates, key=lambda candidate: candidate.fitness)


def read_study(path: str | Path) -> StudyContent:
    """Reads a study without changing it.

    Raises:
        InputError: there is none, it is no search's, or has too few distinct candidates.
    """
    with Study.open(path) as study:
        try:
            settings = SearchSettings.model_validate(study.settings)
        except ValidationError:
            raise InputError(f"study {study.path}: holds no settings of a search") from None
        _require_single(study.path, settings)
        climbs: dict[int | None, list[Measurement]] = {}
        for measurement in study.measurements("fitness"):
            climbs.setdefault(measurement.candidate_id, []).append(measurement)
        found: dict[str, Distinct] = {}
        for row in study.candidates("evaluated"):
            assert row.id is not None
            climb = sorted(climbs.get(row.id, []), key=lambda measurement: measurement.rung)
            found.setdefault(row.fingerprint or row.key, _distinct(row, climb))
        if len(found) < FEWEST:
            raise InputError(
                f"study {study.path}: {len(found)} distinct candidates are too few to analyse; "
                f"search on until there are at least {FEWEST}"
            )
        return StudyContent(study.path, settings, list(found.values()))


def _require_single(path: Path, settings: SearchSettings) -> None:
    """Checks that a search was for one model under one pattern, in memory.

    Raises:
        InputError: it was not.
    """
    for what, found in (("models", settings.model_hash), ("patterns", settings.pattern)):
        if "," in found:
            shown = settings.model if what == "models" else settings.pattern
            raise InputError(
                f"study {path}: is of several {what} ({shown}); analyse a search for one, and "
                "see the others with --transfer-model or --transfer-pattern"
            )
    if STREAMED in settings.compute:
        raise InputError(
            f"study {path}: its model was streamed from disk, but an analysis measures in memory; "
            "analyse a search with --no-stream"
        )


def require_random(other: StudyContent, content: StudyContent) -> None:
    """Checks that a study is a random search under the same conditions as another.

    Raises:
        InputError: it is not.
    """
    preset = other.settings.preset
    if preset != "random":
        raise InputError(
            f"study {other.path}: its preset is '{preset}'; a comparison with chance wants one of "
            "--preset random"
        )
    for name in SAME:
        here, there = getattr(content.settings, name), getattr(other.settings, name)
        if here != there:
            raise InputError(
                f"study {other.path}: its {name} is {there!r}, that of {content.path.name} "
                f"{here!r}; compare searches that differ in nothing else"
            )


def _distinct(row: Candidate, climb: Sequence[Measurement]) -> Distinct:
    assert row.id is not None
    assert row.fitness is not None
    where = f"candidate {row.id}: recipe"
    recipe = Recipe.from_json(dict(row.recipe), where)
    return Distinct(row.id, row.origin, recipe, row.fitness, rung_readings(row.fitness, climb))


def rung_readings(fitness: float, climb: Sequence[Measurement]) -> tuple[float, ...]:
    """A candidate's reading on each rung, on the scale of the fitness.

    A rung's log ratio is to the incumbent of its time; what that incumbent's own fitness was
    follows from the candidate's, which is that level plus the ratio that counted.

    Args:
        fitness: the candidate's.
        climb: its measurements, from rung 0 upwards.
    """
    if not climb or any("log_ratio" not in (reading.data or {}) for reading in climb):
        return (fitness,) if climb else ()  # the first candidate, or a search without a ladder
    level = fitness - decisive(climb)[0]
    return tuple(level + reading.data["log_ratio"] for reading in climb)


def spread(candidates: Sequence[Distinct], count: int) -> list[Distinct]:
    """Candidates evenly spaced in the order of fitness, the best and the worst among them.

    Args:
        candidates: the distinct candidates.
        count: how many to take at most.
    """
    ranked = sorted(candidates, key=lambda candidate: (candidate.fitness, candidate.id))
    if count >= len(ranked):
        return ranked
    last = len(ranked) - 1
    return [ranked[round(place * last / max(1, count - 1))] for place in range(count)]
