"""``--tasks`` of ``evaluate`` and ``compare``: zero-shot accuracy, of the dense model too."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunerzero.cli.common import Progress, note, print_table, split_list
from prunerzero.errors import InputError

if TYPE_CHECKING:
    from prunerzero.evaluation.zeroshot.results import ZeroShot
    from prunerzero.progress import Report

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


@dataclass(frozen=True)
class Questions:
    """What is to be asked, of which models.

    Attributes:
        tasks: what `prunerzero.evaluation.zeroshot.tasks.load_tasks` returned.
        limit: items of each task; None for all.
        dense: the dense model's name, None where there is no other model to ask.
    """

    tasks: dict[str, Any]
    limit: int | None
    dense: str | None

    def ask(
        self, model: Any, tokenizer: Any, dense: Any, dense_tokenizer: Any, dtype: str | None
    ) -> Answers:
        """Asks a loaded model, then the dense one if it is given."""
        with Progress() as progress:
            own = self.ask_one(model, tokenizer, dtype, progress)
            if dense is None:
                return Answers(own, None, None)
            theirs = self.ask_one(dense, dense_tokenizer, dtype, progress)
        return Answers(own, self.dense, theirs)

    def ask_one(self, model: Any, tokenizer: Any, dtype: str | None, report: Report) -> ZeroShot:
        """Asks one loaded model."""
        from prunerzero.evaluation.zeroshot.run import zero_shot

        return zero_shot(model, tokenizer, self.tasks, limit=self.limit, dtype=dtype, report=report)


@dataclass(frozen=True)
class Answers:
    """The answers of the model of interest, and of the dense one if it was asked."""

    own: ZeroShot
    dense_name: str | None
    dense: ZeroShot | None

    def to_json(self) -> dict[str, Any]:
        """The answers as a JSON-serialisable dictionary."""
        document = self.own.to_json(self.dense)
        document["tasks_settings"] |= {"against": self.dense_name}
        return document

    def show(self, model: str) -> None:
        """Prints the table."""
        from prunerzero.evaluation.zeroshot.table import zero_shot_table

        settings = self.own.settings
        beside = f"; dense: {self.dense_name}" if self.dense else ""
        print(
            f"{model}: zero-shot, lm-eval {settings['lm_eval']}, {settings['compute']}, "
            f"± one standard error{beside}\n"
        )
        print_table(*zero_shot_table(self.own, self.dense))
        print()


class Compared:
    """The answers of one model, dense and pruned by several recipes; nothing without questions.

    Args:
        questions: what is to be asked, None for nothing.
        model: the model, which is pruned and restored between the calls of `ask`.
        tokenizer: its tokenizer.
        dtype: precision of the passes.
        seen: hashes of documents that the model was or will be calibrated or selected on.

    Raises:
        InputError: a task holds text in ``seen``.
    """

    def __init__(
        self,
        questions: Questions | None,
        model: Any,
        tokenizer: Any,
        dtype: str | None,
        seen: Collection[str],
    ) -> None:
        self._questions = questions
        self._arguments = (model, tokenizer, dtype)
        self._answers: dict[str, ZeroShot] = {}
        if questions is not None:
            from prunerzero.evaluation.zeroshot.tasks import refuse_seen

            refuse_seen(questions.tasks, seen)

    def ask(self, label: str, report: Report) -> None:
        """Asks the model as it is now; the first to be asked is the dense one."""
        if self._questions is not None:
            labelled = partial(_labelled, report, label)
            self._answers[label] = self._questions.ask_one(*self._arguments, labelled)

    def to_json(self, label: str) -> dict[str, Any]:
        """The answers under a label, beside the dense model's, for a JSON document."""
        if self._questions is None:
            return {}
        dense = next(iter(self._answers.values()))
        own = self._answers[label]
        return {"tasks": own.to_json(None if own is dense else dense)["tasks"]}

    def settings(self) -> dict[str, Any]:
        """What the answers were measured with, for a JSON document."""
        if self._questions is None:
            return {}
        return {"tasks": next(iter(self._answers.values())).settings}

    def show(self) -> None:
        """Prints a table for the dense model and each recipe."""
        from prunerzero.evaluation.zeroshot.table import zero_shot_table

        dense = next(iter(self._answers.values()), None)
        for label, own in self._answers.items():
            print()
            print_table(*zero_shot_table(own, None if own is dense else dense), title=label)


def _labelled(report: Report, label: str, step: str, done: int, total: int) -> None:
    report(f"{label}: {step}", done, total)


def prepare(tasks: str, limit: int | None, dense: str | None, seen: Collection[str]) -> Questions:
    """Checks and loads what is to be asked, before the model is loaded.

    Args:
        tasks: names with commas between them.
        limit: items of each task.
        dense: the dense model to ask too.
        seen: hashes of documents that the model was calibrated or selected on.

    Raises:
        InputError: as `prunerzero.evaluation.zeroshot.tasks.load_tasks`.
    """
    from prunerzero.evaluation.zeroshot import check_tasks
    from prunerzero.evaluation.zeroshot.tasks import load_tasks

    names = split_list(tasks)
    check_tasks(names, seen)
    note(f"loading {', '.join(names)}")
    return Questions(load_tasks(names, seen), limit, dense)


def dense_name(model: str) -> str | None:
    """What ``model`` was pruned from, the dense model to ask too; None if nothing says so.

    Raises:
        InputError: the model it was pruned from is gone.
    """
    from prunerzero.models.names import check_model_name
    from prunerzero.pruning.checkpoint import pruned_from

    origin = pruned_from(model)
    if origin is None:
        return None
    try:
        check_model_name(origin[0])
    except InputError as error:
        raise InputError(f"dense model: {error} (--against names another)") from None
    return origin[0]
