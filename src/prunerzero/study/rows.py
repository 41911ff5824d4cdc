"""Rows of a study as SQL: inserting them with their checksums, and reading them back."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from prunerzero.files import json_text
from prunerzero.study.records import Candidate, Event, Measurement
from prunerzero.study.seals import seal


def insert_candidate(connection: sqlite3.Connection, candidate: Candidate) -> int:
    """Inserts a candidate; returns its new id. ``created`` is now, unless it has one."""
    return insert(connection, "candidate", **_candidate_values(candidate))


def replace_candidate(
    connection: sqlite3.Connection, identifier: int, candidate: Candidate
) -> None:
    """Overwrites a candidate's row, but for when it was made."""
    values = _candidate_values(candidate)
    del values["created"]
    changes = ", ".join(f"{name} = :{name}" for name in values)
    connection.execute(
        f"UPDATE candidate SET {changes} WHERE id = :id", {**values, "id": identifier}
    )
    seal(connection, "candidate", identifier)


def insert_measurement(
    connection: sqlite3.Connection, measurement: Measurement, candidate_id: int | None
) -> int:
    """Inserts a measurement of a candidate (None: of a baseline); returns its new id."""
    return insert(
        connection,
        "measurement",
        candidate_id=candidate_id,
        name=measurement.name,
        purpose=measurement.purpose,
        rung=measurement.rung,
        windows=measurement.windows,
        tokens=measurement.tokens,
        loss=_finite(measurement.loss),
        kl=_finite(measurement.kl),
        data=json_text(measurement.data),
        seconds=measurement.seconds,
        created=measurement.created or now(),
    )


def insert_event(
    connection: sqlite3.Connection, kind: str, data: Any, created: str | None = None
) -> int:
    """Inserts an event; returns its id."""
    return insert(connection, "event", created=created or now(), kind=kind, data=json_text(data))


def insert_duplicate(
    connection: sqlite3.Connection, key: str, candidate_id: int, step: int
) -> None:
    """Notes a key with the masks of an evaluated candidate; a second time does nothing."""
    if connection.execute("SELECT 1 FROM duplicate WHERE key = ?", (key,)).fetchone() is None:
        insert(connection, "duplicate", key=key, candidate_id=candidate_id, step=step)


def insert(connection: sqlite3.Connection, table: str, **values: Any) -> int:
    """Inserts a row with its checksum; returns its rowid."""
    places = ", ".join(f":{name}" for name in values)
    cursor = connection.execute(
        f"INSERT INTO {table} ({', '.join(values)}) VALUES ({places})", values
    )
    assert cursor.lastrowid is not None
    seal(connection, table, cursor.lastrowid)
    return cursor.lastrowid


def candidate_of(row: sqlite3.Row) -> Candidate:
    """The candidate of a row."""
    values = _values(row)
    values["recipe"] = json.loads(values["recipe"])
    values["parents"] = tuple(json.loads(values["parents"]))
    return Candidate(**values)


def measurement_of(row: sqlite3.Row) -> Measurement:
    """The measurement of a row."""
    return Measurement(**{**_values(row), "data": json.loads(row["data"])})


def event_of(row: sqlite3.Row) -> Event:
    """The event of a row."""
    return Event(**{**_values(row), "data": json.loads(row["data"])})


def now() -> str:
    """The UTC time, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def rows_of(rows: Iterable[sqlite3.Row]) -> list[Candidate]:
    """The candidates of rows."""
    return [candidate_of(row) for row in rows]


def _candidate_values(candidate: Candidate) -> dict[str, Any]:
    return {
        "step": candidate.step,
        "key": candidate.key,
        "status": candidate.status,
        "recipe": json_text(candidate.recipe),
        "expression": candidate.expression,
        "size": candidate.size,
        "origin": candidate.origin,
        "parents": json_text(candidate.parents),
        "fitness": _finite(candidate.fitness),
        "fingerprint": candidate.fingerprint,
        "reason": candidate.reason,
        "seconds": candidate.seconds,
        "skipped": candidate.skipped,
        "created": candidate.created or now(),
    }


def _values(row: sqlite3.Row) -> dict[str, Any]:
    values = dict(row)
    del values["digest"]
    return values


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
