"""Leases: which worker has which pending candidate, and until when.

Workers never write to the study; the coordinator, which holds its lock, does so for them. A worker
that falls silent loses its candidates when its leases run out, and another is given them; of two
results for one candidate the first counts. Whoever opens the study for writing releases all leases:
the lock proves that their coordinator is gone, and its workers have nobody to report to.
"""

from __future__ import annotations

import sqlite3

from prunerzero.study.records import Candidate
from prunerzero.study.rows import insert_candidate, rows_of


def grant(connection: sqlite3.Connection, candidate: Candidate, worker: str, expires: float) -> int:
    """Gives a worker a new candidate, or one of an id that is pending and free; returns its id."""
    identifier = candidate.id or insert_candidate(connection, candidate)
    connection.execute(
        "INSERT INTO lease (candidate_id, worker, expires) VALUES (?, ?, ?)",
        (identifier, worker, expires),
    )
    return identifier


def extend(connection: sqlite3.Connection, worker: str, expires: float) -> list[int]:
    """Prolongs all leases of a worker; returns the ids of the candidates that it still has."""
    connection.execute("UPDATE lease SET expires = ? WHERE worker = ?", (expires, worker))
    rows = connection.execute(
        "SELECT candidate_id FROM lease WHERE worker = ? ORDER BY candidate_id", (worker,)
    )
    return [row[0] for row in rows]


def release(connection: sqlite3.Connection, until: float) -> None:
    """Ends the leases that run out by a time."""
    connection.execute("DELETE FROM lease WHERE expires <= ?", (until,))


def release_candidate(connection: sqlite3.Connection, identifier: int) -> None:
    """Ends the lease of a candidate, if there is one."""
    connection.execute("DELETE FROM lease WHERE candidate_id = ?", (identifier,))


def unleased(connection: sqlite3.Connection) -> list[Candidate]:
    """Pending candidates that no worker has, in order of insertion."""
    return rows_of(
        connection.execute(
            """SELECT * FROM candidate WHERE status = 'pending'
            AND id NOT IN (SELECT candidate_id FROM lease) ORDER BY id"""
        )
    )
