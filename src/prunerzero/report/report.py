"""`prunerzero report`: a study as one HTML file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from prunerzero.errors import InputError
from prunerzero.files import atomic_path
from prunerzero.progress import Report, silent
from prunerzero.report.data import Extras, Scale, build_document
from prunerzero.report.detail import describe
from prunerzero.report.document import Document
from prunerzero.report.files import read_analysis, read_evaluation
from prunerzero.report.page import report_html
from prunerzero.report.rows import Rows
from prunerzero.study import Measurement, Study

STEP = 200  # candidates between two reports of progress


def write_report(
    study: str | Path,
    output: str | Path,
    *,
    evaluations: Iterable[Path] = (),
    random: Path | None = None,
    masks: bool = False,
    device: str | None = None,
    report: Report = silent,
) -> Document:
    """Writes a study as a self-contained page.

    Args:
        study: the study's file; a search may go on writing to it.
        output: the HTML file.
        evaluations: what ``prunerzero evaluate MODEL --json`` printed, for the same page.
        random: the study of a random search, to compare with.
        masks: load the model and show masks.
        device: where to run it; None chooses.
        report: called with a step's name, the parts done and their number.

    Returns:
        What the page shows.

    Raises:
        InputError: a file is missing or not what it should be, or the page cannot be written.
        MissingExtraError: without jinja2.
    """
    target = Path(output)
    if target.is_dir():
        raise InputError(f"output {target}: is a directory; name a file, such as report.html")
    with Study.open(study) as opened:
        rows = Rows.read(opened)
    extras = read_extras(rows, evaluations, random)
    document = build_document(rows, extras)
    if masks:
        from prunerzero.report.masks import picture_masks

        extras = replace(extras, masks=picture_masks(rows, device, report))
        document = build_document(rows, extras)
    value = Scale(rows).value
    readings = by_candidate(rows.measurements)
    details = {}
    for number, identifier in enumerate(rows.candidates, 1):
        details[identifier] = describe(rows, identifier, value, readings)
        if number % STEP == 0 or number == len(rows.candidates):
            report("candidates", number, len(rows.candidates))
    page = report_html(document, details)
    with atomic_path(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return document


def read_extras(rows: Rows, evaluations: Iterable[Path], random: Path | None) -> Extras:
    """What lies beside a study: the analysis, and the files that the user gives.

    Raises:
        InputError: a file is missing or not what it should be.
    """
    control = None
    if random is not None:
        with Study.open(random) as opened:
            control = Rows.read(opened)
    return Extras(
        analysis=read_analysis(rows.path),
        evaluations=tuple(map(read_evaluation, evaluations)),
        random=control,
    )


def by_candidate(measurements: Iterable[Measurement]) -> dict[int, list[Measurement]]:
    """Measurements of candidates, in order."""
    found: dict[int, list[Measurement]] = {}
    for measurement in measurements:
        if measurement.candidate_id is not None:
            found.setdefault(measurement.candidate_id, []).append(measurement)
    return found
