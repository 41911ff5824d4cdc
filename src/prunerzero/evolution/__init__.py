"""The search: candidates are proposed, measured and bred; see docs/search.md.

The names below are imported when first used, so that `prunerzero.evolution.settings` loads without
torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunerzero.lazy import attributes_on_demand

if TYPE_CHECKING:
    from prunerzero.evolution.asktell import AskTell
    from prunerzero.evolution.result import SearchResult
    from prunerzero.evolution.runner import search
    from prunerzero.evolution.session import Status, StopSearch
    from prunerzero.evolution.settings import Budget

__all__ = ["AskTell", "Budget", "SearchResult", "Status", "StopSearch", "search"]

__getattr__ = attributes_on_demand(
    __name__,
    {
        "AskTell": "asktell",
        "Budget": "settings",
        "SearchResult": "result",
        "Status": "session",
        "StopSearch": "session",
        "search": "runner",
    },
)
