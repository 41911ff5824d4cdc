"""``prunerzero compare``: several metrics on one model, with the same data for all."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from prunerzero.cli import inputs, zeroshot
from prunerzero.cli.common import (
    Blocks,
    Calibration,
    Device,
    Dtype,
    Exclude,
    Group,
    Include,
    Json,
    MinCoverage,
    Progress,
    Samples,
    Seed,
    SequenceLength,
    Sequential,
    emit,
    print_table,
    split_list,
)
from prunerzero.errors import InputError
from prunerzero.models.selection import MIN_COVERAGE


def command(
    model: inputs.Model,
    metrics: Annotated[
        str,
        typer.Option("--metrics", metavar="A,B,...", help="Zoo names, expressions, JSON files."),
    ],
    pattern: Annotated[list[str], typer.Option("--pattern", help="50%, 2:4, ...; repeatable.")],
    text: Annotated[
        str | None,
        typer.Option("--text", help="What to evaluate on; default: held-out calibration text."),
    ] = None,
    calibration: Calibration = "wikipedia",
    samples: Samples = 16,
    sequence_length: SequenceLength = 512,
    windows: inputs.EvaluationWindows = 32,
    tasks: zeroshot.Tasks = None,
    limit: zeroshot.Limit = None,
    group: Group = None,
    sequential: Sequential = True,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    blocks: Blocks = "",
    include: Include = [],  # noqa: B006  typer copies it
    exclude: Exclude = [],  # noqa: B006
    min_coverage: MinCoverage = MIN_COVERAGE,
    json: Json = False,
) -> None:
    """Prune with several metrics and compare perplexities, and zero-shot accuracies."""
    from prunerzero.data.sources import is_named, text_name
    from prunerzero.models.names import check_model_name
    from prunerzero.pruning.checkpoint import refuse_seen, seen_documents
    from prunerzero.pruning.pattern import Pattern
    from prunerzero.recipe import Recipe

    names = split_list(metrics)
    recipes = [Recipe.from_text(name, group) for name in names]
    patterns = [Pattern.parse(one) for one in pattern]
    check_model_name(model)
    inputs.check_calibration(calibration)
    if text is None and not is_named(calibration):
        raise InputError(f"calibration '{calibration}': is used whole, so give another with --text")
    text = text or calibration
    seen = seen_documents(model)
    refuse_seen(text, seen)
    questions = zeroshot.prepare(tasks, limit, None, seen) if tasks else None

    loaded, tokenizer = inputs.load_quietly(model, device, dtype)
    from prunerzero.evaluation.comparison import Comparison
    from prunerzero.evaluation.evaluate import evaluation_windows
    from prunerzero.evaluation.perplexity import TextLoss, paired_interval
    from prunerzero.models.blocks import find_blocks
    from prunerzero.models.compute import compute_for
    from prunerzero.pruning.calibration import calibration_windows, describe
    from prunerzero.pruning.pruner import plan_sparsities

    selection = inputs.selected(blocks, include, exclude, min_coverage)
    found = find_blocks(loaded, selection)
    for one in patterns:
        for recipe in recipes:
            plan_sparsities(found, recipe, one)
    compute = compute_for(loaded, dtype)
    statistics = calibration_windows(loaded, tokenizer, calibration, samples, sequence_length, seed)
    seen = seen.union(statistics.documents)
    measured = evaluation_windows(text, tokenizer, windows, sequence_length, seed, seen)
    answers = zeroshot.Compared(questions, loaded, tokenizer, dtype, seen)

    rows: list[dict[str, Any]] = []
    with Progress() as progress:
        comparison = Comparison(
            loaded, found, statistics.tokens, compute, sequential=sequential, report=progress
        )
        dense = comparison.measure_dense(measured)
        answers.ask("dense", progress)
        for one in patterns:
            first: TextLoss | None = None
            for name, recipe in zip(names, recipes, strict=True):
                label = f"{name} {one}"
                with comparison.pruned(label, recipe, one) as pruning_seconds:
                    outcome = comparison.outcome(label, measured, pruning_seconds)
                    answers.ask(label, progress)
                change = None
                if first is not None:
                    change = paired_interval(outcome.loss.losses, first.losses, seed=seed).to_json()
                first = first or outcome.loss
                rows.append(
                    {
                        "metric": name,
                        "expression": recipe.expression,
                        "group": inputs.shown_group(recipe, one),
                        "pattern": str(one),
                        "sparsity": outcome.sparsity,
                        "perplexity": outcome.loss.perplexity,
                        "change_vs_first": change,
                        "seconds": outcome.pruning_seconds,
                        **answers.to_json(label),
                    }
                )
    settings: dict[str, Any] = {
        "calibration": describe(statistics),
        "text": text_name(text),
        "windows": len(measured),
        "tokens_hash": measured.hash,
        "sequence_length": sequence_length,
        "sequential": sequential,
        "seed": seed,
        "selection": asdict(selection),
        "compute": str(compute),
        **answers.settings(),
    }
    document = {
        "model": model,
        "dense": {"perplexity": dense.perplexity, **answers.to_json("dense")},
        "rows": rows,
        "settings": settings,
    }
    if json:
        emit(document)
        return
    _print(document, inputs.described(settings["calibration"]))
    answers.show()


def _print(document: dict[str, Any], calibration: str) -> None:
    settings = document["settings"]
    print(
        f"{document['model']}: calibrated on {calibration} "
        f"({'sequential' if settings['sequential'] else 'one-shot'}); evaluated on "
        f"{settings['windows']} windows of {settings['sequence_length']} tokens of "
        f"{settings['text']}; seed {settings['seed']}; {settings['compute']}\n"
    )
    first = document["rows"][0]["metric"]
    rows: list[tuple[object, ...]] = [
        ("dense", "", "", "", f"{document['dense']['perplexity']:.3f}", "", "")
    ]
    for row in document["rows"]:
        change = row["change_vs_first"]
        rows.append(
            (
                row["metric"],
                row["group"],
                row["pattern"],
                f"{row['sparsity']:.2%}",
                f"{row['perplexity']:.3f}",
                f"{change['change']:+.1%} ({change['low']:+.1%} to {change['high']:+.1%})"
                if change
                else "",
                f"{row['seconds']:.1f}",
            )
        )
    columns = ("metric", "group", "pattern", "sparsity", "perplexity", f"vs {first}", "seconds")
    print_table(columns, rows)
