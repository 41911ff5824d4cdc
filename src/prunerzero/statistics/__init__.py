"""Statistics of weights, activations and gradients: the terminals of the metric language."""

from prunerzero.statistics.collectors import TokenSum
from prunerzero.statistics.own import register

__all__ = ["TokenSum", "register"]
