"""The picture of an expression tree: its layout as data, then drawn with matplotlib."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from prunerzero.errors import InputError, MissingExtraError
from prunerzero.files import atomic_path
from prunerzero.metric import Metric
from prunerzero.metric.expression import Constant, Leaf, Node
from prunerzero.metric.operators import OPERATORS
from prunerzero.recipe import Recipe


class PlacedNode(NamedTuple):
    """One node of the picture.

    Attributes:
        label: what is written in it.
        kind: ``terminal``, ``constant`` or ``operator``.
        x: position across; leaves are one apart.
        y: depth below the root.
        parent: index of its parent among the placed nodes; None for the root.
    """

    label: str
    kind: str
    x: float
    y: int
    parent: int | None


def place_nodes(metric: Metric) -> list[PlacedNode]:
    """Places each node: leaves side by side, a parent in the middle over its children."""
    placed: list[PlacedNode] = []
    leaves = 0

    def visit(node: Node, depth: int, parent: int | None) -> float:
        nonlocal leaves
        index = len(placed)
        placed.append(PlacedNode(_label(node), _kind(node), 0.0, depth, parent))
        if node.args:
            across = [visit(child, depth + 1, index) for child in node.args]
            x = sum(across) / len(across)
        else:
            x = float(leaves)
            leaves += 1
        placed[index] = placed[index]._replace(x=x)
        return x

    visit(metric.expression, 0, None)
    return placed


COLOURS = {"terminal": "#cfe8cf", "constant": "#f2e6c9", "operator": "#cfdff2"}


def draw_tree(metric: Metric, path: str | Path) -> None:
    """Draws an expression tree into a picture file (``.svg``, ``.png``, ``.pdf``).

    Raises:
        MissingExtraError: without matplotlib.
        InputError: if the file cannot be written or its suffix is none that matplotlib draws.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("plot", "drawing a tree") from error
    placed = place_nodes(metric)
    width = 1.1 * (1 + max(node.x for node in placed)) + 0.6
    height = 0.85 * (1 + max(node.y for node in placed)) + 0.6
    # A fixed salt and no date: drawing the same tree again gives the same file.
    with mpl.rc_context({"svg.hashsalt": "prunerzero", "svg.fonttype": "path"}):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for node in placed:
            if node.parent is not None:
                parent = placed[node.parent]
                axes.plot([parent.x, node.x], [-parent.y, -node.y], color="#888888", zorder=1)
        for node in placed:
            box = {"boxstyle": "round,pad=0.4", "fc": COLOURS[node.kind], "ec": "#555555"}
            axes.text(node.x, -node.y, node.label, bbox=box, ha="center", va="center", zorder=2)
        axes.set_title(str(metric), fontsize=11, y=0.93)
        axes.margins(x=0.6 / max(width, 1), y=0.22)
        path = Path(path)
        if path.suffix.lstrip(".") not in figure.canvas.get_supported_filetypes():
            raise InputError(f"picture {path}: give a name that ends in .svg, .png or .pdf")
        metadata = {"Date": None} if path.suffix == ".svg" else None
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=150, facecolor="white", metadata=metadata)


def _label(node: Node) -> str:
    if isinstance(node, Leaf):
        return node.name
    if isinstance(node, Constant):
        return f"{node.value:g}"
    operator = getattr(node, "operator", "")
    spec = OPERATORS[operator]
    return spec.symbol if spec.symbol and spec.arity == 2 else operator


def _kind(node: Node) -> str:
    if isinstance(node, Leaf):
        return "terminal"
    return "constant" if isinstance(node, Constant) else "operator"


def _chosen(recipe: Recipe, kind: str = "") -> Metric:
    formulas = recipe.formulas
    if not kind and len(formulas) == 1:
        return next(iter(formulas.values()))
    if kind not in formulas:
        known = ", ".join(filter(None, formulas))
        raise InputError(f"kind '{kind}': the recipe has formulas for {known or 'all kinds alike'}")
    return formulas[kind]


def main(arguments: list[str]) -> int:
    """``python -m prunerzero.report.tree METRIC PICTURE [KIND]``.

    The metric is a name, an expression or a JSON file; of a recipe with several formulas that of
    one kind of matrix is drawn.
    """
    try:
        if len(arguments) not in (2, 3):
            raise InputError("usage: python -m prunerzero.report.tree METRIC PICTURE [KIND]")
        draw_tree(_chosen(Recipe.from_text(arguments[0]), *arguments[2:]), arguments[1])
    except InputError as error:
        print(f"prunerzero: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
