"""All about one candidate: formulas as trees, allocation, parents, measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from prunerzero.errors import InputError
from prunerzero.metric import Metric
from prunerzero.report.document import (
    AllocationMap,
    CandidateReading,
    Detail,
    Formula,
    Relative,
)
from prunerzero.report.rows import Rows
from prunerzero.study import Measurement


def describe(
    rows: Rows,
    identifier: int,
    value: Callable[[float], float],
    readings: Mapping[int, list[Measurement]] | None = None,
) -> Detail:
    """Describes a candidate.

    Args:
        rows: the study.
        identifier: the candidate's number.
        value: from fitness to what the page shows (`Scale.value`).
        readings: the measurements by candidate, for who describes many.

    Raises:
        InputError: there is none of that number.
    """
    row = rows.candidates.get(identifier)
    if row is None:
        raise InputError(f"study {rows.path}: has no candidate {identifier}")

    def shown(fitness: float | None) -> float | None:
        return None if fitness is None else value(fitness)

    if readings is None:
        own = [m for m in rows.measurements if m.candidate_id == identifier]
    else:
        own = readings.get(identifier, [])
    parents = [(id, rows.candidates.get(id)) for id in row.parents]
    return Detail(
        id=identifier,
        status=row.status,
        origin=row.origin,
        step=row.step,
        size=row.size,
        created=row.created or "",
        seconds=row.seconds,
        reason=row.reason,
        value=shown(row.fitness),
        group=str(row.recipe.get("group", "row")),
        update=str(row.recipe.get("update", "none")),
        formulas=_formulas(row.recipe.get("metric", {})),
        allocation=_curves(row.recipe.get("allocation", {})),
        parents=[
            Relative(id=id, value=shown(parent.fitness) if parent else None)
            for id, parent in parents
        ],
        readings=[_reading(measurement) for measurement in own],
    )


def _formulas(metric: Any) -> list[Formula]:
    named = {"": metric} if isinstance(metric, str) else dict(metric)
    return [
        Formula(kind=kind, text=str(text), tree=_tree(str(text))) for kind, text in named.items()
    ]


@lru_cache(maxsize=1 << 14)
def _tree(text: str) -> dict[str, Any]:
    """The JSON tree; empty where this version does not know an operator of the formula."""
    try:
        return Metric.parse(text).to_tree()
    except InputError:
        return {}


def _curves(allocation: Mapping[str, Any]) -> AllocationMap | None:
    curves = allocation.get("curves")
    if not curves:
        return None
    return AllocationMap(
        exact=False, kinds=list(curves), values=[list(knots) for knots in curves.values()]
    )


def _reading(measurement: Measurement) -> CandidateReading:
    data = measurement.data if isinstance(measurement.data, dict) else {}
    loss = measurement.loss
    return CandidateReading(
        purpose=measurement.purpose,
        rung=measurement.rung,
        tokens=measurement.tokens,
        perplexity=None if loss is None or loss > 700 else math.exp(loss),
        kl=measurement.kl,
        log_ratio=data.get("log_ratio"),
        standard_error=data.get("standard_error"),
        audit=bool(data.get("audit")),
        seconds=measurement.seconds,
    )
