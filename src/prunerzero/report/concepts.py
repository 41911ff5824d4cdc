"""The pictures of docs/concepts.md: ``python -m prunerzero.report.concepts docs/images``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prunerzero.errors import MissingExtraError
from prunerzero.files import atomic_path
from prunerzero.pruning.allocation import MatrixShape
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe

STEPS = (
    ("text", "documents"),
    ("windows", "of tokens"),
    ("statistics", "A, F, ..."),
    ("scores", "by the metric"),
    ("masks", "True = kept"),
    ("pruned model", "zeros"),
    ("divergence", "from the dense"),
)
SCORES = (0.9, 0.3, 0.6, 0.8, 0.2, 0.4, 0.5, 0.1)
# Okabe and Ito's colours, and dashes, so that lines are told apart without colour too.
COLOURS = ("#0072b2", "#d98200", "#00805f", "#c24a00", "#8a7a00", "#b04d85", "#333333")
DASHES = ("-", "--", ":", "-.", (0, (6, 2)), (0, (1, 3)), (0, (3, 1, 1, 1, 1, 1)))
# The demo model's matrices: outputs and inputs by kind, 30 blocks.
SMOLLM2 = {
    "q_proj": (576, 576),
    "k_proj": (192, 576),
    "v_proj": (192, 576),
    "o_proj": (576, 576),
    "gate_proj": (1536, 576),
    "up_proj": (1536, 576),
    "down_proj": (576, 1536),
}
BLOCKS = 30


def allocation_lines(name: str = "found-smollm2-50") -> dict[str, list[float]]:
    """The sparsity of each of the demo model's matrices under a named recipe, by kind."""
    shapes = [
        MatrixShape(f"{kind}.{block}", kind, block, BLOCKS, rows, columns)
        for block in range(BLOCKS)
        for kind, (rows, columns) in SMOLLM2.items()
    ]
    found = Recipe.named(name).allocation.sparsities(shapes, Pattern.parse("50%"))
    return {kind: [float(found[f"{kind}.{block}"]) for block in range(BLOCKS)] for kind in SMOLLM2}


def draw_pipeline(figure: Any) -> None:
    """From text to fitness, and back to the next proposal."""
    axes = figure.add_subplot()
    axes.set_axis_off()
    for place, (title, below) in enumerate(STEPS):
        axes.text(
            place,
            0,
            f"{title}\n{below}",
            ha="center",
            va="center",
            fontsize=9,
            bbox={"boxstyle": "round,pad=0.5", "fc": "#cfdff2", "ec": "#555555"},
        )
        if place:
            axes.annotate("", (place - 0.44, 0), (place - 0.6, 0), arrowprops={"arrowstyle": "->"})
    axes.annotate(
        "",
        (3, -0.42),
        (len(STEPS) - 1, -0.42),
        arrowprops={"arrowstyle": "->", "connectionstyle": "arc3,rad=-0.12", "color": "#c24a00"},
    )
    axes.text(
        4.5,
        -0.8,
        "fitness; the search proposes the next recipe",
        ha="center",
        va="center",
        color="#c24a00",
    )
    axes.set_xlim(-0.6, len(STEPS) - 0.4)
    axes.set_ylim(-1.1, 0.6)


def draw_patterns(figure: Any) -> None:
    """The same scores under two patterns."""
    import torch

    scores = torch.tensor([SCORES])
    for place, text in enumerate(("50%", "2:4")):
        axes = figure.add_subplot(1, 2, place + 1)
        kept = Pattern.parse(text).mask(scores)[0].tolist()
        bars = axes.bar(
            range(len(SCORES)), SCORES, color=["#0072b2" if k else "white" for k in kept]
        )
        for bar, keep in zip(bars, kept, strict=True):
            bar.set(edgecolor="#0072b2" if keep else "#c24a00", hatch=None if keep else "//")
        axes.set_title(f"{text}: " + ("the lower half of the row goes" if place == 0
                                      else "two of each four go"), fontsize=11)  # fmt: skip
        if place:
            axes.axvline(3.5, color="#333333", linestyle=":")
        axes.set_xlabel("weight of one row (hatched: pruned)")
        axes.set_ylabel("score")


def draw_allocation(figure: Any) -> None:
    """Sparsity over depth, a line for each kind of matrix."""
    axes = figure.add_subplot()
    lines = allocation_lines()
    for (kind, values), colour, dash in zip(lines.items(), COLOURS, DASHES, strict=True):
        axes.plot([100 * v for v in values], label=kind, color=colour, linestyle=dash, linewidth=2)
    axes.axhline(50, color="#999999", linewidth=0.8)
    axes.set_xlabel("block")
    axes.set_ylabel("sparsity, %")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


PICTURES = {
    "pipeline": ((10, 1.9), draw_pipeline),
    "patterns": ((9, 2.8), draw_patterns),
    "allocation": ((8, 3.8), draw_allocation),
}


def main(arguments: list[str]) -> int:
    """Draws all pictures into the folder that is named."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("plot", "drawing pictures") from error
    folder = Path(arguments[0])
    # A fixed salt and no date: drawing the same picture again gives the same file.
    with mpl.rc_context({"svg.hashsalt": "prunerzero", "svg.fonttype": "path"}):
        for name, (size, draw) in PICTURES.items():
            figure = Figure(figsize=size, layout="constrained")
            draw(figure)
            with atomic_path(folder / f"{name}.svg") as temporary:
                figure.savefig(temporary, facecolor="white", metadata={"Date": None})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
