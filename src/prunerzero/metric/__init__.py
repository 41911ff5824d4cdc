"""The metric language: expressions, their forms, simplification and scoring.

Nothing here imports torch before a metric is scored.
"""

from __future__ import annotations

from prunerzero.metric.expression import Call, Constant, Leaf, Node
from prunerzero.metric.metric import Metric
from prunerzero.metric.operators import OPERATORS, Operator
from prunerzero.metric.terminals import TERMINALS, Terminal
from prunerzero.metric.types import Shape, Sign

__all__ = [
    "OPERATORS",
    "TERMINALS",
    "Call",
    "Constant",
    "Leaf",
    "Metric",
    "Node",
    "Operator",
    "Shape",
    "Sign",
    "Terminal",
]
