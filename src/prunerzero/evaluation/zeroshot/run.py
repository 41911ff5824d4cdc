"""`prunerzero.zero_shot`: accuracy of a model in memory on multiple-choice tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from torch import nn

from prunerzero.errors import InputError
from prunerzero.evaluation.zeroshot.offline import OFFLINE
from prunerzero.evaluation.zeroshot.results import Accuracy, TaskResult, ZeroShot, chance_level
from prunerzero.evaluation.zeroshot.tasks import load_tasks, quiet, refuse_seen
from prunerzero.models.compute import Compute, compute_for
from prunerzero.progress import Report, silent


def zero_shot(
    model: nn.Module,
    tokenizer: Any,
    tasks: Sequence[str] | Mapping[str, Any] = tuple(OFFLINE),
    *,
    limit: int | None = None,
    batch_size: int = 8,
    dtype: str | None = None,
    seen: Collection[str] = (),
    report: Report = silent,
) -> ZeroShot:
    """Asks a model questions without examples and scores its choices, by lm-eval.

    Of an item's choices the model picks the one of largest log-likelihood (``acc``), or of largest
    log-likelihood a character (``acc_norm``). The model is used as it is in memory, so a pruned
    one needs no file.

    Args:
        model: a causal LM.
        tokenizer: its tokenizer.
        tasks: names (`prunerzero.evaluation.zeroshot.OFFLINE`, `ONLINE`, or of any of lm-eval's
            multiple-choice tasks), or what `load_tasks` made of them.
        limit: asks the first so many items of each task only.
        batch_size: choices scored in one pass; rounding depends on it.
        dtype: precision of the passes; None takes bfloat16 where the hardware has it.
        seen: hashes of documents that the model was calibrated or selected on; refused.
        report: called with a task's name, the choices done and their number.

    Raises:
        MissingExtraError: lm-eval is not installed.
        InputError: A task is unknown, cannot be had, is not multiple choice or holds text in
            ``seen``; the limit is below 2; or the model has no tokenizer that fits.
    """
    if limit is not None and limit < 2:
        raise InputError(f"limit {limit}: at least 2 items are needed for a standard error")
    if tokenizer is None:
        raise InputError("zero-shot tasks need a tokenizer: this model has none that can be read")
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise InputError("zero-shot tasks need a tokenizer with a token that begins or ends a text")
    compute = compute_for(model, dtype)
    if isinstance(tasks, Mapping):
        loaded = tasks
        refuse_seen(loaded, seen)
    else:
        loaded = load_tasks(tasks, seen)
    results = {
        name: _ask(model, tokenizer, compute, name, task, limit, batch_size, report)
        for name, task in loaded.items()
    }
    settings = {
        "limit": limit,
        "batch_size": batch_size,
        "compute": str(compute),
        "examples": 0,
        "lm_eval": version("lm_eval"),
    }
    return ZeroShot(results, settings)


def _ask(
    model: nn.Module,
    tokenizer: Any,
    compute: Compute,
    name: str,
    task: Any,
    limit: int | None,
    batch_size: int,
    report: Report,
) -> TaskResult:
    from lm_eval.evaluator import evaluate

    from prunerzero.evaluation.zeroshot.live import LiveModel

    with quiet():
        live = LiveModel(model, tokenizer, compute, batch_size, name, report)
        # bootstrap_iters=0: standard errors are computed from the items, here (`Accuracy`).
        found = evaluate(live, {"tasks": {name: task}}, limit=limit, bootstrap_iters=0)
    samples = found["samples"][name]
    if len(samples) < 2:
        raise InputError(f"task '{name}': has {len(samples)} items; at least 2 are needed")
    chance = chance_level(
        [task.doc_to_choice(sample["doc"]) for sample in samples],
        [_answer(task, sample["doc"]) for sample in samples],
    )
    scores = {
        metric: Accuracy(
            tuple(int(sample[metric]) for sample in samples),
            # The model's own next words are no choice among few.
            None if metric == "exact_match" else chance,
        )
        for metric in ("acc", "acc_norm", "exact_match")
        if metric in samples[0]
    }
    if task.multiple_input:
        # The choices are contexts of one ending (WinoGrande). lm-eval would divide by the lengths
        # of the contexts, which are not scored; the ending's is the same for all.
        scores["acc_norm"] = scores["acc"]
    return TaskResult(
        scores=scores,
        available=len(task.eval_docs),
        items_hash=_items_hash(samples),
        truncated=live.truncated,
        version=str(task.VERSION),
    )


def _answer(task: Any, doc: Any) -> str:
    return str(task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc))


def _items_hash(samples: list[dict[str, Any]]) -> str:
    asked = [(sample["arguments"], str(sample["target"])) for sample in samples]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
