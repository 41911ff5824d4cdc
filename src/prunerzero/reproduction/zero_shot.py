"""Zero-shot accuracy, dense and pruned, on the same items."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from prunerzero.evaluation.perplexity import Interval
from prunerzero.evaluation.zeroshot.results import Accuracy, Difference, TaskResult
from prunerzero.evolution.masking import under
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.report.drawing import Figure, Line
from prunerzero.reproduction.cells import Cell, Cells
from prunerzero.reproduction.claims import judge
from prunerzero.reproduction.ground import Ground
from prunerzero.reproduction.names import PUBLISHED, WANDA
from prunerzero.reproduction.options import Options
from prunerzero.reproduction.perplexities import DENSE
from prunerzero.reproduction.sections import Experiment, Published, Section

KIND = "zero-shot"
MEAN = "mean of tasks"
METRICS = ("acc", "acc_norm")


class AccuracyRow(NamedTuple):
    """A method's accuracy on one task, or the mean over tasks.

    Attributes:
        method: as given; ``dense`` for the model as it is.
        task: its name; ``mean of tasks`` for their mean.
        metric: ``acc`` or ``acc_norm``.
        items: how many were asked.
        accuracy: share that was right.
        stderr: standard error.
        chance: share that needs no model.
        above_chance: whether guessing is ruled out (of the mean of tasks this is not tested).
        minus_dense: difference from the dense model on the same items, 95 %.
        minus_wanda: difference from Wanda on the same items, 95 %.
    """

    method: str
    task: str
    metric: str
    items: int
    accuracy: float
    stderr: float
    chance: float | None
    above_chance: bool | None
    minus_dense: Difference | None
    minus_wanda: Difference | None


def cell(options: Options, method: str, task: str, seed: int) -> Cell:
    """One method's answers to one task."""
    what: dict[str, Any] = {"method": method, "task": task, "limit": options.limit}
    if method != DENSE:
        what |= {
            "recipe": Recipe.from_text(method).key(Pattern.parse(options.pattern)),
            "pattern": options.pattern,
            "samples": options.samples,
            "sequence_length": options.sequence_length,
            "seed": seed,
            "sequential": options.sequential,
            "calibration": options.calibration,
        }
    return Cell(KIND, what)


def measure(what: Mapping[str, Any], ground: Ground) -> dict[str, Any]:
    """Asks the model, dense or pruned."""
    from prunerzero.evaluation.zeroshot.run import zero_shot

    model = ground.model

    def ask() -> dict[str, Any]:
        found = zero_shot(
            model.network,
            model.tokenizer,
            [what["task"]],
            limit=what["limit"],
            dtype=str(model.compute.dtype).removeprefix("torch."),
            seen=ground.seen,
            report=ground.report,
        )
        return kept(found.tasks[what["task"]]) | {"settings": found.settings}

    if what["method"] == DENSE:
        return ask()
    pattern = Pattern.parse(what["pattern"])
    recipe = under(Recipe.from_text(what["method"]), pattern)
    comparison = ground.comparison(what["samples"], what["seed"])
    with comparison.pruned(what["method"], recipe, pattern):
        return ask()


def kept(result: TaskResult) -> dict[str, Any]:
    """A task's result as JSON values, with each item, so that methods can be paired later."""
    return {
        "right": {name: score.right for name, score in result.scores.items()},
        "chance": result.scores["acc"].chance,
        "available": result.available,
        "items_hash": result.items_hash,
        "truncated": result.truncated,
        "version": result.version,
    }


def restored(found: Mapping[str, Any]) -> TaskResult:
    """What `kept` was made of."""
    scores = {
        name: Accuracy(tuple(right), found["chance"] if name in METRICS else None)
        for name, right in found["right"].items()
    }
    names = ("available", "items_hash", "truncated", "version")
    return TaskResult(scores=scores, **{name: found[name] for name in names})


def _cells(options: Options, seed: int) -> list[Cell]:
    if seed != options.seed:
        return []
    return [
        cell(options, method, task, seed)
        for task in options.tasks
        for method in (DENSE, *options.methods)
    ]


