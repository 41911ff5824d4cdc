"""What ``--tasks`` of `evaluate` and `compare` have in common."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunerzero.cli import inputs
from prunerzero.cli.common import Progress, note, print_table, split_list
from prunerzero.errors import InputError

if TYPE_CHECKING:
    from prunerzero.evaluation.zeroshot.results import ZeroShot

Tasks = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        metavar="A,B,...",
        help="Zero-shot tasks: sentence_order, last_word, socialiqa, quartz, mmlu_items without "
        "internet; boolq, rte, hellaswag and others of lm-eval's with it.",
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=2, help="Ask the first N items of each task only.")
]


def task_names(tasks: str | None, seen: Collection[str]) -> list[str]:
    """The names in ``--tasks``, checked as far as can be without torch.

    Raises:
        InputError: As `prunerzero.evaluation.zeroshot.check_tasks`.
    """
    if tasks is None:
        return []
    from prunerzero.evaluation.zeroshot import check_tasks

    names = split_list(tasks)
    check_tasks(names, seen)
    return names


def dense_model(model: str, given: str | None) -> str | None:
    """The dense model to measure beside a pruned one: as given, or what its record names.

    Raises:
        InputError: There is no such model.
    """
    from prunerzero.models.names import check_model_name
    from prunerzero.pruning.checkpoint import pruned_from

    dense = given or pruned_from(model)
    if dense is None:
        return None
    try:
        check_model_name(dense)
    except InputError as error:
        raise InputError(f"dense model of {model}: {error}; name another with --dense") from None
    return dense


def ask(
    model: Any, tokenizer: Any, tasks: dict[str, Any], limit: int | None, dtype: str | None
) -> ZeroShot:
    """Asks a loaded model, with progress."""
    from prunerzero.evaluation.zeroshot.run import zero_shot

    with Progress() as progress:
        return zero_shot(model, tokenizer, tasks, limit=limit, dtype=dtype, report=progress)


def ask_dense(
    name: str | None,
    tasks: dict[str, Any],
    limit: int | None,
    device: str | None,
    dtype: str | None,
) -> ZeroShot | None:
    """Asks the dense model, if there is one, the same questions."""
    if name is None:
        return None
    model, tokenizer = inputs.load_quietly(name, device, dtype)
    return ask(model, tokenizer, tasks, limit, dtype)


def load(names: list[str], seen: Collection[str]) -> dict[str, Any]:
    """Loads the tasks, and says so: it takes seconds.

    Raises:
        InputError: As `prunerzero.evaluation.zeroshot.tasks.load_tasks`.
    """
    from prunerzero.evaluation.zeroshot.tasks import load_tasks

    note(f"loading {', '.join(names)}")
    return load_tasks(names, seen)


def show(model: str, result: ZeroShot, dense_name: str | None, dense: ZeroShot | None) -> None:
    """Prints a model's answers, and the dense model's beside them."""
    from prunerzero.evaluation.zeroshot.table import zero_shot_table

    settings = result.settings
    beside = f"; dense: {dense_name}" if dense else ""
    print(
        f"{model}: zero-shot, lm-eval {settings['lm_eval']}, {settings['compute']}, "
        f"± one standard error{beside}\n"
    )
    print_table(*zero_shot_table(result, dense))
