"""Symbolic search for post-training pruning metrics of language models.

The names below are imported when first used, so that ``import prunerzero`` does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunerzero.errors import InputError
    from prunerzero.evaluation.evaluate import evaluate
    from prunerzero.evolution.runner import search
    from prunerzero.metric import Metric
    from prunerzero.models import load_model
    from prunerzero.pruning.pattern import Pattern
    from prunerzero.pruning.pruner import prune
    from prunerzero.recipe import Recipe
    from prunerzero.study import Study

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "Metric",
    "Pattern",
    "Recipe",
    "Study",
    "evaluate",
    "load_model",
    "prune",
    "search",
]

_HOMES = {
    "InputError": "prunerzero.errors",
    "Metric": "prunerzero.metric",
    "Pattern": "prunerzero.pruning.pattern",
    "Recipe": "prunerzero.recipe",
    "Study": "prunerzero.study",
    "evaluate": "prunerzero.evaluation",
    "load_model": "prunerzero.models",
    "prune": "prunerzero.pruning.pruner",
    "search": "prunerzero.evolution",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
