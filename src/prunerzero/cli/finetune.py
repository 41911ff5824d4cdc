"""``prunerzero finetune``: LoRA that keeps the zeros, beside the dense model tuned equally."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunerzero.cli import inputs
from prunerzero.cli.common import (
    Device,
    Dtype,
    Json,
    Progress,
    Seed,
    emit,
    note,
    prepare_output,
    print_table,
)

if TYPE_CHECKING:
    from prunerzero.finetuning.finetune import FinetuneResult

BUDGET = "10m"


EXAMPLES = ("prunerzero finetune out --budget 10m",)


def command(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="Checkpoint directory, as prune writes it.")
    ],
    output: Annotated[
        str | None,
        typer.Option("--output", help="Directory to make; default: DIR-finetuned."),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="Training time of the pruned model: 90s, 10m, 2h. The dense one gets the same "
            f"steps on top. Default {BUDGET}.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Most steps of each model.")
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration",
            metavar="SOURCE",
            help="Text to train on: its calibration documents, or a file; default: as pruned.",
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", help="What to evaluate on; default: held-out training text."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="DENSE", help="Dense model; default: the one pruned."),
    ] = None,
    control: Annotated[
        bool,
        typer.Option("--control/--no-control", help="Fine-tune the dense model equally."),
    ] = True,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Rank of the updates.")] = 32,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", min=0.0, help="The highest, after warming up.")
    ] = 5e-4,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Windows a step.")] = 4,
    sequence_length: Annotated[
        int, typer.Option("--sequence-length", min=2, help="Tokens a window.")
    ] = 512,
    windows: inputs.EvaluationWindows = 32,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    json: Json = False,
) -> None:
    """Fine-tune a pruned model and keep its zeros; the same command goes on after a kill."""
    import os
    from pathlib import Path

    from prunerzero.evolution.settings import Budget
    from prunerzero.models.names import check_model_name
    from prunerzero.pruning.checkpoint import refuse_seen, seen_documents
    from prunerzero.streaming.journal import Journal, work_directory

    limit = budget or (None if steps else BUDGET)
    seconds = Budget.parse(limit).seconds if limit else None
    check_model_name(directory)
    target = Path(os.path.abspath(output or f"{directory.rstrip('/')}-finetuned"))
    if not Journal(work_directory(target)).exists():
        prepare_output(target)
    inputs.announce(directory)
    from prunerzero.finetuning.finetune import Plan, Settings, finetune
    from prunerzero.finetuning.schedule import Length

    plan = Plan.make(directory, text=calibration, heldout=text, against=against, control=control)
    refuse_seen(plan.heldout, seen_documents(directory))
    settings = Settings(
        rank=rank,
        alpha=float(rank),
        learning_rate=learning_rate,
        batch=batch,
        sequence_length=sequence_length,
        windows=windows,
        seed=seed,
    )
    with Progress() as progress:
        try:
            result = finetune(
                plan,
                target,
                Length(steps, seconds),
                settings,
                device=device,
                dtype=dtype,
                report=progress,
            )
        except KeyboardInterrupt:
            note(f"what is done is in {work_directory(target)}: the same command goes on")
            raise
    if json:
        emit({"model": directory, **result.to_json()})
        return
    _print(directory, result)


def _print(directory: str, result: FinetuneResult) -> None:
    settings: dict[str, Any] = result.settings
    print(
        f"{directory}: {len(result.pruned.course.rates)} steps of {settings['batch']} windows of "
        f"{settings['sequence_length']} tokens of {settings['text']}, LoRA of rank "
        f"{settings['rank']} on every pruned layer; evaluated on {settings['windows']} windows of "
        f"{settings['heldout']}; seed {settings['seed']}; {settings['compute']}\n"
    )
    models = {"pruned, zeros kept": result.pruned, "dense, tuned equally": result.dense}
    rows = [
        (
            name,
            f"{tuned.before.perplexity:.3f}",
            f"{tuned.after.perplexity:.3f}",
            f"{tuned.change.change:+.1%} ({tuned.change.low:+.1%} to {tuned.change.high:+.1%})",
            f"{tuned.course.seconds:.0f}",
        )
        for name, tuned in models.items()
        if tuned is not None
    ]
    print_table(("model", "before", "after", "change (95 %)", "seconds"), rows)
    print(f"\nzeros: {result.sparsity:.4%} of the pruned matrices, as before")
    if result.recovery is not None:
        print(
            f"recovered: {result.recovery:.1%} of the perplexity that pruning cost, measured "
            "against the dense model tuned equally"
        )
    print(f"saved in {result.output}")
