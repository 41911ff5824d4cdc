"""A checksum in every row of a study, so that a row which was altered is found.

SQLite notices damaged pages, not a digit that changed inside a value. The checksum guards against
damage and careless editing, not against somebody who computes it anew.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3

from prunerzero.study.schema import SEALED


def add_digest(connection: sqlite3.Connection) -> None:
    """Gives a connection the SQL function ``row_digest``."""
    connection.create_function("row_digest", -1, _digest, deterministic=True)


def seal(connection: sqlite3.Connection, table: str, rowid: int | None = None) -> None:
    """Writes the checksum of one row, or of all rows, of a table."""
    where = "" if rowid is None else "WHERE rowid = ?"
    values = () if rowid is None else (rowid,)
    connection.execute(f"UPDATE {table} SET digest = {_call(connection, table)} {where}", values)


def broken_seals(connection: sqlite3.Connection) -> list[str]:
    """The rows whose checksum differs, one line a table."""
    problems = []
    for table in SEALED:
        rows = connection.execute(
            f"SELECT rowid FROM {table} WHERE digest IS NOT {_call(connection, table)}"
        )
        if broken := [str(row[0]) for row in rows]:
            problems.append(listed(f"altered, the checksum differs: {table}", broken))
    return problems


def listed(problem: str, rows: list[str]) -> str:
    """A problem and the first few rows that have it."""
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"{problem} {', '.join(rows[:5])}{more}"


def _call(connection: sqlite3.Connection, table: str) -> str:
    # The columns as they are stored: a number that SQLite converted would hash differently.
    names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    return f"row_digest({', '.join(name for name in names if name != 'digest')})"


def _digest(*values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]
