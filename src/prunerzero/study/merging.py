"""Several studies of one search's settings, in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prunerzero.errors import InputError
from prunerzero.files import atomic_path
from prunerzero.study.connection import connect, transaction, write_new
from prunerzero.study.records import Candidate, Measurement
from prunerzero.study.rows import (
    insert_candidate,
    insert_duplicate,
    insert_event,
    insert_measurement,
)
from prunerzero.study.settings import differences

if TYPE_CHECKING:
    import sqlite3

    from prunerzero.study.store import Study


class Merged(NamedTuple):
    """What a merger did.

    Attributes:
        candidates: Rows of the new study.
        repeated: Candidates that were left out, as an earlier study has their key.
        pending: Candidates that were left out, as nobody measured them.
    """

    candidates: int
    repeated: int
    pending: int


def merge(sources: Sequence[str | Path], output: str | Path) -> Merged:
    """Writes one study that holds what several hold; these are only read.

    Of candidates with the same key one stays: the first that was evaluated, else the first. Its
    readings are joined by those of the others that it lacks. Baselines' readings are kept once a
    set of windows; all events are kept. The new study is for reading: a search goes on only with a
    study of which it made every row.

    Args:
        sources: Studies with equal settings, at least two.
        output: A file that does not exist yet; written complete or not at all.

    Raises:
        InputError: A source is no sound study, settings differ (the line shows how), or the output
            exists or cannot be written.
        StorageError: The disk is full.
    """
    from prunerzero.study.store import Study

    output = Path(output).expanduser().absolute()
    if len(sources) < 2:
        raise InputError("merge: give at least two studies")
    if output.exists():
        raise InputError(f"study {output}: exists already; name another file")
    with ExitStack() as stack:
        studies = [stack.enter_context(Study.open(source)) for source in sources]
        for study in studies:
            _require_sound(study, studies[0])
        with atomic_path(output) as temporary:
            write_new(temporary, studies[0].settings)
            connection = connect(temporary, writable=True)
            try:
                with transaction(connection, output):
                    return _fill(connection, studies)
            finally:
                connection.close()


def _require_sound(study: Study, first: Study) -> None:
    if problems := study.check():
        raise InputError(f"study {study.path}: not sound ({problems[0]}), so not merged")
    if different := differences(first.settings, study.settings, "there", "here"):
        raise InputError(
            f"study {study.path}: has other settings than {first.path} ({different}); only "
            "studies of one search's settings can be merged"
        )


def _fill(connection: sqlite3.Connection, studies: Sequence[Study]) -> Merged:
    rows = [study.candidates() for study in studies]
    chosen = _chosen(rows)
    ids: dict[str, int] = {}
    for source, candidates in enumerate(rows):
        keys = {candidate.id: candidate.key for candidate in candidates}
        for candidate in candidates:
            if chosen.get(candidate.key) == (source, candidate.id):
                ids[candidate.key] = insert_candidate(connection, _moved(candidate, keys, ids))
    evaluated = {
        candidate.key
        for candidates in rows
        for candidate in candidates
        if candidate.status == "evaluated"
    }
    _add_measurements(connection, studies, rows, ids, evaluated)
    for study, candidates in zip(studies, rows, strict=True):
        keys = {candidate.id: candidate.key for candidate in candidates}
        for key, identifier in study.duplicates().items():
            if key not in evaluated:
                insert_duplicate(connection, key, ids[keys[identifier]], 0)
        for event in study.events():
            insert_event(connection, event.kind, event.data, event.created)
    insert_event(connection, "merged", [str(study.path) for study in studies])
    pending = sum(candidate.status == "pending" for found in rows for candidate in found)
    return Merged(len(ids), sum(map(len, rows)) - pending - len(ids), pending)


def _chosen(rows: Sequence[Sequence[Candidate]]) -> dict[str, tuple[int, int | None]]:
    """For each key the study and the row that stay."""
    chosen: dict[str, tuple[int, int | None]] = {}
    for wanted in (True, False):
        for source, candidates in enumerate(rows):
            for candidate in candidates:
                if candidate.status != "pending" and (candidate.status == "evaluated") == wanted:
                    chosen.setdefault(candidate.key, (source, candidate.id))
    return chosen


def _moved(
    candidate: Candidate, keys: Mapping[int | None, str], ids: Mapping[str, int]
) -> Candidate:
    # A parent was evaluated before its child, so the row that stays for it is there already.
    parents = tuple(ids[keys[parent]] for parent in candidate.parents)
    return replace(candidate, parents=parents, id=None)


def _add_measurements(
    connection: sqlite3.Connection,
    studies: Sequence[Study],
    rows: Sequence[Sequence[Candidate]],
    ids: Mapping[str, int],
    evaluated: set[str],
) -> None:
    seen: set[tuple[Any, ...]] = set()
    for study, candidates in zip(studies, rows, strict=True):
        keys = {candidate.id: candidate for candidate in candidates}
        mine: set[tuple[Any, ...]] = set()
        for measurement in study.measurements():
            target = None
            if measurement.candidate_id is not None:
                candidate = keys[measurement.candidate_id]
                if candidate.status == "pending" or (
                    candidate.status != "evaluated" and candidate.key in evaluated
                ):
                    continue
                target = ids[candidate.key]
            reading = _reading(measurement, target)
            mine.add(reading)
            if reading not in seen:
                insert_measurement(connection, measurement, target)
        seen |= mine


def _reading(measurement: Measurement, target: int | None) -> tuple[Any, ...]:
    return (
        target,
        measurement.name,
        measurement.purpose,
        measurement.rung,
        measurement.windows,
    )
