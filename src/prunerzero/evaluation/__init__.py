"""How well a language model predicts text: perplexity, and divergence from the dense model."""

from prunerzero.evaluation.evaluate import Evaluation, evaluate
from prunerzero.evaluation.perplexity import TextLoss, measure_loss, paired_interval

__all__ = ["Evaluation", "TextLoss", "evaluate", "measure_loss", "paired_interval"]
