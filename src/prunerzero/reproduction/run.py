"""`prunerzero reproduce`: from a model's name to tables, figures and a record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunerzero.analysis.bench import LoadedModel
from prunerzero.analysis.records import as_json
from prunerzero.data.sources import text_name
from prunerzero.evaluation.published import published_values
from prunerzero.evaluation.zeroshot import check_tasks
from prunerzero.evolution.loop import Deadline, OutOfTime
from prunerzero.lock import ProcessLock
from prunerzero.models.selection import EVERYTHING, Selection
from prunerzero.progress import Report, silent
from prunerzero.reproduction import arms, perplexities, simplification, zero_shot
from prunerzero.reproduction.cells import Cell, Cells
from prunerzero.reproduction.ground import Ground
from prunerzero.reproduction.methods import METHODS
from prunerzero.reproduction.names import CELLS, EXPERIMENTS, LOCK, RECORD, STUDIES
from prunerzero.reproduction.options import Options, check
from prunerzero.reproduction.record import Record
from prunerzero.reproduction.samples import SAMPLES
from prunerzero.reproduction.search import SEARCH
from prunerzero.reproduction.sections import Experiment, Published, Section
from prunerzero.reproduction.simplification import SIMPLIFICATION
from prunerzero.reproduction.sparsity import SPARSITY
from prunerzero.reproduction.writing import write_sections
from prunerzero.reproduction.zero_shot import ZERO_SHOT

BY_NAME: Mapping[str, Experiment] = dict(
    zip(
        EXPERIMENTS,
        (METHODS, ZERO_SHOT, SPARSITY, SAMPLES, SEARCH, SIMPLIFICATION),
        strict=True,
    )
)


@dataclass(frozen=True)
class Reproduction:
    """How far a reproduction is, and what it says so far.

    Attributes:
        output: its directory.
        model: the model's name.
        cells: measurements that the options ask for.
        finished: those that are there.
        measured: those of this run.
        sections: results of the experiments.
        record: settings, versions, hardware, data, seeds.
    """

    output: Path
    model: str
    cells: int
    finished: int
    measured: int
    sections: tuple[Section, ...]
    record: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The reproduction as `prunerzero reproduce --json` prints it."""
        return {
            "model": self.model,
            "output": str(self.output),
            "cells": self.cells,
            "finished": self.finished,
            "measured": self.measured,
            "experiments": {
                section.name: {
                    "rows": [as_json(row) for rows in section.tables.values() for row in rows],
                    "claims": as_json(section.claims),
                }
                for section in self.sections
            },
            "record": as_json(self.record),
        }


def reproduce(
    model: str,
    output: str | Path,
    options: Options | None = None,
    *,
    budget: float | None = None,
    command: str = "",
    selection: Selection = EVERYTHING,
    device: str | None = None,
    dtype: str | None = None,
    report: Report = silent,
) -> Reproduction:
    """Runs the paper's experiments for a model, or goes on with them.

    Each measurement is a file in ``output`` before the next begins; a second call takes those that
    are missing. Tables and figures are written at the end of each call, of what is there by then.

    Args:
        model: hub id, directory, GGUF file or demo alias.
        output: directory of everything that is written; new, or an earlier reproduction's.
        options: which experiments, and how large.
        budget: seconds of measuring; none is begun after that, but the last is finished.
        command: what the user typed, for the record.
        selection: which blocks and matrices are pruned.
        device: where to run; None chooses.
        dtype: precision of the passes; None takes bfloat16 where the hardware has it.
        report: called with a step's name, the parts done and their number.

    Raises:
        InputError: for unusable input, or a directory that another process works in.
        MissingExtraError: something that the experiments need is not installed.
    """
    options = options or Options()
    check(options, output)
    directory = Path(output).absolute()
    record = Record(directory, model)
    loaded = LoadedModel.load(model, selection, device, dtype)
    ground = Ground(loaded, options, report)
    if "zero-shot" in options.experiments:
        check_tasks(options.tasks, ground.seen)
    directory.mkdir(parents=True, exist_ok=True)
    lock = ProcessLock(directory / LOCK, f"output {directory}", "process {holder} is at work in it")
    try:
        cells = Cells(directory / CELLS, ground.conditions())
        wanted = _wanted(options)
        record.begin(ground, budget, command)
        runner = _Runner(ground, cells, record, directory / STUDIES, budget)
        measured = runner.run(wanted)
        published = _published(ground)
        sections = tuple(
            BY_NAME[name].section(cells, options, published) for name in options.experiments
        )
        finished = sum(cells.result(cell) is not None for cell in wanted)
        found = Reproduction(
            directory, model, len(wanted), finished, measured, sections, record.document
        )
        write_sections(sections, _head(found), directory)
        return found
    finally:
        lock.release()


