"""What the figures share: matplotlib, found when it is used, and colours."""

from __future__ import annotations

import io
from typing import Any

from prunerzero.errors import MissingExtraError

BLUE, GREY, RED = "#3b6ea8", "#888888", "#b5483a"


def require_matplotlib() -> None:
    """Finds out at once whether matplotlib is there.

    Raises:
        MissingExtraError: it is not.
    """
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("plot", "drawing figures") from error


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