def _section(cells: Cells, options: Options, _published: Published) -> Section:
    rows: list[AccuracyRow] = []
    for method in (DENSE, *options.methods):
        own, dense, wanda = (_results(cells, options, name) for name in (method, DENSE, WANDA))
        of_method = [
            _row(method, task, metric, own[task], dense.get(task), wanda.get(task))
            for task in own
            for metric in METRICS
        ]
        complete = len(own) == len(options.tasks) > 1
        rows += of_method + ([_mean(of_method, metric) for metric in METRICS] * complete)
    return Section(
        "zero-shot",
        f"Zero-shot accuracy at {options.pattern}",
        {"zero-shot": rows},
        (_figure(options, rows),),
        tuple(_claims(rows)),
    )


def _results(cells: Cells, options: Options, method: str) -> dict[str, TaskResult]:
    found = {
        task: cells.result(cell(options, method, task, options.seed)) for task in options.tasks
    }
    return {task: restored(result) for task, result in found.items() if result is not None}


def _row(
    method: str,
    task: str,
    metric: str,
    own: TaskResult,
    dense: TaskResult | None,
    wanda: TaskResult | None,
) -> AccuracyRow:
    score = own.scores[metric]
    return AccuracyRow(
        method=method,
        task=task,
        metric=metric,
        items=own.items,
        accuracy=score.mean,
        stderr=score.stderr,
        chance=score.chance,
        above_chance=score.above_chance,
        minus_dense=own.minus(dense)[metric] if dense and method != DENSE else None,
        minus_wanda=own.minus(wanda)[metric] if wanda and method not in (DENSE, WANDA) else None,
    )


def _mean(rows: list[AccuracyRow], metric: str) -> AccuracyRow:
    """The mean over tasks, each counting alike; tasks are independent samples."""
    chosen = [row for row in rows if row.metric == metric]
    return AccuracyRow(
        method=chosen[0].method,
        task=MEAN,
        metric=metric,
        items=sum(row.items for row in chosen),
        accuracy=math.fsum(row.accuracy for row in chosen) / len(chosen),
        stderr=math.hypot(*(row.stderr for row in chosen)) / len(chosen),
        chance=math.fsum(row.chance or 0.0 for row in chosen) / len(chosen),
        above_chance=None,
        minus_dense=_mean_difference([row.minus_dense for row in chosen]),
        minus_wanda=_mean_difference([row.minus_wanda for row in chosen]),
    )


def _mean_difference(differences: list[Difference | None]) -> Difference | None:
    """The mean of independent differences; its half width is theirs, added in quadrature."""
    found = [one for one in differences if one is not None]
    if len(found) < len(differences):
        return None
    change = math.fsum(one.change for one in found) / len(found)
    # Of intervals that are not quite centred at the change, the centres count.
    centre = math.fsum((one.low + one.high) / 2 for one in found) / len(found)
    half = math.hypot(*((one.high - one.low) / 2 for one in found)) / len(found)
    return Difference(change, centre - half, centre + half)


def _claims(rows: list[AccuracyRow]) -> list[Any]:
    claims = []
    for row in rows:
        if row.method == PUBLISHED and row.task == MEAN and row.minus_wanda is not None:
            change = row.minus_wanda
            claims.append(
                judge(
                    f"The published metric is better than Wanda zero-shot, mean {row.metric}",
                    Interval(change.change, change.low, change.high),
                    (change.change,),
                    [
                        f"accuracy {row.accuracy:.3f} ± {row.stderr:.3f}, {change.change:+.3f} "
                        f"({change.low:+.3f} to {change.high:+.3f}) against Wanda on the same "
                        f"{row.items} items; one calibration seed"
                    ],
                    negative_confirms=False,
                )
            )
    return claims


def _figure(options: Options, rows: list[AccuracyRow]) -> Figure:
    tasks = tuple(dict.fromkeys(row.task for row in rows))
    lines = []
    for method in (DENSE, *options.methods):
        own = [row for row in rows if row.method == method and row.metric == "acc"]
        lines.append(
            Line(
                method,
                tuple(float(tasks.index(row.task)) for row in own),
                tuple(row.accuracy for row in own),
                tuple(row.accuracy - row.stderr for row in own),
                tuple(row.accuracy + row.stderr for row in own),
            )
        )
    return Figure(
        "zero-shot",
        f"task, pruned at {options.pattern}",
        "acc, ± one standard error",
        tuple(one for one in lines if one.x),
        ticks=tasks,
    )


ZERO_SHOT = Experiment(_cells, _section)
