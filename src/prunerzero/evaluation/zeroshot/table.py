"""Zero-shot results as the rows of a table."""

from __future__ import annotations

from prunerzero.evaluation.zeroshot.results import Accuracy, TaskResult, ZeroShot

Rows = tuple[tuple[str, ...], list[tuple[object, ...]]]


def zero_shot_table(result: ZeroShot, dense: ZeroShot | None = None) -> Rows:
    """Columns and rows, one row a task and metric.

    Args:
        result: of the model of interest.
        dense: of the dense model, to stand beside it; None where the model itself is dense.
    """
    columns: tuple[str, ...] = ("task", "metric", "items", "accuracy", "chance")
    columns += (
        ("above chance",) if dense is None else ("dense", "dense above", "minus dense (95 %)")
    )
    rows: list[tuple[object, ...]] = []
    for name, task in result.tasks.items():
        for metric, score in task.scores.items():
            row = (name, metric, _items(task), _accuracy(score), _chance(score))
            if dense is None:
                rows.append((*row, _verdict(score)))
                continue
            reference = dense.tasks[name]
            change = task.minus(reference)[metric]
            other = reference.scores[metric]
            rows.append(
                (
                    *row,
                    _accuracy(other),
                    _verdict(other),
                    f"{change.change:+.3f} ({change.low:+.3f} to {change.high:+.3f})",
                )
            )
    return columns, rows


def _items(task: TaskResult) -> str:
    whole = task.items == task.available
    return str(task.items) if whole else f"{task.items} of {task.available}"


def _accuracy(score: Accuracy) -> str:
    return f"{score.mean:.3f} ± {score.stderr:.3f}"


def _chance(score: Accuracy) -> str:
    return "" if score.chance is None else f"{score.chance:.3f}"


def _verdict(score: Accuracy) -> str:
    if score.p_value is None:
        return ""
    return f"{'yes' if score.above_chance else 'no'} (p {score.p_value:.2g})"
