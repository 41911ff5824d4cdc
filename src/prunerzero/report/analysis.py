"""The figures of an analysis: each is data first (`prunerzero.analysis.records`), then drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prunerzero.analysis.analyze import Analysis
from prunerzero.report.drawing import BLUE, GREY, RED, draw, require_matplotlib

MASKS = "Jaccard overlap of pruned weights"
SCORES = "rank correlation of scores within rows"
MOST_FEATURES = 20
NORMAL_95 = 1.959963984540054


class Bar(NamedTuple):
    """A value with its interval, in a column of such.

    Attributes:
        label: what it is of.
        value: the value.
        low: lower end of the interval.
        high: upper end.
    """

    label: str
    value: float
    low: float
    high: float


class Point(NamedTuple):
    """A recipe in a plot of a cheap reading against the perplexity."""

    name: str
    cheap: float
    perplexity: float
    family: int


class Heatmap(NamedTuple):
    """A square of values between -1 and 1, rows and columns in the order of a dendrogram."""

    names: tuple[str, ...]
    values: np.ndarray[Any, Any]


def proxy_bars(analysis: Analysis) -> list[Bar]:
    """Kendall's tau of each cheap reading with the perplexity."""
    return [
        Bar(f"{row.proxy}, {row.pattern}", *row.agreement.kendall[:3])
        for row in analysis.correlations
        if row.among == "all"
    ]


def reconstruction_points(analysis: Analysis) -> list[Point]:
    """Reconstruction error against perplexity, a point a recipe."""
    return [
        Point(row.name, row.reconstruction, row.perplexity, row.family) for row in analysis.measured
    ]


def mask_heatmap(analysis: Analysis) -> Heatmap:
    """Jaccard overlap of what recipes prune, similar recipes side by side."""
    return _clustered(analysis, analysis.likeness.matrices.jaccard)


def score_heatmap(analysis: Analysis) -> Heatmap:
    """Rank correlation of recipes' scores, in the order of `mask_heatmap`."""
    return _clustered(analysis, analysis.likeness.matrices.scores)


def _clustered(analysis: Analysis, values: np.ndarray[Any, Any]) -> Heatmap:
    from scipy.cluster.hierarchy import leaves_list

    likeness = analysis.likeness
    order = leaves_list(likeness.families.linkage)
    names = tuple(likeness.names[place] for place in order)
    return Heatmap(names, values[np.ix_(order, order)])


def ablation_bars(analysis: Analysis) -> list[Bar]:
    """Change of perplexity by each edit of the best recipe, in percent."""
    return [
        Bar(row.edit, 100 * row.change.change, 100 * row.change.low, 100 * row.change.high)
        for row in analysis.ablation
    ]


def enrichment_bars(analysis: Analysis) -> list[Bar]:
    """Log odds ratio of having a feature among the best, with Woolf's interval, smallest q first.

    The interval is of one feature alone; the table's q values are corrected for all.
    """
    bars = []
    for row in analysis.enrichment[:MOST_FEATURES]:
        others_with = row.all_with - row.best_with
        counts = (
            row.best_with,
            row.best - row.best_with,
            others_with,
            row.all - row.best - others_with,
        )
        half = NORMAL_95 * math.sqrt(math.fsum(1 / (count + 0.5) for count in counts))
        value = math.log(row.odds_ratio)
        bars.append(Bar(f"{row.kind} {row.name}", value, value - half, value + half))
    return bars


def sensitivity_bars(analysis: Analysis) -> list[Bar]:
    """Change of perplexity by another calibration, in percent."""
    return [
        Bar(
            f"{row.recipe}, {row.samples} x {row.sequence_length} tokens",
            100 * row.change.change,
            100 * row.change.low,
            100 * row.change.high,
        )
        for row in analysis.sensitivity
    ]


def transfer_bars(analysis: Analysis) -> list[Bar]:
    """Kendall's tau of the order of recipes here and elsewhere."""
    return [
        Bar(f"{row.what} {row.name}", *row.agreement.kendall[:3])
        for row in analysis.transfer
        if row.agreement is not None
    ]