def _wanted(options: Options) -> list[Cell]:
    """All cells, each once: every experiment's for the first seed, then for the next.

    So whatever the budget, all experiments have been made with equally many seeds, or nearly.
    """
    found: dict[str, Cell] = {}
    for seed in options.all_seeds:
        for name in options.experiments:
            for cell in BY_NAME[name].cells(options, seed):
                found.setdefault(repr(cell), cell)
    return list(found.values())


class _Runner:
    """Takes the measurements that are missing."""

    def __init__(
        self, ground: Ground, cells: Cells, record: Record, studies: Path, budget: float | None
    ) -> None:
        self._ground = ground
        self._cells = cells
        self._record = record
        self._studies = studies
        self._deadline = Deadline()
        if budget is not None:
            self._deadline.at = time.perf_counter() + budget

    def run(self, wanted: Sequence[Cell]) -> int:
        """Returns how many cells were measured before all were, or the time was over."""
        missing = [cell for cell in wanted if self._cells.result(cell) is None]
        kind = ""
        for done, cell in enumerate(missing):
            if cell.kind != kind and {cell.kind, kind} != {arms.KIND, simplification.KIND}:
                self._ground.release()
            kind = cell.kind
            try:
                self._deadline.check()
                began = time.perf_counter()
                result = self._measure(cell)
            except OutOfTime:
                return done
            finally:
                self._ground.dense.restore()
            self._cells.add(cell, result, time.perf_counter() - began, self._record.session)
            self._record.add_cell()
            self._ground.report("cells", done + 1, len(missing))
        return len(missing)

    def _measure(self, cell: Cell) -> Mapping[str, Any]:
        if cell.kind == perplexities.KIND:
            return perplexities.measure(cell.what, self._ground)
        if cell.kind == zero_shot.KIND:
            return zero_shot.measure(cell.what, self._ground)
        if cell.kind == simplification.KIND:
            return simplification.measure(cell.what, self._ground)
        return arms.measure(cell.what, self._ground, self._cells, self._studies, self._deadline)


def _published(ground: Ground) -> Published:
    """Published perplexities of the model, on the text and context that were measured."""
    options, model = ground.options, ground.model
    names = {model.name, str(getattr(model.network.config, "_name_or_path", ""))}
    found = published_values(
        names, text_name(options.text or options.calibration), options.sequence_length
    )
    table = {(one.method, one.pattern): one.value for one in found}
    return lambda method, pattern: table.get((method.lower(), pattern))


def _head(found: Reproduction) -> str:
    """The page's first lines: what was measured on what, and how far it is."""
    record, options = found.record, found.record["settings"]
    hardware, versions = (record["sessions"][-1][key] for key in ("hardware", "versions"))
    seconds = sum(session["seconds"] for session in record["sessions"])
    state = (
        "complete" if found.finished == found.cells else "not complete: the same command goes on"
    )
    manner = "sequential" if options["sequential"] else "one-shot"
    return "\n".join(
        [
            f"# The paper's experiments on {found.model}\n",
            f"{found.finished} of {found.cells} measurements, {state}; {seconds:.0f} s in "
            f"{len(record['sessions'])} sessions. Seeds {', '.join(map(str, record['seeds']))}. "
            f"{hardware['processor']}, {hardware['threads']} threads, {hardware['compute']}; "
            f"torch {versions['torch']}, transformers {versions['transformers']}.\n",
            f"Perplexity on {options['windows']} held-out windows of {options['sequence_length']} "
            f"tokens of {options['text'] or options['calibration']}, the same for all; {manner} "
            f"pruning calibrated on {options['samples']} windows of {options['calibration']}, "
            "others for each seed. Intervals are paired bootstraps over held-out windows, of the "
            "mean over seeds; the range of seeds stands beside. All else is in "
            f"[{RECORD}]({RECORD}).\n",
        ]
    )
