"""``prunerzero reproduce``: the paper's experiments for a model."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prunerzero.cli import inputs
from prunerzero.cli.common import (
    AllowPickle,
    Blocks,
    Calibration,
    Device,
    Dtype,
    Exclude,
    Include,
    Json,
    MinCoverage,
    Progress,
    Samples,
    Seed,
    SequenceLength,
    Sequential,
    emit,
    note,
    print_table,
    split_list,
)
from prunerzero.errors import InputError
from prunerzero.models.selection import MIN_COVERAGE, Selection
from prunerzero.reproduction.names import EXPERIMENTS, PAGE

if TYPE_CHECKING:
    from prunerzero.reproduction.run import Reproduction


EXAMPLES = ("prunerzero reproduce smollm2 --output repro --budget 2h",)


def command(
    model: inputs.Model,
    output: Annotated[
        Path, typer.Option("--output", help="Directory of all that is written; goes on if there.")
    ],
    experiments: Annotated[
        str, typer.Option("--experiments", metavar="A,B,...", help="Which, of these.")
    ] = ",".join(EXPERIMENTS),
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", help="Time of this call: 90s, 10m, 2h. Default: until all is done."
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option("--methods", metavar="A,B,...", help="Zoo names, expressions, files.")
    ] = "magnitude,wanda,ria,gblm,pruner-zero,sparsegpt",
    pattern: Annotated[
        list[str],
        typer.Option("--pattern", help="Of the table of methods; repeatable; the first for all."),
    ] = ["50%", "4:8", "2:4"],  # noqa: B006  typer copies it
    sparsities: Annotated[
        str, typer.Option("--sparsities", metavar="P,P,...", help="Of the curve over sparsity.")
    ] = "10%,20%,30%,40%,50%,60%,70%,80%",
    sample_counts: Annotated[
        str, typer.Option("--sample-counts", metavar="N,N,...", help="Calibration windows to try.")
    ] = "1,2,4,8,16,32,64",
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="A,B,...", help="Default: the five offline.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="Items of each zero-shot task; 0 for all.")
    ] = 200,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many, from --seed on.")] = 3,
    proposals: Annotated[
        int, typer.Option("--proposals", help="What the paper's search proposes.")
    ] = 350,
    population: Annotated[int, typer.Option("--population", help="Size of its population.")] = 50,
    fitness_windows: Annotated[
        int, typer.Option("--fitness-windows", help="Windows of its fitness.")
    ] = 4,
    populations: Annotated[
        int, typer.Option("--populations", help="Initial populations told apart by their masks.")
    ] = 10,
    calibration: Calibration = "wikipedia",
    text: Annotated[
        str | None,
        typer.Option("--text", help="Of the perplexity; default: held-out calibration text."),
    ] = None,
    samples: Samples = 16,
    sequence_length: SequenceLength = 512,
    windows: inputs.EvaluationWindows = 32,
    sequential: Sequential = True,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    blocks: Blocks = "",
    include: Include = [],  # noqa: B006
    exclude: Exclude = [],  # noqa: B006
    min_coverage: MinCoverage = MIN_COVERAGE,
    allow_pickle: AllowPickle = False,
    json: Json = False,
) -> None:
    """Run the paper's experiments for a model; the same command goes on where it was."""
    from prunerzero.evolution.settings import Budget
    from prunerzero.models.names import check_model_name
    from prunerzero.pruning.checkpoint import seen_documents
    from prunerzero.reproduction.options import Options, check

    seconds = Budget.parse(budget).seconds
    counts = split_list(sample_counts)
    if not all(count.isdecimal() for count in counts):
        raise InputError(f"--sample-counts '{sample_counts}': give whole numbers, as in 4,8,16")
    given: dict[str, Any] = {
        "experiments": tuple(split_list(experiments)),
        "methods": tuple(split_list(methods)),
        "patterns": tuple(pattern),
        "sparsities": tuple(split_list(sparsities)),
        "sample_counts": tuple(map(int, counts)),
        "limit": limit or None,
        "seeds": seeds,
        "seed": seed,
        "samples": samples,
        "sequence_length": sequence_length,
        "windows": windows,
        "proposals": proposals,
        "population": population,
        "fitness_windows": fitness_windows,
        "populations": populations,
        "calibration": calibration,
        "text": text,
        "sequential": sequential,
    }
    if tasks is not None:
        given["tasks"] = tuple(split_list(tasks))
    assert given.keys() <= {field.name for field in fields(Options)}
    options = Options(**given)
    check_model_name(model)
    if seen_documents(model):
        raise InputError(f"model '{model}': is pruned already; reproduce on the dense model")
    inputs.check_calibration(calibration)
    check(options, output)
    name = inputs.loadable(model, allow_pickle)
    inputs.announce(name)
    from prunerzero.reproduction.run import reproduce

    with Progress() as progress:
        found = reproduce(
            name,
            output,
            options,
            budget=seconds,
            command=" ".join(sys.argv[1:]),
            selection=Selection(blocks, tuple(include), tuple(exclude), min_coverage),
            device=device,
            dtype=dtype,
            report=progress,
        )
    if found.finished < found.cells:
        note(
            f"{found.finished} of {found.cells} measurements are in {found.output}: "
            "the same command goes on"
        )
    if json:
        emit(found.to_json())
    else:
        _print(found)


def _print(found: Reproduction) -> None:
    from prunerzero.reproduction.writing import columns_of, shown

    for section in found.sections:
        for rows in section.tables.values():
            if rows:
                columns = columns_of(rows)
                cells = [tuple(shown(getattr(row, name)) for name in columns) for row in rows]
                titles = tuple(name.replace("_", " ") for name in columns)
                print_table(titles, cells, section.title)
                print()
    print("Claims of the paper")
    for section in found.sections:
        for claim in section.claims:
            print(f"- {claim.statement}. [{claim.verdict}; confidence {claim.confidence}]")
            for line in claim.evidence:
                print(f"   - {line}")
    print(f"\n{found.finished} of {found.cells} measurements: {found.output / PAGE}")
