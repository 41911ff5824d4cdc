"""``prunerzero compare``: several metrics on one model, with the same data for all."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from typing import Annotated, Any

import typer

from prunerzero.cli import inputs, zeroshot
from prunerzero.cli.common import (
    AllowPickle,
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
    update: Annotated[
        str | None,
        typer.Option(
            "--update",
            metavar="A,B,...",
            help="What happens to kept weights: every metric with each; default: its own.",
        ),
    ] = None,
    permute: Annotated[
        bool,
        typer.Option("--permute", help="N:M patterns also with input channels reordered."),
    ] = False,
    sequential: Sequential = True,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    blocks: Blocks = "",
    include: Include = [],  # noqa: B006  typer copies it
    exclude: Exclude = [],  # noqa: B006
    min_coverage: MinCoverage = MIN_COVERAGE,
    allow_pickle: AllowPickle = False,
    json: Json = False,
) -> None:
    """Prune with several metrics and compare perplexities, and zero-shot accuracies."""
    from prunerzero.data.sources import is_named, text_name
    from prunerzero.data.written import without_self
    from prunerzero.models.names import check_model_name
    from prunerzero.pruning.checkpoint import refuse_seen, seen_documents
    from prunerzero.pruning.pattern import Pattern
    from prunerzero.recipe import Recipe

    chosen = [(name, Recipe.from_text(name, group)) for name in split_list(metrics)]
    if update is not None:
        updates = split_list(update)
        chosen = [(name, recipe.with_update(one)) for name, recipe in chosen for one in updates]
    patterns = [Pattern.parse(one) for one in pattern]
    if permute and not any(one.is_nm for one in patterns):
        from prunerzero.permutation.pattern import check_permutable

        check_permutable(patterns[0])
    check_model_name(model)
    inputs.check_calibration(calibration)
    if text is None and not is_named(calibration):
        raise InputError(f"calibration '{calibration}': is used whole, so give another with --text")
    if text is None and without_self(calibration) != calibration:
        raise InputError(
            f"calibration '{calibration}': holds what the model itself writes, no text to measure "
            "it on, so give another with --text"
        )
    text = text or calibration
    seen = seen_documents(model)
    refuse_seen(text, seen)
    questions = zeroshot.prepare(tasks, limit, None, seen) if tasks else None

    loaded, tokenizer = inputs.load_quietly(inputs.loadable(model, allow_pickle), device, dtype)
    from prunerzero.cli.published import names_and_pattern, published_beside
    from prunerzero.evaluation.comparison import Comparison
    from prunerzero.evaluation.evaluate import evaluation_windows
    from prunerzero.evaluation.perplexity import TextLoss, paired_interval, scored_bytes
    from prunerzero.evaluation.protocol import protocol_of
    from prunerzero.evaluation.published import DENSE
    from prunerzero.models.blocks import find_blocks
    from prunerzero.models.compute import compute_for
    from prunerzero.pruning.calibration import calibration_windows, describe
    from prunerzero.pruning.pruner import plan_sparsities

    selection = inputs.selected(blocks, include, exclude, min_coverage)
    found = find_blocks(loaded, selection)
    for one in patterns:
        for _, recipe in chosen:
            plan_sparsities(found, recipe, one)
    compute = compute_for(loaded, dtype)
    with Progress() as progress:
        statistics = calibration_windows(
            loaded, tokenizer, calibration, samples, sequence_length, seed, progress
        )
    seen = seen.union(statistics.documents)
    measured = evaluation_windows(text, tokenizer, windows, sequence_length, seed, seen)
    answers = zeroshot.Compared(questions, loaded, tokenizer, dtype, seen)

    size = scored_bytes(measured, tokenizer)
    known, made = names_and_pattern(model, loaded)
    published = []
    if made == DENSE:  # papers do not prune what is pruned already
        published = published_beside(known, text_name(text), sequence_length)

    rows: list[dict[str, Any]] = []
    with Progress() as progress:
        comparison = Comparison(
            loaded, found, statistics.tokens, compute, sequential=sequential, report=progress
        )
        dense = comparison.measure_dense(measured)
        answers.ask("dense", progress)
        for one in patterns:
            first: TextLoss | None = None
            variants = [False, True] if permute and one.is_nm else [False]
            for (name, recipe), permuted in product(chosen, variants):
                step = name if recipe.update == "none" else f"{name}, {recipe.update}"
                label = f"{step}{', permuted' if permuted else ''} {one}"
                with comparison.pruned(label, recipe, one, permuted=permuted) as pruning_seconds:
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
                        "update": recipe.update,
                        "permuted": permuted,
                        "pattern": str(one),
                        "sparsity": outcome.sparsity,
                        "perplexity": outcome.loss.perplexity,
                        "bits_per_byte": outcome.loss.bits_per_byte(size),
                        "published": [
                            each.to_json()
                            for each in published
                            if (each.method, each.pattern) == (name.lower(), str(one))
                        ],
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
        "protocol": protocol_of(text, sequence_length).to_json(),
        "sequential": sequential,
        "seed": seed,
        "selection": asdict(selection),
        "compute": str(compute),
        **answers.settings(),
    }
    document = {
        "model": model,
        "dense": {
            "perplexity": dense.perplexity,
            "bits_per_byte": dense.bits_per_byte(size),
            "published": [each.to_json() for each in published if each.pattern == DENSE],
            **answers.to_json("dense"),
        },
        "rows": rows,
        "settings": settings,
    }
    if json:
        emit(document)
        return
    _print(document, inputs.described(settings["calibration"]))
    answers.show()


def _print(document: dict[str, Any], calibration: str) -> None:
    from prunerzero.evaluation.protocol import Protocol

    settings = document["settings"]
    print(
        f"{document['model']}: calibrated on {calibration} "
        f"({'sequential' if settings['sequential'] else 'one-shot'}); evaluated on "
        f"{settings['windows']} windows of {settings['sequence_length']} tokens of "
        f"{settings['text']}; seed {settings['seed']}; {settings['compute']}\n"
    )
    dense = document["dense"]
    measured = [dense, *document["rows"]]
    comparable = any(row["published"] for row in measured)
    rows: list[tuple[object, ...]] = [("dense", "", "", "", "", *_perplexities(dense), "", "")]
    for row in document["rows"]:
        change = row["change_vs_first"]
        rows.append(
            (
                f"{row['metric']}{', permuted' if row['permuted'] else ''}",
                row["group"],
                row["update"],
                row["pattern"],
                f"{row['sparsity']:.2%}",
                *_perplexities(row),
                f"{change['change']:+.1%} ({change['low']:+.1%} to {change['high']:+.1%})"
                if change
                else "",
                f"{row['seconds']:.1f}",
            )
        )
    columns: tuple[str, ...] = ("metric", "group", "update", "pattern", "sparsity")
    columns += ("perplexity", "bits a byte", f"vs {document['rows'][0]['metric']}", "seconds")
    if comparable:
        columns += ("published",)
        rows = [(*row, _published(each)) for row, each in zip(rows, measured, strict=True)]
    print_table(columns, rows)
    print(f"\n{settings['text']}: {Protocol(**settings['protocol'])}")


def _perplexities(row: dict[str, Any]) -> tuple[str, str]:
    return f"{row['perplexity']:.3f}", f"{row['bits_per_byte']:.4f}"


def _published(row: dict[str, Any]) -> str:
    """Published values, each with the first word of its source: its first author."""
    return ", ".join(
        f"{each['value']:.2f} ({each['source'].partition(' ')[0]}"
        f"{'' if each['checked'] else ', unchecked'})"
        for each in row["published"]
    )
