"""``prunerzero evaluate``: perplexity and zero-shot accuracy, alone or beside the dense model's."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prunerzero.cli import inputs, zeroshot
from prunerzero.cli.common import Json, Progress, emit, print_table
from prunerzero.cli.options import RunOptions, with_options
from prunerzero.errors import InputError

TEXT_HELP = "Named source (its held-out documents) or file (whole); repeatable."
WINDOWS, DEEP_WINDOWS = 32, 8

EXAMPLES = (
    "prunerzero evaluate out",
    "prunerzero evaluate out --text openwebtext --text my.txt --against smollm2",
    "prunerzero evaluate out --tasks sentence_order,last_word",
    "prunerzero evaluate out --deep",
)


@with_options
def command(
    *,
    model: inputs.Model,
    text: Annotated[list[str] | None, typer.Option("--text", help=TEXT_HELP)] = None,
    tasks: zeroshot.Tasks = None,
    limit: zeroshot.Limit = None,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Predictions, blocks and writing beside the dense model's."),
    ] = False,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="DENSE",
            help="Model to measure too; with --deep or --tasks, default: the one pruned.",
        ),
    ] = None,
    calibration: Annotated[
        str,
        typer.Option(
            "--calibration", metavar="SOURCE", help="With --deep: text to count tokens in."
        ),
    ] = "wikipedia",
    windows: Annotated[
        int | None,
        typer.Option(
            "--windows",
            min=1,
            help=f"Windows drawn from a named text; {WINDOWS}, or {DEEP_WINDOWS} with --deep.",
        ),
    ] = None,
    sequence_length: Annotated[
        int, typer.Option("--sequence-length", min=2, help="Tokens a window.")
    ] = 512,
    run: RunOptions,
    json: Json = False,
) -> None:
    """Measure perplexity on texts (default, without --tasks: wikipedia), and zero-shot accuracy."""
    from prunerzero.data.bundled import DOMAINS
    from prunerzero.models.names import check_model_name
    from prunerzero.pruning.checkpoint import refuse_seen, seen_documents

    texts = text or (list(DOMAINS) if deep else [] if tasks else ["wikipedia"])
    check_model_name(model)
    dense_name = _dense_name(model, against) if deep else against
    if tasks:
        dense_name = dense_name or zeroshot.dense_name(model)
    if dense_name is not None:
        check_model_name(dense_name)
    seen = seen_documents(model)
    for name in texts:
        refuse_seen(name, seen)
    if deep:
        inputs.check_calibration(calibration)
    questions = zeroshot.prepare(tasks, limit, dense_name, seen) if tasks else None

    loaded, tokenizer = run.load(model)
    dense: Any = None
    dense_tokenizer: Any = None
    if dense_name is not None:
        dense, dense_tokenizer = run.load(dense_name)
    from prunerzero.cli.deep import print_deep
    from prunerzero.cli.published import names_and_pattern, print_published, published_beside
    from prunerzero.evaluation.deep import evaluate_deep
    from prunerzero.evaluation.evaluate import evaluate

    options: dict[str, Any] = {
        "windows": windows or (DEEP_WINDOWS if deep else WINDOWS),
        "sequence_length": sequence_length,
        "seed": run.seed,
        "dtype": run.dtype,
        "seen": seen,
    }
    found = None
    with Progress() as progress:
        if deep:
            found = evaluate_deep(
                loaded, dense, tokenizer, texts, counted=calibration, report=progress, **options
            )
            evaluation = found.evaluation
        else:
            evaluation = evaluate(
                loaded, tokenizer, texts, against=dense, report=progress, **options
            )
    names, pattern = names_and_pattern(model, loaded)
    published = {
        name: published_beside(names, name, sequence_length, pattern) for name in evaluation.losses
    }
    answers = None
    if questions is not None:
        answers = questions.ask(loaded, tokenizer, dense, dense_tokenizer, run.dtype)
    if json:
        emit(
            {
                "model": model,
                "against": dense_name,
                **(found or evaluation).to_json(),
                **(answers.to_json() if answers else {}),
                "published": {
                    name: [each.to_json() for each in values] for name, values in published.items()
                },
            }
        )
        return
    if answers is not None:
        answers.show(model)
    if not texts:
        return
    settings = evaluation.settings
    print(f"{model}: windows of {sequence_length} tokens, seed {run.seed}, {settings['compute']}\n")
    _print_perplexities(evaluation, dense_name)
    for name, values in published.items():
        print_published(name, evaluation.perplexity[name], values)
    if found is not None:
        print_deep(found)


def _dense_name(model: str, against: str | None) -> str:
    """The dense model of a deep evaluation.

    Raises:
        InputError: It is not given, and the model has no record of it or the record's is gone.
    """
    from prunerzero.models.names import check_model_name
    from prunerzero.pruning.checkpoint import pruned_from

    if against is not None:
        return against
    origin = pruned_from(model)
    if origin is None:
        raise InputError(
            f"model '{model}': has no pruning.json that says what it was pruned from; "
            "name the dense model with --against"
        )
    try:
        check_model_name(origin[0])
    except InputError as error:
        raise InputError(f"{error}; it is what '{model}' was pruned from: give --against") from None
    return origin[0]


def _print_perplexities(evaluation: Any, dense_name: str | None) -> None:
    from prunerzero.cli.deep import change
    from prunerzero.evaluation.protocol import Protocol

    changes, others = evaluation.change, evaluation.against or {}
    texts = evaluation.settings["texts"]
    more = ("dense", "change against it (95 %)") if others else ()
    rows = []
    for name, loss in evaluation.losses.items():
        own = (name, texts[name]["windows"], f"{loss.perplexity:.3f}")
        bits = f"{evaluation.bits_per_byte[name]:.4f}"
        beside = (f"{others[name].perplexity:.3f}", change(changes[name])) if others else ()
        rows.append((*own, bits, *beside))
    print_table(("text", "windows", "perplexity", "bits a byte", *more), rows)
    print()
    if others:
        print(f"dense: {dense_name}")
    for name, one in texts.items():
        print(f"{name}: {Protocol(**one['protocol'])}")
    print("Each window is scored on its own, all its tokens but the first.")
