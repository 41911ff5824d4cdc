"""How well a language model predicts text and answers questions.

The names below are imported when first used: what checks a choice of tasks needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunerzero.lazy import attributes_on_demand

if TYPE_CHECKING:
    from prunerzero.evaluation.perplexity import TextLoss, measure_loss, paired_interval

__all__ = ["TextLoss", "measure_loss", "paired_interval"]

# Not `evaluate`: the module of that name takes its place in the package once it is imported.
__getattr__ = attributes_on_demand(
    __name__, dict.fromkeys(("TextLoss", "measure_loss", "paired_interval"), "perplexity")
)
