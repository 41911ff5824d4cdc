"""Methods by patterns (the paper's tables of perplexity)."""

from __future__ import annotations

from prunerzero.analysis.records import Principle
from prunerzero.report.drawing import Figure, Line
from prunerzero.reproduction import perplexities
from prunerzero.reproduction.cells import Cell, Cells
from prunerzero.reproduction.claims import judge, percent
from prunerzero.reproduction.names import PUBLISHED
from prunerzero.reproduction.options import Options
from prunerzero.reproduction.perplexities import PerplexityRow
from prunerzero.reproduction.sections import Experiment, Published, Section


def _cells(options: Options, seed: int) -> list[Cell]:
    return [
        perplexities.dense_cell(options),
        *(
            perplexities.cell(options, method, pattern, options.samples, seed)
            for pattern in options.patterns
            for method in options.methods
        ),
    ]


def _section(cells: Cells, options: Options, published: Published) -> Section:
    rows = [perplexities.dense_row(cells, options)] + [
        perplexities.row(cells, options, method, pattern, options.samples, published)
        for pattern in options.patterns
        for method in options.methods
    ]
    measured = [row for row in rows if row is not None]
    return Section(
        "methods",
        "Methods by pattern: held-out perplexity",
        {"methods": measured},
        (_figure(options, measured),),
        tuple(published_claim(row) for row in measured if row.method == PUBLISHED),
    )


def published_claim(row: PerplexityRow, where: str = "") -> Principle:
    """Whether the published metric is better than Wanda, as the paper has it everywhere."""
    evidence = [f"perplexity {row.perplexity:.2f} ({row.lowest:.2f} to {row.highest:.2f} by seed)"]
    if row.change is not None:
        evidence.append(f"{percent(row.change)} against Wanda, mean of {row.seeds} seeds")
    return judge(
        f"The published metric is better than Wanda at {row.pattern}{where}",
        row.change,
        row.seed_changes,
        evidence,
    )


def _figure(options: Options, rows: list[PerplexityRow]) -> Figure:
    lines = []
    for method in options.methods:
        own = [row for row in rows if row.method == method]
        places = tuple(float(options.patterns.index(row.pattern)) for row in own)
        lines.append(line(method, places, own))
    return Figure(
        "methods",
        "pattern",
        "held-out perplexity",
        tuple(one for one in lines if one.x),
        y_scale="log",
        ticks=options.patterns,
    )


def line(label: str, places: tuple[float, ...], rows: list[PerplexityRow]) -> Line:
    """The perplexities of some rows as a curve, with the range of the seeds as its band."""
    return Line(
        label,
        places,
        tuple(row.perplexity for row in rows),
        tuple(row.lowest for row in rows),
        tuple(row.highest for row in rows),
    )


METHODS = Experiment(_cells, _section)
