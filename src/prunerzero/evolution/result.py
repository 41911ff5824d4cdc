"""What a finished search returns and saves."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prunerzero import __version__
from prunerzero.evolution.closing import Closing, closing_json
from prunerzero.evolution.masking import under
from prunerzero.evolution.settings import SearchSettings
from prunerzero.evolution.targets import Targets
from prunerzero.notebook import Tabular
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.study import Study


@dataclass(frozen=True)
class SearchResult(Tabular):
    """A finished search.

    Attributes:
        best: the winner's recipe, with its provenance.
        recipe_path: where it is saved.
        nm_recipe_path: where it is saved without its allocation, for the N:M patterns of a search
            that was for unstructured ones too; else None.
        closings: the closing measurements, by the target's name, which is empty for a single one.
        candidates: rows of the study.
        seconds: search time of this invocation; ``timings`` tells the rest.
        timings: seconds of each stage.
        front: the best candidate of each size: ``{size, expression, fitness, candidate}``.
        heldout_readings: how often the study's held-out text has been read.
    """

    best: Recipe
    recipe_path: Path
    nm_recipe_path: Path | None
    closings: dict[str, Closing]
    candidates: int
    seconds: float
    timings: dict[str, float]
    front: list[dict[str, Any]]
    heldout_readings: int

    @property
    def closing(self) -> Closing:
        """The closing measurements of the only target, or of the first."""
        return next(iter(self.closings.values()))

    _title = "Held-out perplexity"

    def _rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for target, closing in self.closings.items():
            where = {"target": target} if target else {}
            others = [closing.dense, *closing.baselines]
            others += [closing.reallocated] if closing.reallocated else []
            for reading in sorted(others, key=lambda reading: -reading.loss.perplexity):
                interval = closing.intervals[reading.name]
                row = where | {"recipe": reading.name, "perplexity": reading.loss.perplexity}
                against = {"best_against_it": interval.change}
                found.append(row | against | {"low": interval.low, "high": interval.high})
            found.append(
                where | {"recipe": "best found", "perplexity": closing.best.loss.perplexity}
            )
        return found

    def _repr_html_(self) -> str:
        return super()._repr_html_() + self.best._repr_html_()

    def to_json(self) -> dict[str, Any]:
        """The result as `prunerzero search --json` prints it."""
        best = {
            "expression": self.best.expression,
            "group": self.best.group,
            "allocation": self.best.allocation.model_dump(),
            "recipe": str(self.recipe_path),
            "candidate": self.closing.winner.id,
        }
        tables = {
            name: {
                "best": {"heldout_perplexity": closing.best.loss.perplexity},
                **closing_json(closing),
            }
            for name, closing in self.closings.items()
        }
        if len(tables) == 1:
            [table] = tables.values()
            found = {**table, "best": best | table["best"]}
        else:
            if self.nm_recipe_path is not None:
                best["nm_recipe"] = str(self.nm_recipe_path)
            found = {"best": best, "targets": tables}
        return {
            **found,
            "front": self.front,
            "candidates": self.candidates,
            "seconds": self.seconds,
            "timings": self.timings,
            "heldout_readings": self.heldout_readings,
        }


def with_provenance(
    closings: Mapping[str, Closing], settings: SearchSettings, store: Study, targets: Targets
) -> Recipe:
    """The winner's recipe, with what must be known to trust it and not to evaluate it on its text.

    Args:
        closings: the closing measurements, by the target's name.
        settings: of the search.
        store: the study.
        targets: what the search was for.
    """
    perplexities = {name: closing.best.loss.perplexity for name, closing in closings.items()}
    winner = next(iter(closings.values())).winner
    first, *others = dict.fromkeys(ground.model for ground in targets.grounds)
    command = ["prunerzero search", first, *(f"--also {other}" for other in others)]
    command += dict.fromkeys(f"--pattern {target.pattern}" for target in targets.all)
    single = len(closings) == 1
    provenance = {
        "study": str(store.path),
        "candidate": winner.id,
        "date": datetime.now(UTC).date().isoformat(),
        "settings": settings.to_json(),
        "heldout_perplexity": next(iter(perplexities.values())) if single else perplexities,
        "texts": [use for ground in targets.grounds for use in ground.texts.used()],
        "versions": {"prunerzero": __version__, "python": platform.python_version()},
    }
    if not single:
        provenance["targets"] = list(closings)
    update = {
        "name": f"found in {store.path.name}",
        "source": " ".join(command),
        "provenance": provenance,
    }
    return Recipe.from_json(winner.recipe.to_json() | update)


def save_best(best: Recipe, study: Path, patterns: Sequence[Pattern]) -> tuple[Path, Path | None]:
    """Writes the recipe beside the study, and once more as N:M takes it where that differs."""
    stem = study.name.removesuffix(".db")
    path = study.with_name(f"{stem}.best.json")
    best.save(path)
    for pattern in patterns:
        structured = under(best, pattern)
        if structured != best:
            nm_path = study.with_name(f"{stem}.best-nm.json")
            structured.save(nm_path)
            return path, nm_path
    return path, None
