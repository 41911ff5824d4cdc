"""The search: candidates are proposed, measured and bred; see docs/search.md."""

from prunerzero.evolution.search import SearchResult, Status, search
from prunerzero.evolution.settings import Budget

__all__ = ["Budget", "SearchResult", "Status", "search"]
