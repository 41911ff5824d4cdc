"""Files beside a study that the page shows too: the analysis, and evaluations of pruned models."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from prunerzero.analysis.readings import analysis_path
from prunerzero.errors import InputError
from prunerzero.files import read_json
from prunerzero.report.document import (
    Accuracy,
    Analysis,
    Continuation,
    Edit,
    Enriched,
    Evaluation,
    Principle,
)

LARGEST_FILE = 64 << 20  # bytes
ENRICHED = 20  # features shown, those of the smallest q
_CANDIDATE = re.compile(r"candidate (\d{1,18})")


@dataclass(frozen=True)
class FoundAnalysis:
    """What the page shows of an analysis.

    Attributes:
        shown: its section.
        families: mask family by candidate, of those that it measured.
    """

    shown: Analysis
    families: dict[int, int]


class _Foreign(BaseModel):
    """Part of a file of another command, of which the page needs some keys."""

    model_config = ConfigDict(extra="ignore")


class _Change(_Foreign):
    change: float
    low: float
    high: float


class _Edit(_Foreign):
    edit: str
    kinds: list[str]
    change: _Change


class _Measured(_Foreign):
    name: str
    family: int


class _Principle(_Foreign):
    statement: str
    source: str
    verdict: str
    confidence: str
    evidence: list[str]


class _Enriched(_Foreign):
    kind: str
    name: str
    best_with: int
    best: int
    all_with: int
    all: int
    q: float


class _Result(_Foreign):
    measured: list[_Measured] = []
    principles: list[_Principle] = []
    ablation: list[_Edit] = []
    enrichment: list[_Enriched] = []


class _AnalysisFile(_Foreign):
    result: _Result | None = None


class _Continuation(_Foreign):
    source: str
    prompt: str
    text: str
    dense: str
    model: str
    same_tokens: int


class _Deep(_Foreign):
    continuations: list[_Continuation] = []


class _EvaluationFile(_Foreign):
    model: str
    against: str | None = None
    perplexity: dict[str, float | None] = {}
    tasks: dict[str, dict[str, Any]] = {}
    deep: _Deep = _Deep()


_File = TypeVar("_File", bound=_Foreign)


def read_analysis(study: Path) -> FoundAnalysis | None:
    """The finished analysis beside a study; None if there is none.

    Raises:
        InputError: the file is there but is no analysis.
    """
    path = analysis_path(study)
    if not path.exists():
        return None
    result = _parsed(_AnalysisFile, path, "analysis").result
    if result is None:
        return None
    families = {}
    for measured in result.measured:
        match = _CANDIDATE.fullmatch(measured.name)
        if match:
            families[int(match[1])] = measured.family
    shown = Analysis(
        measured=len(result.measured),
        principles=[Principle(**each.model_dump()) for each in result.principles],
        ablation=[
            Edit(edit=each.edit, kinds=[k for k in each.kinds if k], **each.change.model_dump())
            for each in sorted(result.ablation, key=lambda each: -each.change.change)
        ],
        enrichment=[Enriched(**each.model_dump()) for each in result.enrichment[:ENRICHED]],
    )
    return FoundAnalysis(shown, families)


def read_evaluation(path: Path) -> Evaluation:
    """What ``prunerzero evaluate MODEL --json`` printed.

    Raises:
        InputError: the file is missing or is nothing of that kind.
    """
    found = _parsed(_EvaluationFile, path, "evaluation")
    return Evaluation(
        file=path.name,
        model=found.model,
        against=found.against,
        perplexity=found.perplexity,
        accuracies=[
            Accuracy(task=task, metric=metric, value=float(value))
            for task, scores in found.tasks.items()
            for metric, value in scores.items()
            if metric in ("acc", "acc_norm", "exact_match") and _is_number(value)
        ],
        continuations=[Continuation(**each.model_dump()) for each in found.deep.continuations],
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _parsed(kind: type[_File], path: Path, what: str) -> _File:
    if path.is_file() and path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{what} {path}: larger than {LARGEST_FILE} bytes, so not of this kind")
    try:
        return kind.model_validate(read_json(path, what))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in fault["loc"]) or "the document"
        wanted = f"give what 'prunerzero {_COMMANDS[what]}' wrote"
        raise InputError(f"{what} {path}: {field}: {fault['msg']}; {wanted}") from None


_COMMANDS = {"analysis": "analyze", "evaluation": "evaluate --json"}
