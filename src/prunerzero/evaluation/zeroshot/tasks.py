"""Which tasks there are, which may be asked, and how lm-eval gets them."""

from __future__ import annotations

import difflib
import importlib.util
import json
import logging
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from prunerzero.data.documents import Document
from prunerzero.errors import InputError, MissingExtraError
from prunerzero.evaluation.zeroshot.offline import OFFLINE, write_task

ONLINE = ("boolq", "rte", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
"""The pruning papers' seven, by lm-eval's names; their data come from the Hugging Face hub."""

# Every task is asked without examples and gives both accuracies, whatever lm-eval's YAML says.
_BOTH = {
    "num_fewshot": 0,
    "metric_list": [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "acc_norm")
    ],
}


def check_tasks(names: Sequence[str], seen: Collection[str] = ()) -> None:
    """Finds what is wrong with a choice of tasks, before anything large is imported.

    Args:
        names: of `OFFLINE`, or lm-eval's.
        seen: hashes of documents that the model was calibrated or selected on.

    Raises:
        MissingExtraError: lm-eval is not installed.
        InputError: A name is there twice, an asset is missing, or an offline task holds text that
            the model was calibrated or selected on.
    """
    if not names:
        raise InputError(f"tasks: none named; known are {', '.join((*OFFLINE, *ONLINE))}")
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InputError(f"task '{name}': is named twice")
    if any(importlib.util.find_spec(needed) is None for needed in ("lm_eval", "scipy")):
        raise MissingExtraError("zeroshot", "zero-shot evaluation")
    for name in names:
        if name in OFFLINE:
            refuse_seen_rows(name, OFFLINE[name].rows(), seen)


def load_tasks(names: Sequence[str], seen: Collection[str] = ()) -> dict[str, Any]:
    """Loads tasks and their data.

    Args:
        names: of `OFFLINE`, or those of any of lm-eval's multiple-choice tasks.
        seen: hashes of documents that the model was calibrated or selected on.

    Returns:
        lm-eval's task objects by name, in the given order.

    Raises:
        MissingExtraError: lm-eval is not installed.
        InputError: As for `check_tasks`; also a task that lm-eval does not know, that is not
            multiple choice, whose data cannot be had, or which holds text in ``seen``.
    """
    check_tasks(names, seen)
    with quiet():
        return {name: _offline(name) if name in OFFLINE else _online(name, seen) for name in names}


def refuse_seen(tasks: Mapping[str, Any], seen: Collection[str]) -> None:
    """Checks loaded tasks as `refuse_seen_rows`.

    Args:
        tasks: what `load_tasks` returned.
        seen: hashes of documents that the model was calibrated or selected on.

    Raises:
        InputError: A task holds one of these documents.
    """
    for name, task in tasks.items():
        split = task.config.test_split or task.config.validation_split
        refuse_seen_rows(name, task.dataset[split], seen)


def refuse_seen_rows(task: str, rows: Iterable[Mapping[str, Any]], seen: Collection[str]) -> None:
    """Checks that a model has not been calibrated or selected on a task's text.

    Each field of a row that is text counts as a document: a passage, a question.

    Args:
        task: the task's name, for the message.
        rows: all of its rows.
        seen: hashes of documents that the model was calibrated or selected on.

    Raises:
        InputError: A row holds one of these documents.
    """
    known = frozenset(seen)
    if not known:
        return
    overlap = sum(any(_hash(text) in known for text in _texts(row)) for row in rows)
    if overlap:
        raise InputError(
            f"task '{task}': the model was calibrated or selected on the text of {overlap} of its "
            "items, so its accuracy there would be flattering; leave the task out"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the libraries' chatter and bars off the console."""
    import datasets
    from lm_eval.api import model, task

    # The hub's client tells of each of its retries; that the data cannot be had is said once.
    loggers = [logging.getLogger(name) for name in ("lm_eval", "huggingface_hub")]
    levels, disabled = [one.level for one in loggers], datasets.are_progress_bars_disabled()
    for one in loggers:
        one.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        # Two steps of a second each have bars without a switch.
        with patch.object(model, "tqdm", _no_bar), patch.object(task, "tqdm", _no_bar):
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
        if not disabled:
            datasets.enable_progress_bars()


def _no_bar(rows: Iterable[Any], **_: object) -> Iterable[Any]:
    return rows


def _offline(name: str) -> Any:
    directory = write_task(name, OFFLINE[name].rows())
    return _load(name, directory / f"{name}.yaml")


def _online(name: str, seen: Collection[str]) -> Any:
    known = _lm_eval_tasks()
    if name not in known:
        near = difflib.get_close_matches(name, [*OFFLINE, *known], n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise InputError(
            f"task '{name}': no task of lm-eval's, whose groups are not tasks; {hint}"
            f"known are {', '.join((*OFFLINE, *ONLINE))}, the last {len(ONLINE)} from the internet"
        )
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "task.yaml"
        # JSON is YAML, and needs no library to be written.
        path.write_text(json.dumps({"include": known[name], "task": name, **_BOTH}))
        task = _load(name, path)
    if task.OUTPUT_TYPE != "multiple_choice":
        raise InputError(
            f"task '{name}': is not multiple choice, so it has no acc and acc_norm "
            f"(its output type is {task.OUTPUT_TYPE})"
        )
    refuse_seen({name: task}, seen)
    return task


def _load(name: str, yaml: Path) -> Any:
    from lm_eval.tasks import TaskManager

    try:
        loaded = TaskManager(include_defaults=False).load([str(yaml)])
    except Exception as error:  # the hub and its client fail in many ways, none of them ours
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise InputError(
            f"task '{name}': its data cannot be loaded ({reason}); it needs internet once, "
            f"{', '.join(OFFLINE)} do not"
        ) from None
    return loaded["tasks"][name]


@cache
def _lm_eval_tasks() -> dict[str, str]:
    """The YAML files of lm-eval's own tasks by name; finding them takes it seconds."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    files = {name: manager.task_index[name].yaml_path for name in manager.all_subtasks}
    return {name: str(file) for name, file in files.items() if file is not None}


def _texts(row: Mapping[str, Any]) -> Iterator[str]:
    return (value.strip() for value in row.values() if isinstance(value, str))


def _hash(text: str) -> str:
    return Document(text, "", "").hash
