"""From little sparsity to much."""

from __future__ import annotations

from prunerzero.pruning.pattern import Pattern
from prunerzero.report.drawing import Figure
from prunerzero.reproduction import perplexities
from prunerzero.reproduction.cells import Cell, Cells
from prunerzero.reproduction.methods import line, published_claim
from prunerzero.reproduction.names import PUBLISHED
from prunerzero.reproduction.options import Options
from prunerzero.reproduction.sections import Experiment, Published, Section


def _cells(options: Options, seed: int) -> list[Cell]:
    return [
        perplexities.cell(options, method, pattern, options.samples, seed)
        for pattern in options.sparsities
        for method in options.methods
    ]


def _section(cells: Cells, options: Options, published: Published) -> Section:
    rows = [
        row
        for pattern in options.sparsities
        for method in options.methods
        if (row := perplexities.row(cells, options, method, pattern, options.samples, published))
    ]
    lines = []
    for method in options.methods:
        own = [row for row in rows if row.method == method]
        places = tuple(100 * float(Pattern.parse(row.pattern).sparsity) for row in own)
        lines.append(line(method, places, own))
    figure = Figure(
        "sparsity",
        "sparsity, %",
        "held-out perplexity",
        tuple(one for one in lines if one.x),
        y_scale="log",
    )
    claims = tuple(published_claim(row) for row in rows if row.method == PUBLISHED)
    return Section(
        "sparsity", "Sparsity: held-out perplexity", {"sparsity": rows}, (figure,), claims
    )


SPARSITY = Experiment(_cells, _section)
