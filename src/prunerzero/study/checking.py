"""Is this file a study, and is it sound?"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from prunerzero.errors import InputError
from prunerzero.study.schema import APPLICATION_ID, INVARIANTS, SCHEMA_VERSION
from prunerzero.study.seals import broken_seals, listed


def schema_of(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the study's schema, after a quick look at the whole file.

    Raises:
        InputError: The file is corrupt, of another application, or of a newer schema.
    """
    version = 0
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise InputError(f"study {path}: an SQLite file, but not one of prunerzero's")
        if version > SCHEMA_VERSION:
            raise InputError(
                f"study {path}: has schema {version}, this prunerzero knows up to "
                f"{SCHEMA_VERSION}; upgrade prunerzero to open it"
            )
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        verdict = str(error)
    if verdict != "ok":
        problem = " ".join(str(verdict).split())
        raise InputError(
            f"study {path}: corrupt or not a study ({problem}); restore a copy or name another file"
        )
    return version


def problems_of(connection: sqlite3.Connection) -> list[str]:
    """What is wrong with the file and against the rules of the tables, one line each."""
    try:
        verdicts = [str(row[0]) for row in connection.execute("PRAGMA integrity_check")]
    except sqlite3.DatabaseError as error:
        verdicts = [str(error)]
    problems = [verdict for verdict in verdicts if verdict != "ok"]
    if problems:  # The queries below would trip over the damage.
        return problems
    for table, rowid, parent, _ in connection.execute("PRAGMA foreign_key_check"):
        problems.append(f"{table} {rowid} refers to a row of {parent} that does not exist")
    for rule, query in INVARIANTS:
        if broken := [str(row[0]) for row in connection.execute(query)]:
            problems.append(listed(rule, broken))
    return problems + broken_seals(connection)
