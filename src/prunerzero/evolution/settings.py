"""What defines a search, and how long one invocation of it may take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from prunerzero.data.sources import load_documents
from prunerzero.data.splits import Split, split_documents
from prunerzero.errors import InputError
from prunerzero.pruning.pattern import Pattern
from prunerzero.updates.names import Update

Preset = Literal["default", "paper", "random", "evopress"]
GenomeKind = Literal["recipe", "formula"]
Objective = Literal["mean", "worst"]
FitnessKind = Literal["kl", "loss"]
ExecutorKind = Literal["serial", "process", "ray"]

STREAMED = "streamed"

# The paper's population and iterations, one proposal each.
PAPER_POPULATION = 50
PAPER_ITERATIONS = 300

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """When to stop proposing candidates; whichever comes first.

    Attributes:
        seconds: search time of this invocation, without statistics and closing measurements.
        candidates: rows of the whole study.
        proposals: candidates and avoided duplicates of the whole study, which is what the
            published algorithm counts.
    """

    seconds: float | None = None
    candidates: int | None = None
    proposals: int | None = None

    @classmethod
    def parse(cls, time: str | None, candidates: int | None = None) -> Budget:
        """Reads a time such as ``90s``, ``10m``, ``2h`` and a number of candidates.

        Raises:
            InputError: if the time is none, or either is not positive.
        """
        if candidates is not None and candidates < 1:
            raise InputError(f"candidates {candidates}: give at least 1")
        if time is None:
            return cls(None, candidates)
        match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)\s*([smh])", time.strip())
        seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
        if seconds <= 0:
            raise InputError(f"budget '{time}': give a time such as 90s, 10m or 2h")
        return cls(seconds, candidates)

    def spent(self, seconds: float, candidates: int, proposals: int) -> bool:
        """Whether a search that took so long and made so many candidates is over."""
        limits = (
            (self.seconds, seconds),
            (self.candidates, candidates),
            (self.proposals, proposals),
        )
        return any(limit is not None and used >= limit for limit, used in limits)

    def __str__(self) -> str:
        parts = [
            f"{self.seconds:g} s" if self.seconds is not None else "",
            f"{self.candidates} candidates" if self.candidates is not None else "",
            f"{self.proposals} proposals" if self.proposals is not None else "",
        ]
        return " or ".join(part for part in parts if part)


def check_preset(
    preset: Preset,
    patterns: Sequence[Pattern],
    genome: GenomeKind,
    guesses: bool,
    fitness: FitnessKind = "kl",
    vocabulary: Sequence[str] = (),
) -> None:
    """Checks that a preset fits the rest.

    Raises:
        InputError: it does not; the line says why.
    """
    if guesses and preset != "default":
        raise InputError(f"preset '{preset}': has starting points of its own, so it takes no guess")
    if vocabulary and preset in ("paper", "evopress"):
        raise InputError(f"preset '{preset}': its formulas are given, so it takes no vocabulary")
    if genome == "formula" and preset in ("paper", "evopress"):
        raise InputError(
            f"preset '{preset}': "
            + ("searches formulas anyway" if preset == "paper" else "searches allocations alone")
        )
    if preset == "evopress" and all(pattern.is_nm for pattern in patterns):
        fixed = ", ".join(map(str, patterns))
        raise InputError(f"preset 'evopress': {fixed} leaves no allocation to search")
    if preset == "paper" and fitness == "loss":
        raise InputError("preset 'paper': its fitness is perplexity anyway, so leave out 'loss'")


def check_targets(
    models: Sequence[str],
    patterns: Sequence[Pattern],
    calibrations: Sequence[str],
    objective: Objective,
    preset: Preset,
) -> None:
    """Checks that a search can be for these models, patterns and texts at once.

    Raises:
        InputError: one is given twice, the texts would leak into one another's held-out documents,
            or the objective or the preset does not fit their number.
    """
    for what, given in (("model", models), ("pattern", patterns), ("calibration", calibrations)):
        names = [str(one) for one in given]
        if not names:
            raise InputError(f"{what}: give at least one")
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"{what} '{name}': is given twice")
    several = len(models) * len(patterns) * len(calibrations) > 1
    if several and preset == "paper":
        raise InputError("preset 'paper': searches for one model, pattern and text only")
    if not several and objective == "worst":
        raise InputError("objective 'worst': needs several models, patterns or texts")
    check_texts(calibrations)


def check_executor(
    kind: ExecutorKind, workers: int | None, address: str | None, *, stream: bool
) -> None:
    """Checks that the options of executors fit together.

    Raises:
        InputError: they do not; the line says why.
    """
    if kind == "serial" and workers not in (None, 1):
        raise InputError(f"workers {workers}: executor 'serial' has none; choose process or ray")
    if workers is not None and workers < 1:
        raise InputError(f"workers {workers}: give at least 1")
    if address is not None and kind != "ray":
        raise InputError(f"ray address '{address}': is for executor 'ray', not '{kind}'")
    if stream and kind != "serial":
        raise InputError(
            f"executor '{kind}': a streamed model is read by one process; leave out stream or "
            "choose executor serial"
        )


def check_texts(sources: Sequence[str]) -> None:
    """Checks that no document has one use in one text and another use in another.

    Raises:
        InputError: a text cannot be had or split, or two of them disagree.
    """
    uses: dict[str, tuple[Split, str]] = {}
    for source in sources:
        for split, documents in split_documents(load_documents(source)).items():
            for document in documents:
                known, other = uses.setdefault(document.hash, (split, source))
                if known is not split:
                    raise InputError(
                        f"texts '{other}' and '{source}': have a document in common, for {known} "
                        f"in one and {split} in the other; search on one of them"
                    )


class SearchSettings(BaseModel):
    """Everything that decides which candidates a search tries and what they measure.

    A study is continued only under the settings that it was begun with.

    Attributes:
        model: the model's name as the user gave it; several are separated by commas here and below.
        model_hash: SHA-256 of its weights.
        pattern: what may be zero.
        preset: which strategy proposes.
        genome: ``recipe``, or ``formula`` for one formula under uniform allocation.
        seed: seed of everything random.
        guesses: the user's own metrics or recipes, as JSON objects.
        calibration: text source, for all four splits.
        samples: calibration windows.
        sequence_length: tokens in a calibration, validation or held-out window.
        compute: device type and precision of the passes, and `STREAMED` if they are.
        rungs: sizes of the fitness ladder.
        selection: what is pruned, as a `Selection`.
        objective: how several targets are combined.
        fitness: what a candidate is compared by.
        asynchronous: workers measure several candidates at once.
        update: what happens to the kept weights before that.
        vocabulary: terminals and operators that random trees draw beside the usual ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    model_hash: str
    pattern: str
    preset: Preset = "default"
    genome: GenomeKind = "recipe"
    seed: int = 0
    guesses: list[dict[str, Any]] = []
    calibration: str = "wikipedia"
    samples: int = 16
    sequence_length: int = 512
    compute: str = "float32"
    rungs: dict[str, int] = {}
    selection: dict[str, Any] = {}
    objective: Objective = "mean"
    fitness: FitnessKind = "kl"
    asynchronous: bool = False
    update: Update = "none"
    vocabulary: list[str] = []

    def to_json(self) -> dict[str, Any]:
        """As a study keeps them; what came later is left out at its default, as in old studies."""
        later = {"objective", "fitness", "asynchronous", "update", "vocabulary"}
        usual = {
            name for name in later if getattr(self, name) == type(self).model_fields[name].default
        }
        return self.model_dump(mode="json", exclude=usual)
