"""What workers do: look at a candidate's masks, measure it, take derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunerzero.errors import TooSlow, UnusableScores
from prunerzero.evolution.arena import Arena
from prunerzero.evolution.guidance import Guidance, MeasureGuidance, guidance_on
from prunerzero.evolution.judging import Judge, Stance
from prunerzero.evolution.masking import Maskers, Sketch
from prunerzero.recipe import Recipe
from prunerzero.study.records import Measurement
from prunerzero.timelimit import ENDLESS, Allowance, time_limit

# No candidate can bring down the search: an operator of the user's may raise.
CANDIDATES_FAULTS = (RuntimeError, MemoryError, ArithmeticError, ValueError)


@dataclass(frozen=True)
class Look:
    """Asks for the recipe's masks on the probe matrices; answered by a `Sketch`."""

    recipe: Recipe
    allowance: Allowance = ENDLESS


@dataclass(frozen=True)
class Measure:
    """Asks for the measurements that decide on a recipe; answered by `Measured`."""

    recipe: Recipe
    stance: Stance | None
    allowance: Allowance = ENDLESS


@dataclass(frozen=True)
class Derive:
    """Asks for the derivatives at a recipe, on windows of a number; answered by a `Guidance`."""

    recipe: Recipe
    index: int


@dataclass(frozen=True)
class Measured:
    """The measurements of a candidate, and what was found out about the incumbent."""

    measurements: tuple[Measurement, ...]
    learnt: Stance | None


@dataclass(frozen=True)
class Fault:
    """A task that could not be done, and why.

    Attributes:
        reason: in one line.
        candidates: the candidate is at fault; else it is a fault of ours.
        unusable: its scores cannot rank weights.
    """

    reason: str
    candidates: bool = True
    unusable: bool = False


@dataclass(frozen=True)
class Lost:
    """A worker that is gone, with whatever it was at."""

    reason: str


Task = Look | Measure | Derive
Answer = Sketch | Measured | Guidance | Fault


def reason_of(error: BaseException) -> str:
    """Why a candidate failed, as the study keeps it."""
    if isinstance(error, UnusableScores | TooSlow):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@dataclass
class Workplace:
    """What a worker holds: models, statistics, windows, and what reads them.

    Attributes:
        judge: a copy of the search's.
        maskers: prune the models.
        arenas: for derivatives; empty where none are asked for.
        measure_guidance: takes them.
    """

    judge: Judge
    maskers: Maskers
    arenas: Sequence[Arena]
    measure_guidance: MeasureGuidance

    def do(self, task: Task) -> Answer:
        """Does a task; never raises for what can go wrong with a candidate."""
        try:
            if isinstance(task, Look):
                with time_limit(task.allowance):
                    return self.maskers.sketch(task.recipe)
            if isinstance(task, Measure):
                with time_limit(task.allowance):
                    measurements = self.judge.measure(task.recipe, task.stance)
                return Measured(measurements, self.judge.learnt())
            return guidance_on(self.arenas, self.measure_guidance, task.recipe, task.index)
        except CANDIDATES_FAULTS as error:
            return Fault(reason_of(error), unusable=isinstance(error, UnusableScores))
        except Exception as error:
            return Fault(f"{type(error).__name__}: {error}", candidates=False)
