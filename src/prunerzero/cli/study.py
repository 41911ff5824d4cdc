"""``prunerzero study``: look into, check, export and merge studies."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from prunerzero.cli.common import DefaultGroup, Json, emit, print_table
from prunerzero.errors import InputError
from prunerzero.files import atomic_path, json_text

if TYPE_CHECKING:
    from prunerzero.analysis.agreement import Ladder

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="The study's file.")]

EXAMPLES = (
    "prunerzero study s.db",
    "prunerzero study check s.db",
    "prunerzero study export s.db --format csv --output candidates.csv",
    "prunerzero study merge a.db b.db --output both.db",
)


class _Group(DefaultGroup):
    default = "show"


command = typer.Typer(cls=_Group, help="Look into, check, export and merge studies.")


@command.command()
def show(study: StudyFile, json: Json = False) -> None:
    """Summarise a study: settings, counts, best candidate (the default subcommand)."""
    from prunerzero.analysis.agreement import describe_ladder
    from prunerzero.study import Study

    with Study.open(study) as opened:
        ladder = describe_ladder(opened.candidates(), opened.measurements("fitness"))
        best = opened.best
        counts = opened.counts()
        settings = opened.settings
        summary: dict[str, Any] = {
            "study": str(opened.path),
            "settings": settings,
            "candidates": sum(counts.values()),
            "counts": counts,
            "skipped": opened.skipped(),
            "ladder": asdict(ladder),
            "heldout_readings": len(opened.events("heldout")),
            "heldout": [
                {
                    "name": reading.name or f"candidate {reading.candidate_id}",
                    "perplexity": None if reading.loss is None else math.exp(reading.loss),
                }
                for reading in opened.measurements("heldout")
            ],
            "best": None if best is None else asdict(best),
        }
    if json:
        emit(summary)
        return
    rows: list[tuple[str, Any]] = [
        ("study", summary["study"]),
        *((f"setting: {name}", json_text(value)) for name, value in settings.items()),
        ("candidates", summary["candidates"]),
        *((status, count) for status, count in counts.items()),
        *_ladder_rows(ladder),
        ("held-out readings", summary["heldout_readings"]),
    ]
    if best is not None:
        rows += [
            ("best expression", best.expression),
            ("best fitness", best.fitness),
            ("best candidate", best.id),
        ]
    rows += [
        (f"held-out perplexity: {reading['name']}", reading["perplexity"])
        for reading in summary["heldout"]
    ]
    print_table(("", ""), rows)


@command.command()
def check(study: StudyFile, json: Json = False) -> None:
    """Examine the whole file; exit code 2 when something is wrong."""
    from prunerzero.study import Study

    with Study.open(study) as opened:
        problems = opened.check()
        candidates = sum(opened.counts().values()) if not problems else None
    if json:
        emit({"study": str(study.absolute()), "problems": problems})
    elif problems:
        print_table(("problem",), [[problem] for problem in problems])
    else:
        print(f"{study}: sound, {candidates} candidates")
    if problems:
        raise InputError(f"study {study}: {len(problems)} problems, the first: {problems[0]}")


@command.command()
def export(
    study: StudyFile,
    format: Annotated[
        Literal["jsonl", "csv"], typer.Option("--format", help="One JSON object a line, or CSV.")
    ] = "jsonl",
    output: Annotated[
        Path | None, typer.Option("--output", help="The file to write; default: stdout.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the candidates, one a line; with --json all in one document."""
    from prunerzero.study import Study

    with Study.open(study) as opened:
        rows = [asdict(candidate) for candidate in opened.candidates()]
    text = _lines(rows, format)
    if output is None and json:
        emit({"study": str(study.absolute()), "candidates": rows})
        return
    if output is None:
        sys.stdout.write(text)
        return
    with atomic_path(output) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    if json:
        emit({"output": str(output.absolute()), "candidates": len(rows)})


@command.command()
def merge(
    studies: Annotated[list[Path], typer.Argument(metavar="STUDY...", help="Two or more.")],
    output: Annotated[Path, typer.Option("--output", help="The study to make.")],
    json: Json = False,
) -> None:
    """Make one study of several with the same settings; these stay as they are."""
    from prunerzero.study import merge as merge_studies

    merged = merge_studies(studies, output)
    if json:
        emit({"study": str(output.absolute()), **merged._asdict()})
        return
    print(
        f"{output}: {merged.candidates} candidates; left out: {merged.repeated} that were there "
        f"already, {merged.pending} that nobody measured"
    )


def _ladder_rows(ladder: Ladder) -> list[tuple[str, Any]]:
    """The funnel, from proposals to winners, and how far the rungs agree."""
    rows: list[tuple[str, Any]] = [
        ("proposals", ladder.proposals),
        ("duplicates avoided", ladder.duplicates),
        ("measured on rung 0", ladder.screened),
        ("promoted to rung 1", ladder.promoted),
        ("audited on rung 1", ladder.audited),
    ]
    if any(agreement.rungs == (1, 2) for agreement in ladder.agreement):
        rows.append(("promoted to rung 2", ladder.confirmed))
    rows.append(("won", ladder.won))
    rows += [
        (
            f"agreement of rungs {agreement.rungs[0]} and {agreement.rungs[1]}",
            f"tau {agreement.tau:.2f} ({agreement.readings} candidates on both, "
            f"{agreement.audits} of them audits)",
        )
        for agreement in ladder.agreement
        if agreement.tau is not None
    ]
    if ladder.top_lost is not None:
        rows.append(
            (
                "top 10 that rung 0 would lose",
                f"{ladder.top_lost:.0%} (estimated from {ladder.audited} audits)",
            )
        )
    if ladder.slack is not None:
        rows.append(("slack of rung 0", f"{ladder.slack:g} standard errors"))
    return rows


def _lines(rows: Sequence[dict[str, Any]], format: str) -> str:
    if format == "jsonl":
        return "".join(json_text(row) + "\n" for row in rows)
    from prunerzero.study import Candidate

    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Candidate)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        nested = {name: json_text(row[name]) for name in ("recipe", "parents")}
        writer.writerow({**row, **nested})
    return text.getvalue()
