"""What a model got right, whether that is more than guessing, and how two models differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prunerzero.errors import InputError
from prunerzero.notebook import Tabular

ALPHA = 0.05
"""Level of the one-sided test that a model is above chance."""
_NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Accuracy:
    """One metric of one task.

    Attributes:
        right: for each item, 1 where the model was right, else 0.
        chance: share that needs no model (`chance_level`); None where nothing is guessed from.
    """

    right: tuple[int, ...]
    chance: float | None

    @property
    def mean(self) -> float:
        """Share of the items that are right."""
        return sum(self.right) / len(self.right)

    @property
    def stderr(self) -> float:
        """Standard error of the mean, by the sample's standard deviation (lm-eval's)."""
        return math.sqrt(self.mean * (1 - self.mean) / (len(self.right) - 1))

    @property
    def p_value(self) -> float | None:
        """Probability that guessing gets as many right or more (exact binomial test)."""
        if self.chance is None:
            return None
        from scipy.stats import binomtest

        test = binomtest(sum(self.right), len(self.right), self.chance, alternative="greater")
        return float(test.pvalue)

    @property
    def above_chance(self) -> bool | None:
        """Whether guessing is ruled out at `ALPHA`."""
        return None if self.p_value is None else self.p_value < ALPHA

    def to_json(self) -> dict[str, Any]:
        """The metric as a JSON-serialisable dictionary, without the items."""
        return {
            "value": self.mean,
            "stderr": self.stderr,
            "chance": self.chance,
            "p_value": self.p_value,
            "above_chance": self.above_chance,
        }


@dataclass(frozen=True)
class Difference:
    """A model's accuracy minus another's on the same items, with a 95 % interval."""

    change: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """The difference as a JSON-serialisable dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class TaskResult:
    """A model's answers to one task.

    Attributes:
        scores: ``acc``, ``acc_norm``, and ``exact_match`` where the task has it.
        available: number of items that the task has, of which the first were asked.
        items_hash: names the questions and choices; equal where two results can be paired.
        truncated: choices that were scored with a part of their context, for the model's limit.
        version: of the task, as its YAML states it.
    """

    scores: dict[str, Accuracy]
    available: int
    items_hash: str
    truncated: int
    version: str

    @property
    def items(self) -> int:
        """Number of items that were asked."""
        return len(self.scores["acc"].right)

    def minus(self, other: TaskResult) -> dict[str, Difference]:
        """This model's accuracies minus another's, by the metric.

        Raises:
            InputError: The two were asked different items.
        """
        if self.items_hash != other.items_hash:
            raise InputError("results of different items cannot be paired: use the same --limit")
        return {
            metric: paired_difference(score.right, other.scores[metric].right)
            for metric, score in self.scores.items()
        }

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON-serialisable dictionary: ``acc``, ``acc_stderr`` and so on."""
        document: dict[str, Any] = {}
        for metric, score in self.scores.items():
            for key, value in score.to_json().items():
                document[metric if key == "value" else f"{metric}_{key}"] = value
        return document | {
            "items": self.items,
            "available": self.available,
            "items_hash": self.items_hash,
            "truncated": self.truncated,
            "version": self.version,
        }


@dataclass(frozen=True)
class ZeroShot(Tabular):
    """A model's answers to several tasks.

    Attributes:
        tasks: the result of each task, by its name.
        settings: what they were measured with.
    """

    tasks: dict[str, TaskResult]
    settings: dict[str, Any]

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for name, task in self.tasks.items():
            row: dict[str, Any] = {"task": name, "items": task.items}
            for metric, score in task.scores.items():
                row |= {metric: score.mean, f"{metric}_stderr": score.stderr}
                row[f"{metric}_chance"] = score.chance
            rows.append(row)
        return rows

    def minus(self, other: ZeroShot) -> dict[str, dict[str, Difference]]:
        """Differences by task and metric (`TaskResult.minus`)."""
        return {name: task.minus(other.tasks[name]) for name, task in self.tasks.items()}

    def to_json(self, dense: ZeroShot | None = None) -> dict[str, Any]:
        """The results as a JSON-serialisable dictionary.

        Args:
            dense: the dense model's, to stand beside each task with the differences from it.
        """
        tasks = {name: task.to_json() for name, task in self.tasks.items()}
        if dense is not None:
            for name, differences in self.minus(dense).items():
                tasks[name]["dense"] = dense.tasks[name].to_json()
                tasks[name]["minus_dense"] = {
                    metric: difference.to_json() for metric, difference in differences.items()
                }
        return {"tasks": tasks, "tasks_settings": self.settings}


def chance_level(choices: Sequence[Sequence[str]], answers: Sequence[Hashable]) -> float:
    """The share of items that is right without reading them.

    Args:
        choices: of each item; as many as it has.
        answers: what names the right choice of each item.

    Returns:
        The mean of ``1 / number of choices``; where all items have the same choices (yes and no),
        the share of the most frequent answer if that is larger, for a model that always says it
        knows nothing.
    """
    guessing = math.fsum(1 / len(one) for one in choices) / len(choices)
    if len({tuple(one) for one in choices}) > 1:
        return guessing
    return max(guessing, Counter(answers).most_common(1)[0][1] / len(answers))


def paired_difference(right: Sequence[int], baseline: Sequence[int]) -> Difference:
    """Difference of two accuracies on the same items, with a 95 % interval.

    The interval is Wald's after adding half an item to each cell of the table of right and wrong
    answers (Agresti and Min, Statistics in Medicine 24, 2005): close to its level for few items
    too, and never empty where the two models agree on all.

    Args:
        right: for each item, 1 where the model of interest was right.
        baseline: the same items under the other model.
    """
    count = len(right)
    gained = sum(new > old for new, old in zip(right, baseline, strict=True))
    lost = sum(new < old for new, old in zip(right, baseline, strict=True))
    shifted = (gained - lost) / (count + 2)
    variance = ((gained + lost + 1) / (count + 2) - shifted**2) / (count + 2)
    half = _NORMAL_95 * math.sqrt(variance)
    return Difference((gained - lost) / count, max(-1.0, shifted - half), min(1.0, shifted + half))
