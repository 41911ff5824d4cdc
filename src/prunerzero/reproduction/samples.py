"""How many calibration windows a method needs."""

from __future__ import annotations

from prunerzero.recipe import Recipe
from prunerzero.report.drawing import Figure
from prunerzero.reproduction import perplexities
from prunerzero.reproduction.cells import Cell, Cells
from prunerzero.reproduction.methods import line, published_claim
from prunerzero.reproduction.names import PUBLISHED
from prunerzero.reproduction.options import Options
from prunerzero.reproduction.sections import Experiment, Published, Section


def _calibrated(options: Options) -> list[str]:
    """The methods that read calibration text at all."""
    return [method for method in options.methods if Recipe.from_text(method).terminals - {"W"}]


def _cells(options: Options, seed: int) -> list[Cell]:
    return [
        perplexities.cell(options, method, options.pattern, count, seed)
        for count in options.sample_counts
        for method in _calibrated(options)
    ]


def _section(cells: Cells, options: Options, _published: Published) -> Section:
    rows = [
        row
        for count in options.sample_counts
        for method in _calibrated(options)
        if (row := perplexities.row(cells, options, method, options.pattern, count))
    ]
    lines = []
    for method in _calibrated(options):
        own = [row for row in rows if row.method == method]
        lines.append(line(method, tuple(float(row.samples) for row in own), own))
    figure = Figure(
        "samples",
        f"calibration windows of {options.sequence_length} tokens",
        f"held-out perplexity at {options.pattern}",
        tuple(one for one in lines if one.x),
        x_scale="log",
    )
    claims = tuple(
        published_claim(row, f" with {row.samples} calibration windows")
        for row in rows
        if row.method == PUBLISHED
    )
    return Section(
        "samples",
        f"Calibration windows: held-out perplexity at {options.pattern}",
        {"samples": rows},
        (figure,),
        claims,
    )


SAMPLES = Experiment(_cells, _section)
