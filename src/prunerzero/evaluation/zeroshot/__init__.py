"""Zero-shot tasks: what a model answers, whether that beats guessing, and what pruning costs."""

from prunerzero.evaluation.zeroshot.offline import OFFLINE
from prunerzero.evaluation.zeroshot.tasks import ONLINE, check_tasks

__all__ = ["OFFLINE", "ONLINE", "check_tasks"]
