"""What all figures have in common: one pair of axes, saved as the same file for the same data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from prunerzero.errors import MissingExtraError
from prunerzero.files import atomic_path

BLUE, GREY, RED = "#3b6ea8", "#888888", "#b5483a"
COLOURS = (BLUE, RED, "#4d8a3f", "#8a5fa8", "#c98a1b", "#3a9a9a", "#666666", "#c0609a")
WIDTH = 7.0
MOST_MARKERS = 20  # of a curve whose points are marked


class Line(NamedTuple):
    """A curve with a band.

    Attributes:
        label: what it is of.
        x: places.
        y: values there.
        low: lower end of the band.
        high: upper end.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Figure(NamedTuple):
    """A plot as data.

    Attributes:
        name: of its file.
        x_label: what goes along.
        y_label: what goes up.
        lines: the curves.
        x_scale: ``linear`` or ``log``.
        y_scale: likewise.
        ticks: labels of the places on the x axis; empty for numbers.
    """

    name: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    x_scale: str = "linear"
    y_scale: str = "linear"
    ticks: tuple[str, ...] = ()


def require_matplotlib() -> None:
    """Finds out at once whether matplotlib is there.

    Raises:
        MissingExtraError: it is not.
    """
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("plot", "drawing figures") from error


def draw(path: Path, paint: Callable[[Any], None], *, height: float = 4.0) -> Path:
    """Draws one figure as an SVG file, atomically.

    Args:
        path: the file.
        paint: draws on a pair of axes.
        height: inches; the figure is `WIDTH` wide.

    Returns:
        The file.

    Raises:
        InputError: it cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # A fixed salt and no date: drawing the same data again gives the same file.
    with mpl.rc_context({"svg.hashsalt": "prunerzero", "svg.fonttype": "path"}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure.add_subplot())
        with atomic_path(path) as temporary:
            figure.savefig(temporary, facecolor="white", metadata={"Date": None})
    return path


def paint(figure: Figure, axes: Any) -> None:
    """Draws a plot on a pair of axes."""
    for number, line in enumerate(figure.lines):
        colour = COLOURS[number % len(COLOURS)]
        # Categories have no in-between: points beside one another, not a curve.
        if figure.ticks:
            offset = 0.6 * ((number + 0.5) / len(figure.lines) - 0.5)
            places = [place + offset for place in line.x]
            below = [y - low for y, low in zip(line.y, line.low, strict=True)]
            above = [high - y for y, high in zip(line.y, line.high, strict=True)]
            axes.errorbar(
                places, line.y, (below, above), fmt="o", ms=4, capsize=2, color=colour,
                label=line.label,
            )  # fmt: skip
        else:
            marker = "o" if len(line.x) < MOST_MARKERS else None
            axes.plot(line.x, line.y, marker=marker, ms=4, color=colour, label=line.label)
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
    if figure.ticks:
        axes.set_xticks(range(len(figure.ticks)), figure.ticks)
    else:
        axes.set_xscale(figure.x_scale)
    axes.set_yscale(figure.y_scale)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
