"""What an experiment comes to: rows, figures as data, claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from prunerzero.analysis.records import Principle
from prunerzero.report.drawing import Figure
from prunerzero.reproduction.cells import Cell, Cells
from prunerzero.reproduction.ground import Ground
from prunerzero.reproduction.options import Options

Published = Callable[[str, str], float | None]


class Section(NamedTuple):
    """An experiment's results so far.

    Attributes:
        name: the experiment's.
        title: what it shows.
        tables: rows by the table's name; a table's rows are named tuples of one type.
        figures: its plots.
        claims: what follows for the paper's claims.
    """

    name: str
    title: str
    tables: Mapping[str, Sequence[Any]]
    figures: tuple[Figure, ...] = ()
    claims: tuple[Principle, ...] = ()


class Experiment(NamedTuple):
    """One of the paper's experiments.

    Attributes:
        cells: what it measures for a seed, in order.
        section: what the finished cells come to.
    """

    cells: Callable[[Options, int], list[Cell]]
    section: Callable[[Cells, Options, Published], Section]


Measure = Callable[[Mapping[str, Any], Ground, Cells], Mapping[str, Any]]
