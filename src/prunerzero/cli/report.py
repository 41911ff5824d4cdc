"""``prunerzero report``: a study as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prunerzero.cli.common import Device, Json, Progress, emit
from prunerzero.cli.study import StudyFile

Evaluations = Annotated[
    list[Path] | None,
    typer.Option(
        "--evaluation",
        metavar="FILE",
        help="What 'prunerzero evaluate MODEL --json' printed; repeatable.",
    ),
]
RandomStudy = Annotated[
    Path | None,
    typer.Option("--random", metavar="STUDY", help="A search with --preset random to compare."),
]

EXAMPLES = (
    "prunerzero report s.db --output report.html",
    "prunerzero report s.db --output report.html --masks --random random.db",
)


def command(
    study: StudyFile,
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="The HTML file to write.")
    ],
    evaluation: Evaluations = None,
    random: RandomStudy = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="Load the model and show masks and their overlap.")
    ] = False,
    device: Device = None,
    json: Json = False,
) -> None:
    """Write a study as one HTML file: result, charts, formulas; needs no network."""
    from prunerzero.report.report import write_report

    with Progress() as progress:
        document = write_report(
            study,
            output,
            evaluations=evaluation or (),
            random=random,
            masks=masks,
            device=device,
            report=progress,
        )
    if json:
        emit({"output": str(output.absolute()), **document.model_dump(mode="json")})
        return
    print(f"{output}: {len(document.candidates.id)} candidates, {output.stat().st_size:,} bytes")
    if document.heldout is not None:
        print(document.heldout.verdict)
