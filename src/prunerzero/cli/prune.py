"""``prunerzero prune``: one recipe, one model, one checkpoint."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prunerzero.cli import inputs
from prunerzero.cli.common import (
    Calibration,
    Group,
    Json,
    Progress,
    Sequential,
    Update,
    emit,
    note,
    print_table,
    zoo_names,
)
from prunerzero.cli.options import (
    AllocationBudget,
    RunOptions,
    SelectionOptions,
    WindowOptions,
    with_options,
)
from prunerzero.cli.preparing import AUTO, Preparation
from prunerzero.errors import InputError

EXAMPLES = (
    "prunerzero prune smollm2 --metric wanda --pattern 2:4 --output out",
    'prunerzero prune smollm2 --metric "W * sqrt(A * F)" --pattern 50% --output out',
    "prunerzero prune smollm2 --recipe s.best.json --pattern 50% --update sparsegpt --output out",
)


@with_options
def command(
    *,
    model: inputs.Model,
    pattern: Annotated[str, typer.Option("--pattern", help="50%, 0.5, 2:4, ...")],
    output: Annotated[str, typer.Option("--output", help="Directory to make for the checkpoint.")],
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            help="Zoo name, expression, or JSON file; auto: the zoo's best here.",
            autocompletion=zoo_names,
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", metavar="FILE", help="Recipe, as a search saves it.")
    ] = None,
    budget: Annotated[
        str,
        typer.Option("--budget", metavar="TIME", help="To choose in, with --metric auto: 90s, 2h."),
    ] = "10m",
    calibration: Calibration = "wikipedia",
    amount: WindowOptions,
    group: Group = None,
    update: Update = None,
    allocation: Annotated[
        str | None,
        typer.Option(
            "--allocation",
            help="uniform, owl, evolved, or a recipe whose is taken; default: the recipe's own.",
        ),
    ] = None,
    allocation_budget: AllocationBudget = "2m",
    permute: Annotated[
        bool,
        typer.Option("--permute", help="For N:M: reorder input channels first, where possible."),
    ] = False,
    sequential: Sequential = True,
    run: RunOptions,
    selected: SelectionOptions,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="One block in memory at a time, resumable; default: if memory is short.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Prune a model and save it as a Hugging Face checkpoint."""
    from prunerzero.models.names import check_model_name
    from prunerzero.permutation.pattern import check_permutable
    from prunerzero.pruning.checkpoint import seen_documents
    from prunerzero.pruning.pattern import Pattern

    wanted = Pattern.parse(pattern)
    if permute:
        check_permutable(wanted)
    preparation = Preparation.of(
        metric, recipe, group, update, allocation, allocation_budget, budget, wanted
    )
    check_model_name(model)
    seen_documents(model)  # what an earlier run has recorded must be readable: it is kept
    inputs.check_calibration(calibration)
    source = run.source(model)
    directory, streamed = inputs.prepare_pruning(source, output, stream)
    if streamed and permute:
        raise InputError(
            "permutation: a streamed model is never whole in memory, so its channels cannot be "
            "reordered; give --no-stream, or leave out --permute"
        )

    with Progress() as progress:
        options: dict[str, Any] = {
            "calibration": calibration,
            "samples": amount.samples,
            "sequence_length": amount.sequence_length,
            "sequential": sequential,
            "seed": run.seed,
            "dtype": run.dtype,
            "selection": selected.selection(),
            "report": progress,
        }
        if streamed:
            chosen = preparation.streamed()
            inputs.announce(source)
            from prunerzero.streaming import prune_streamed

            result = prune_streamed(source, directory, chosen, wanted, device=run.device, **options)
        else:
            loaded, tokenizer = inputs.load_quietly(source, run.device, run.dtype)
            from prunerzero.pruning.calibration import calibration_windows
            from prunerzero.pruning.checkpoint import check_savable, save_checkpoint
            from prunerzero.pruning.planning import needs_data
            from prunerzero.pruning.pruner import prune
            from prunerzero.pruning.shards import require_room

            require_room(loaded, directory, model)
            check_savable(loaded)
            chosen = preparation.recipe_for(loaded, tokenizer, options)
            if needs_data(chosen, wanted):  # a text that is too short is found first
                options["calibration"] = calibration_windows(
                    loaded,
                    tokenizer,
                    options["calibration"],
                    amount.samples,
                    amount.sequence_length,
                    run.seed,
                    progress,
                )
            preparation.foretell(loaded, chosen, options)
            result = prune(loaded, tokenizer, chosen, wanted, permuted=permute, **options)
            progress("saving", 0, 1)
            save_checkpoint(loaded, tokenizer, result, directory, model)
            progress("saving", 1, 1)
    document = {
        "model": model,
        "expression": chosen.expression,
        "chosen": preparation.choice,
        "group": inputs.shown_group(chosen, wanted),
        "update": chosen.update,
        "pattern": str(wanted),
        "sparsity": result.sparsity,
        "coverage": result.coverage,
        "unreached": result.unreached,
        "seconds": result.seconds,
        "peak_rss_bytes": result.peak_rss_bytes,
        "output": directory,
        "streamed": streamed,
        "settings": result.settings,
    }
    if json:
        emit(document)
        return
    rows = [
        ("model", model),
        ("metric", f"{chosen.name}: {chosen.expression}" if metric == AUTO else chosen.expression),
        ("allocation", result.settings["recipe"]["allocation"]["name"]),
        ("group", document["group"]),
        ("update", chosen.update),
        ("pattern", wanted),
        ("calibration", inputs.described(result.settings["calibration"])),
        ("statistics", "sequential" if sequential else "one-shot"),
        ("seed", run.seed),
        ("computed in", result.settings["compute"]),
        ("sparsity", f"{result.sparsity:.4%}"),
        ("prunable", f"{result.coverage:.1%} of the blocks' weights"),
        ("seconds", f"{result.seconds:.1f}"),
        ("peak memory", f"{result.peak_rss_bytes / 2**20:.0f} MiB"),
        ("saved in", directory),
    ]
    if permute:
        reordered = result.settings["permutation"]["matrices"]
        rows.insert(5, ("inputs reordered", f"{len(reordered)} matrices"))
    print_table(("", ""), rows)
    if result.unreached:
        note(
            f"no calibration token met {len(result.unreached)} matrices (first "
            f"{result.unreached[0]}): experts were scored by the other experts' statistics, layers "
            "that are never called as if all inputs were alike"
        )
