"""``--tasks`` of ``prunerzero evaluate``: zero-shot accuracy, of the dense model too."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
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
Against = Annotated[
    str | None,
    typer.Option(
        "--against", metavar="DENSE", help="Model to ask too; default: the one pruned, if any."
    ),
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

    def ask(self, model: Any, tokenizer: Any, device: str | None, dtype: str | None) -> Answers:
        """Asks a loaded model, then the dense one."""
        own = self._ask(model, tokenizer, dtype)
        if self.dense is None:
            return Answers(own, None, None)
        dense = self._ask(*inputs.load_quietly(self.dense, device, dtype), dtype)
        return Answers(own, self.dense, dense)

    def _ask(self, model: Any, tokenizer: Any, dtype: str | None) -> ZeroShot:
        from prunerzero.evaluation.zeroshot.run import zero_shot

        with Progress() as progress:
            return zero_shot(
                model, tokenizer, self.tasks, limit=self.limit, dtype=dtype, report=progress
            )


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


def prepare(
    tasks: str, limit: int | None, model: str, against: str | None, seen: Collection[str]
) -> Questions:
    """Checks and loads what is to be asked, before the model is loaded.

    Raises:
        InputError: as `prunerzero.evaluation.zeroshot.tasks.load_tasks`, or there is no such dense
            model.
    """
    from prunerzero.evaluation.zeroshot import check_tasks
    from prunerzero.evaluation.zeroshot.tasks import load_tasks
    from prunerzero.models.names import check_model_name
    from prunerzero.pruning.checkpoint import pruned_from

    names = split_list(tasks)
    check_tasks(names, seen)
    origin = pruned_from(model)
    dense = against or (origin[0] if origin else None)
    if dense is not None:
        try:
            check_model_name(dense)
        except InputError as error:
            raise InputError(f"dense model: {error} (--against names another)") from None
    note(f"loading {', '.join(names)}")
    return Questions(load_tasks(names, seen), limit, dense)
