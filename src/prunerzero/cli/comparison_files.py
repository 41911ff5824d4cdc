"""The files of a comparison: JSON, CSV, a LaTeX table and a picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prunerzero.cli.common import note
from prunerzero.errors import MissingExtraError
from prunerzero.files import atomic_path, json_text

NAME = "comparison"
# LaTeX's own characters, and what stands for them.
ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "±": r"$\pm$",
    }
)

Table = tuple[Sequence[str], Sequence[Sequence[object]]]


def write_all(document: dict[str, Any], table: Table, directory: Path) -> None:
    """Writes every file, each whole or not at all; the picture where matplotlib is there.

    Args:
        document: what ``--json`` prints.
        table: what is printed without it.
        directory: where the files go.
    """
    texts = {
        "json": json_text(document, indent=2) + "\n",
        "csv": csv_text(document["rows"]),
        "tex": latex_text(document, table),
    }
    for suffix, text in texts.items():
        with atomic_path(directory / f"{NAME}.{suffix}") as path:
            path.write_text(text, encoding="utf-8")
    try:
        draw(document, directory / f"{NAME}.svg")
    except MissingExtraError as error:
        note(f"no picture: {error}")


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """One line a row; what has parts itself is JSON."""
    file = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: json_text(value) if isinstance(value, (list, dict)) else value
                for name, value in row.items()
            }
        )
    return file.getvalue()


def latex_text(document: dict[str, Any], table: Table) -> str:
    """A ``tabular`` in booktabs' style, with what it was measured on in a comment."""
    settings = document["settings"]
    columns, rows = table
    lines = [
        f"% {document['model']}: {settings['windows']} windows of {settings['sequence_length']} "
        f"tokens of {settings['text']}; seeds {settings['seed']} to "
        f"{settings['seed'] + settings['seeds'] - 1}; {settings['compute']}",
        r"\begin{tabular}{" + "l" * len(columns) + "}",
        r"\toprule",
        _line(columns),
        r"\midrule",
        *(_line(row) for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[object]) -> str:
    return " & ".join(str(cell).translate(ESCAPES) for cell in cells) + r" \\"


def draw(document: dict[str, Any], path: Path) -> None:
    """Draws a panel a pattern: a point a method and text, its seeds, and the dense model.

    Args:
        document: what ``--json`` prints.
        path: an ``.svg`` file.

    Raises:
        MissingExtraError: without matplotlib.
    """
    from prunerzero.report.drawing import require_matplotlib

    require_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    rows = [row for row in document["rows"] if row["error"] is None]
    patterns = list(dict.fromkeys(row["pattern"] for row in rows))
    texts = list(dict.fromkeys(row["calibration"] for row in rows))
    if not rows:
        return
    most = max(sum(row["pattern"] == p for row in rows) for p in patterns) / len(texts)
    figure = Figure((4.6 * len(patterns) + 1.5, 0.27 * most + 1.4), layout="constrained")
    for panel, pattern in zip(
        figure.subplots(1, len(patterns), squeeze=False)[0], patterns, strict=True
    ):
        mine = [row for row in rows if row["pattern"] == pattern]
        labelled = list(zip(_labels(mine), mine, strict=True))
        names: dict[str, list[float]] = {}
        for label, row in labelled:
            names.setdefault(label, []).append(row["perplexity"])
        order = sorted(names, key=lambda name: -math.fsum(names[name]) / len(names[name]))
        for number, text in enumerate(texts):
            color = f"C{number}"
            for label, row in labelled:
                if row["calibration"] != text:
                    continue
                height = order.index(label) + (number - (len(texts) - 1) / 2) * 0.2
                panel.plot(row["perplexities"], [height] * len(row["perplexities"]), ".",
                           color=color, alpha=0.4, markersize=5)  # fmt: skip
                filled = color if row["best_or_tied"] else "white"
                panel.plot(row["perplexity"], height, "o", color=color, markerfacecolor=filled,
                           markersize=6)  # fmt: skip
            if len(texts) > 1:
                panel.plot([], [], "o", color=color, label=text)
        panel.axvline(document["dense"]["perplexity"], color="0.6", linestyle=":")
        panel.set_yticks(range(len(order)), order)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_title(pattern)
        panel.set_xlabel(f"perplexity on {document['settings']['text']}")
        panel.grid(axis="x", alpha=0.2)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    if len(texts) > 1:
        figure.axes[0].legend(title="calibrated on", frameon=False)
    with mpl.rc_context({"svg.hashsalt": "prunerzero"}), atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def _labels(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Each row's metric, with what other rows of that metric differ from it in."""
    varied = {
        (row["metric"], part)
        for row in rows
        for part in ("update", "allocation", "group")
        if len({other[part] for other in rows if other["metric"] == row["metric"]}) > 1
    }
    return [
        ", ".join(
            [row["metric"]]
            + [row[p] for p in ("update", "allocation", "group") if (row["metric"], p) in varied]
        )
        for row in rows
    ]
