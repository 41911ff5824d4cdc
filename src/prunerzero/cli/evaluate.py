"""``prunerzero evaluate``: perplexity of a model on texts, accuracy on zero-shot tasks."""

from __future__ import annotations

from typing import Annotated

import typer

from prunerzero.cli import inputs, zeroshot
from prunerzero.cli.common import Device, Dtype, Json, Progress, Seed, emit, print_table

TEXT_HELP = "Named source (its held-out documents) or file (whole); repeatable."


def command(
    model: inputs.Model,
    text: Annotated[list[str] | None, typer.Option("--text", help=TEXT_HELP)] = None,
    tasks: zeroshot.Tasks = None,
    limit: zeroshot.Limit = None,
    against: zeroshot.Against = None,
    windows: inputs.EvaluationWindows = 32,
    sequence_length: Annotated[
        int, typer.Option("--sequence-length", min=2, help="Tokens a window.")
    ] = 512,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    json: Json = False,
) -> None:
    """Measure perplexity on texts (default, without --tasks: wikipedia), and zero-shot accuracy."""
    from prunerzero.models.names import check_model_name
    from prunerzero.pruning.checkpoint import refuse_seen, seen_documents

    texts = text or ([] if tasks else ["wikipedia"])
    check_model_name(model)
    seen = seen_documents(model)
    for name in texts:
        refuse_seen(name, seen)
    dense = zeroshot.dense_name(model, against) if tasks else None
    questions = zeroshot.prepare(tasks, limit, dense, seen) if tasks else None

    loaded, tokenizer = inputs.load_quietly(model, device, dtype)
    from prunerzero.evaluation.evaluate import evaluate

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
    answers = questions.ask(loaded, tokenizer, device, dtype) if questions else None
    if json:
        emit({"model": model, **evaluation.to_json(), **(answers.to_json() if answers else {})})
        return
    if answers:
        answers.show(model)
    if not texts:
        return
    settings = evaluation.settings
    print(f"{model}: windows of {sequence_length} tokens, seed {seed}, {settings['compute']}\n")
    print_table(
        ("text", "windows", "perplexity"),
        [
            (name, settings["texts"][name]["windows"], f"{perplexity:.3f}")
            for name, perplexity in evaluation.perplexity.items()
        ],
    )
