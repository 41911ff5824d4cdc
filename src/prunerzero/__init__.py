"""Symbolic search for post-training pruning metrics of language models.

The names below are imported when first used, so that ``import prunerzero`` does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunerzero.lazy import attributes_on_demand

if TYPE_CHECKING:
    from prunerzero.errors import InputError
    from prunerzero.evaluation.evaluate import evaluate
    from prunerzero.evaluation.zeroshot.run import zero_shot
    from prunerzero.evolution.asktell import AskTell
    from prunerzero.evolution.runner import search
    from prunerzero.evolution.session import StopSearch
    from prunerzero.metric import Metric
    from prunerzero.models import load_model
    from prunerzero.pruning.pattern import Pattern
    from prunerzero.pruning.pruner import prune
    from prunerzero.recipe import Recipe
    from prunerzero.study import Study

__version__ = "0.1.0"

__all__ = [
    "AskTell",
    "InputError",
    "Metric",
    "Pattern",
    "Recipe",
    "StopSearch",
    "Study",
    "evaluate",
    "load_model",
    "prune",
    "search",
    "zero_shot",
]

__getattr__ = attributes_on_demand(
    __name__,
    {
        "AskTell": "evolution",
        "InputError": "errors",
        "Metric": "metric",
        "Pattern": "pruning.pattern",
        "Recipe": "recipe",
        "StopSearch": "evolution",
        "Study": "study",
        "evaluate": "evaluation.evaluate",
        "load_model": "models",
        "prune": "pruning.pruner",
        "search": "evolution",
        "zero_shot": "evaluation.zeroshot.run",
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
