"""Pictures of a study, as Optuna's: each is a plain named tuple first, then drawn.

The tuples (`history_info` and its like) need no matplotlib, so that what a picture shows can be
read, tested and drawn by other means.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple

from prunerzero.report.data import Scale, funnel
from prunerzero.report.drawing import BLUE, GREY, RED
from prunerzero.report.figures import figure
from prunerzero.report.rows import Rows, SearchClock
from prunerzero.study.progress import pareto_front

if TYPE_CHECKING:
    from prunerzero.study import Study


class Line(NamedTuple):
    """A published recipe that the study measured.

    Attributes:
        name: its name.
        value: as the picture's values.
    """

    name: str
    value: float


class HistoryInfo(NamedTuple):
    """Best so far; lists have one entry a candidate.

    Attributes:
        measure: what the values are.
        candidates: ids of the evaluated candidates, in order.
        seconds: search time at which each was measured.
        values: of each; lower is better.
        best: the lowest value up to each.
        lines: published recipes.
    """

    measure: str
    candidates: tuple[int, ...]
    seconds: tuple[float, ...]
    values: tuple[float, ...]
    best: tuple[float, ...]
    lines: tuple[Line, ...]


class FrontInfo(NamedTuple):
    """Size against value; the front's members are better than every shorter one.

    Attributes:
        measure: what the values are.
        sizes: nodes of each evaluated candidate's formulas.
        values: of each.
        front: ids of the front's members, shortest first.
        front_sizes: their sizes.
        front_values: their values.
        expressions: their formulas.
    """

    measure: str
    sizes: tuple[int, ...]
    values: tuple[float, ...]
    front: tuple[int, ...]
    front_sizes: tuple[int, ...]
    front_values: tuple[float, ...]
    expressions: tuple[str, ...]


class FunnelInfo(NamedTuple):
    """How many candidates reached each stage."""

    stages: tuple[str, ...]
    counts: tuple[int, ...]


def history_info(study: Study) -> HistoryInfo:
    """What ``study.plot.history()`` draws."""
    rows = Rows.read(study)
    scale, clock = Scale(rows), SearchClock(rows)
    found = [row for row in rows.candidates.values() if row.fitness is not None]
    values = [scale.value(row.fitness or 0.0) for row in found]
    return HistoryInfo(
        measure=scale.measure.name,
        candidates=tuple(row.id or 0 for row in found),
        seconds=tuple(clock.at(row.created) for row in found),
        values=tuple(values),
        best=tuple(accumulate(values, min)),
        lines=tuple(Line(each.name, each.value) for each in scale.references(rows)),
    )


def front_info(study: Study) -> FrontInfo:
    """What ``study.plot.pareto_front()`` draws."""
    rows = Rows.read(study)
    scale = Scale(rows)
    found = [row for row in rows.candidates.values() if row.fitness is not None]
    members = pareto_front(found)
    return FrontInfo(
        measure=scale.measure.name,
        sizes=tuple(row.size for row in found),
        values=tuple(scale.value(row.fitness or 0.0) for row in found),
        front=tuple(row.id or 0 for row in members),
        front_sizes=tuple(row.size for row in members),
        front_values=tuple(scale.value(row.fitness or 0.0) for row in members),
        expressions=tuple(row.expression for row in members),
    )


def funnel_info(study: Study) -> FunnelInfo:
    """What ``study.plot.funnel()`` draws."""
    stages = funnel(Rows.read(study)).stages
    return FunnelInfo(tuple(stage.name for stage in stages), tuple(stage.count for stage in stages))


class StudyPlots:
    """The pictures of one study; each method returns a new matplotlib figure.

    A notebook shows a figure that ends a cell; ``figure.savefig("history.svg")`` writes it.
    """

    def __init__(self, study: Study) -> None:
        """Reads nothing yet: every picture is of the study as it is then."""
        self._study = study

    def history(self) -> Any:
        """Every candidate's value and the best so far, in order, with published recipes as lines.

        Raises:
            MissingExtraError: Without matplotlib.
        """
        info = history_info(self._study)
        drawn, axes = figure(7.0, 4.0)
        axes.plot(info.candidates, info.values, ".", color=GREY, markersize=4, label="candidate")
        axes.step(info.candidates, info.best, where="post", color=BLUE, label="best so far")
        for line in info.lines:
            axes.axhline(line.value, color=RED, linestyle="--", linewidth=0.8)
            axes.annotate(line.name, (1, line.value), xycoords=("axes fraction", "data"),
                          ha="right", va="bottom", fontsize=8, color=RED)  # fmt: skip
        _focus(axes, info.values, [line.value for line in info.lines])
        axes.set_xlabel("candidate")
        axes.set_ylabel(_folded(info.measure))
        if info.values:
            axes.legend(loc="upper right", fontsize=8)
        return drawn

    def pareto_front(self) -> Any:
        """Size of the formulas against the value, and the front.

        Raises:
            MissingExtraError: Without matplotlib.
        """
        info = front_info(self._study)
        drawn, axes = figure(7.0, 4.0)
        axes.plot(info.sizes, info.values, ".", color=GREY, markersize=4)
        axes.plot(info.front_sizes, info.front_values, "o-", color=BLUE, drawstyle="steps-post")
        _focus(axes, info.values, info.front_values)
        axes.set_xlabel("nodes of the formulas")
        axes.set_ylabel(_folded(info.measure))
        return drawn

    def funnel(self) -> Any:
        """How many proposals were avoided, measured, promoted, and won.

        Raises:
            MissingExtraError: Without matplotlib.
        """
        info = funnel_info(self._study)
        drawn, axes = figure(7.0, 0.8 + 0.35 * len(info.stages))
        bars = axes.barh(range(len(info.stages)), info.counts, color=BLUE)
        axes.bar_label(bars, padding=3, fontsize=8)
        axes.set_yticks(range(len(info.stages)), info.stages)
        axes.invert_yaxis()
        axes.set_xlabel("candidates")
        return drawn


def _focus(axes: Any, values: Sequence[float], shown: Sequence[float]) -> None:
    """Leaves the worst tenth out of the picture, where they would squeeze the rest together."""
    if len(values) >= 10:
        ranked = sorted(values)
        high = max([ranked[int(0.9 * len(ranked))], *shown])
        margin = 0.05 * (high - ranked[0]) or 1.0
        axes.set_ylim(ranked[0] - margin, high + margin)


def _folded(text: str, width: int = 44) -> str:
    return fill(text, width)
