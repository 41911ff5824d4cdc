"""``prunerzero compare``: several metrics on one model, with the same data for all."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from prunerzero.cli import inputs, zeroshot
from prunerzero.cli.common import Group, Json, Progress, Sequential, emit, note
from prunerzero.cli.comparison import comparison_document, print_comparison, write_files
from prunerzero.cli.methods import ALL, allocator, applicable, methods_of
from prunerzero.cli.options import (
    AllocationBudget,
    RunOptions,
    SelectionOptions,
    WindowOptions,
    with_options,
)
from prunerzero.errors import InputError

EXAMPLES = (
    "prunerzero compare smollm2 --metrics wanda,ria,pruner-zero --pattern 50%",
    'prunerzero compare smollm2 --metrics "wanda,W * A * sqrt(coln(F))" --pattern 2:4',
    "prunerzero compare smollm2 --metrics wanda --update none,sparsegpt --pattern 2:4 --json",
)


@with_options
def command(
    *,
    model: inputs.Model,
    metrics: Annotated[
        str,
        typer.Option(
            "--metrics", metavar="A,B,...", help="Zoo names, expressions, JSON files; all: the zoo."
        ),
    ],
    pattern: Annotated[list[str], typer.Option("--pattern", help="50%, 2:4, ...; repeatable.")],
    text: Annotated[
        str | None,
        typer.Option("--text", help="What to evaluate on; default: held-out calibration text."),
    ] = None,
    calibration: Annotated[
        list[str],
        typer.Option(
            "--calibration",
            metavar="SOURCE",
            help="Text for the statistics: name or file; repeatable: what the data make of it.",
        ),
    ] = ["wikipedia"],  # noqa: B006  typer copies it
    amount: WindowOptions,
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
    allocation: Annotated[
        str | None,
        typer.Option(
            "--allocation",
            metavar="A,B,...",
            help="uniform, owl, evolved, or a recipe whose is taken: every metric under each; "
            "default: its own.",
        ),
    ] = None,
    allocation_budget: AllocationBudget = "2m",
    permute: Annotated[
        bool,
        typer.Option("--permute", help="N:M patterns also with input channels reordered."),
    ] = False,
    sequential: Sequential = True,
    run: RunOptions,
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, help="Calibration draws, from --seed on.")
    ] = 1,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="DIR", help="For the tables, and to go on with what is there."
        ),
    ] = None,
    selected: SelectionOptions,
    json: Json = False,
) -> None:
    """Prune with several metrics and compare perplexities, and zero-shot accuracies."""
    from prunerzero.data.sources import is_named, text_name
    from prunerzero.data.written import without_self
    from prunerzero.models.names import check_model_name
    from prunerzero.permutation.pattern import check_permutable
    from prunerzero.pruning.checkpoint import refuse_seen, seen_documents
    from prunerzero.pruning.pattern import Pattern

    seed, sequence_length = run.seed, amount.sequence_length
    methods = methods_of(metrics, group, update, allocation, allocation_budget)
    patterns = [Pattern.parse(one) for one in pattern]
    if permute and not any(one.is_nm for one in patterns):
        check_permutable(patterns[0])
    check_model_name(model)
    for one in calibration:
        inputs.check_calibration(one)
    if text is None and not is_named(calibration[0]):
        raise InputError(
            f"calibration '{calibration[0]}': is used whole, so give another with --text"
        )
    if text is None and without_self(calibration[0]) != calibration[0]:
        raise InputError(
            f"calibration '{calibration[0]}': holds what the model itself writes, no text to "
            "measure it on, so give another with --text"
        )
    text = text or calibration[0]
    seen = seen_documents(model)
    refuse_seen(text, seen)
    questions = zeroshot.prepare(tasks, limit, None, seen) if tasks else None

    loaded, tokenizer = run.load(model)
    from prunerzero.cli.published import names_and_pattern, published_beside
    from prunerzero.evaluation.estimate import WORTH_SAYING, cost_of_trials
    from prunerzero.evaluation.evaluate import evaluation_windows
    from prunerzero.evaluation.measurements import Measurements
    from prunerzero.evaluation.perplexity import scored_bytes
    from prunerzero.evaluation.protocol import protocol_of
    from prunerzero.evaluation.published import DENSE
    from prunerzero.evaluation.ranking import rows_of
    from prunerzero.evaluation.trials import Laboratory, Trial, run_trials
    from prunerzero.models.blocks import find_blocks
    from prunerzero.models.compute import compute_for
    from prunerzero.pruning.calibration import calibration_windows, describe

    selection = selected.selection()
    found = find_blocks(loaded, selection)
    wanted = applicable(methods, patterns, found, everything=metrics.strip() == ALL)
    compute = compute_for(loaded, run.dtype)
    with Progress() as progress:
        draws = {
            (text_, one): calibration_windows(
                loaded, tokenizer, text_, amount.samples, sequence_length, one, progress
            )
            for text_ in calibration
            for one in range(seed, seed + seeds)
        }
    seen = seen.union(*(windows.documents for windows in draws.values()))
    measured = evaluation_windows(text, tokenizer, windows, sequence_length, seed, seen)
    answers = zeroshot.Compared(questions, loaded, tokenizer, run.dtype, seen)
    size = scored_bytes(measured, tokenizer)
    known, made = names_and_pattern(model, loaded)
    published = []
    if made == DENSE:  # papers do not prune what is pruned already
        published = published_beside(known, text_name(text), sequence_length)

    trials = [
        Trial(each.name, each.recipe, one, text_, draw, each.allocation, each.evolve, permuted)
        for text_ in calibration
        for one in patterns
        for each in wanted[str(one)]
        for permuted in ([False, True] if permute and one.is_nm else [False])
        for draw in range(seed, seed + seeds)
    ]
    allocate = None
    if any(each.evolve is not None for each in methods):
        allocate = allocator(tokenizer, calibration)
    with Measurements(output) as measurements, Progress() as progress:

        def ask(label: str) -> dict[str, Any]:
            answers.ask(label, progress)
            return answers.to_json(label)

        laboratory = Laboratory(
            loaded,
            found,
            compute,
            measured,
            sequential,
            progress,
            f"{tasks or ''} {limit or ''}",
            allocate,
        )

        def foretell(seconds: float, left: list[Trial]) -> None:
            cost = cost_of_trials(laboratory, seconds, left, draws)
            if left and cost.seconds > WORTH_SAYING:
                note(f"{len(left)} measurements left: {cost}")

        dense, more, results = run_trials(
            laboratory, draws, trials, measurements, ask=ask, tell=note, estimate=foretell
        )
    rows = rows_of(trials, results)
    settings: dict[str, Any] = {
        "calibration": describe(draws[calibration[0], seed]),
        "calibrations": [{"seed": one, **describe(windows)} for (_, one), windows in draws.items()],
        "text": text_name(text),
        "windows": len(measured),
        "tokens_hash": measured.hash,
        "sequence_length": sequence_length,
        "protocol": protocol_of(text, sequence_length).to_json(),
        "sequential": sequential,
        "seed": seed,
        "seeds": seeds,
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
            **more,
        },
        **comparison_document(rows, size, published, seed),
        "settings": settings,
    }
    if output is not None:
        write_files(document, output)
    if json:
        emit(document)
        return
    print_comparison(document, inputs.described(settings["calibration"]))
    answers.show()
