"""``prunerzero evaluate``: perplexity of a model on texts, accuracy on zero-shot tasks."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prunerzero.cli import inputs, zeroshot
from prunerzero.cli.common import Device, Dtype, Json, Progress, Seed, emit, print_table

TEXT_HELP = "Named source (its held-out documents) or file (whole); repeatable."


def command(
    model: inputs.Model,
    text: Annotated[list[str] | None, typer.Option("--text", help=TEXT_HELP)] = None,
    windows: inputs.EvaluationWindows = 32,
    sequence_length: Annotated[
        int, typer.Option("--sequence-length", min=2, help="Tokens a window.")
    ] = 512,
    tasks: zeroshot.Tasks = None,
    limit: zeroshot.Limit = None,
    dense: Annotated[
        str | None,
        typer.Option("--dense", metavar="MODEL", help="Dense model; default: pruning.json's."),
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    json: Json = False,
) -> None:
    """Measure perplexity on texts (default: wikipedia, without --tasks) and zero-shot accuracy."""
    from prunerzero.models.names import check_model_name
    from prunerzero.pruning.checkpoint import refuse_seen, seen_documents

    texts = text or ([] if tasks else ["wikipedia"])
    check_model_name(model)
    seen = seen_documents(model)
    for name in texts:
        refuse_seen(name, seen)
    names = zeroshot.task_names(tasks, seen)
    dense = zeroshot.dense_model(model, dense) if names else None
    questions = zeroshot.load(names, seen) if names else {}

    loaded, tokenizer = inputs.load_quietly(model, device, dtype)
    from prunerzero.evaluation.evaluate import evaluate

    document: dict[str, Any] = {"model": model}
    if texts:
        with Progress() as progress:
            evaluation = evaluate(
                loaded,
                tokenizer,
                texts,
                windows=windows,
                sequence_length=sequence_length,
                seed=seed,
                dtype=dtype,
                seen=seen,
                report=progress,
            )
        document |= evaluation.to_json()
    if questions:
        answers = zeroshot.ask(loaded, tokenizer, questions, limit, dtype)
        del loaded  # the dense model need not fit beside it
        reference = zeroshot.ask_dense(dense, questions, limit, device, dtype)
        document |= {**answers.to_json(reference), "dense_model": dense}
    if json:
        emit(document)
        return
    if texts:
        settings = evaluation.settings
        print(f"{model}: windows of {sequence_length} tokens, seed {seed}, {settings['compute']}\n")
        print_table(
            ("text", "windows", "perplexity"),
            [
                (name, settings["texts"][name]["windows"], f"{perplexity:.3f}")
                for name, perplexity in evaluation.perplexity.items()
            ],
        )
    if questions:
        zeroshot.show(model, answers, dense, reference)