def draw_figures(analysis: Analysis, directory: str | Path) -> list[Path]:
    """Draws what the analysis has data for, as SVG files.

    Args:
        analysis: the analysis.
        directory: where to; made if it is not there.

    Returns:
        The files.

    Raises:
        MissingExtraError: without matplotlib.
        InputError: if they cannot be written.
    """
    require_matplotlib()
    wanted: list[tuple[str, Sequence[Any], Callable[[Any], None]]] = []
    bars, edits = proxy_bars(analysis), ablation_bars(analysis)
    points, masks, scores = (
        reconstruction_points(analysis),
        mask_heatmap(analysis),
        score_heatmap(analysis),
    )
    features = enrichment_bars(analysis)
    calibrations, elsewhere = sensitivity_bars(analysis), transfer_bars(analysis)
    wanted = [
        ("proxies", bars, lambda axes: _draw_bars(axes, bars, "Kendall's tau with perplexity")),
        ("reconstruction", points, lambda axes: _draw_points(axes, points)),
        ("masks", masks.names, lambda axes: _draw_heatmap(axes, masks, MASKS)),
        ("scores", scores.names, lambda axes: _draw_heatmap(axes, scores, SCORES)),
        ("enrichment", features, lambda axes: _draw_bars(axes, features, "log odds ratio")),
        (
            "ablation",
            edits,
            lambda axes: _draw_bars(axes, edits, "change of perplexity, %", linear=10),
        ),
        (
            "sensitivity",
            calibrations,
            lambda axes: _draw_bars(axes, calibrations, "change of perplexity, %"),
        ),
        ("transfer", elsewhere, lambda axes: _draw_bars(axes, elsewhere, "Kendall's tau")),
    ]
    return [
        draw(Path(directory) / f"{name}.svg", paint, height=1.6 + 0.3 * max(len(rows), 8))
        for name, rows, paint in wanted
        if rows
    ]


def _draw_bars(axes: Any, bars: Sequence[Bar], title: str, linear: float | None = None) -> None:
    """Bars with intervals; beyond ``linear`` the axis is logarithmic, if one is given."""
    places = range(len(bars))
    values = [bar.value for bar in bars]
    reach = [
        [max(0.0, bar.value - bar.low) for bar in bars],
        [max(0.0, bar.high - bar.value) for bar in bars],
    ]
    sure = [BLUE if bar.low > 0 or bar.high < 0 else GREY for bar in bars]
    axes.barh(places, values, xerr=reach, color=sure, ecolor="#444444", capsize=2)
    axes.set_yticks(places, [_short(bar.label) for bar in bars], parse_math=False)
    axes.invert_yaxis()
    if linear is not None:
        axes.set_xscale("symlog", linthresh=linear)
    axes.axvline(0, color="#444444", linewidth=0.8)
    axes.set_xlabel(f"{title}, with 95 % intervals (grey: 0 is inside)")


def _draw_points(axes: Any, points: Sequence[Point]) -> None:
    for point in points:
        colour = RED if point.name == "wanda" else BLUE
        axes.scatter(point.cheap, point.perplexity, color=colour, s=18)
        axes.annotate(
            point.name.removeprefix("candidate "),
            (point.cheap, point.perplexity),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=7,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("layerwise reconstruction error, relative")
    axes.set_ylabel("perplexity after pruning")


def _draw_heatmap(axes: Any, heatmap: Heatmap, label: str) -> None:
    places = range(len(heatmap.names))
    least = min(0.0, float(heatmap.values.min()))
    image = axes.imshow(heatmap.values, vmin=least, vmax=1, cmap="viridis")
    axes.set_xticks(places, heatmap.names, rotation=90, fontsize=7)
    axes.set_yticks(places, heatmap.names, fontsize=7)
    axes.figure.colorbar(image, ax=axes, label=label)


def _short(text: str, width: int = 48) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
