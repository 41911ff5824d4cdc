"""The search: candidates are proposed, measured and bred; see docs/search.md.

The names below are imported when first used, so that `prunerzero.evolution.settings` loads without
torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunerzero.evolution.runner import SearchResult, Status
    from prunerzero.evolution.settings import Budget

__all__ = ["Budget", "SearchResult", "Status", "search"]

_HOMES = {
    "Budget": "settings",
    "SearchResult": "runner",
    "Status": "runner",
    "search": "runner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
