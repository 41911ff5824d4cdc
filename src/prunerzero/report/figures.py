"""A matplotlib figure that a notebook shows by itself."""

from __future__ import annotations

import io
from typing import Any

from prunerzero.report.drawing import require_matplotlib


def figure(width: float, height: float) -> tuple[Any, Any]:
    """A new figure that notebooks show, and its axes; pyplot, which keeps figures, is not used.

    Args:
        width: in inches.
        height: in inches.

    Raises:
        MissingExtraError: without matplotlib.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    class ShownFigure(Figure):
        def _repr_png_(self) -> bytes:
            picture = io.BytesIO()
            self.savefig(picture, format="png", dpi=100, facecolor="white")
            return picture.getvalue()

    drawn = ShownFigure(figsize=(width, height), layout="constrained")
    return drawn, drawn.add_subplot()
