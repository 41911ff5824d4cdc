"""Making and opening the SQLite file of a study."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunerzero.files import atomic_path, json_text
from prunerzero.study.schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION


def connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    """Opens an existing study's file, in autocommit mode."""
    # Never mode=rwc: a study comes into being only complete, by `write_new`. Nor mode=ro for
    # readers: SQLite then forgets the CHECK constraints, so that quick_check cannot test them.
    connection = _open_uri(f"{path.as_uri()}?mode=rw")
    if writable:
        return connection
    connection.execute("PRAGMA query_only = ON")
    try:
        connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1")
    except sqlite3.OperationalError:
        # On a read-only medium WAL's side files cannot be made, and nobody writes.
        connection.close()
        connection = _open_uri(f"{path.as_uri()}?mode=ro&immutable=1")
    except sqlite3.DatabaseError:
        pass  # `Study` says what is wrong with the file.
    return connection


def _open_uri(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=30)
    connection.row_factory = sqlite3.Row
    return connection


def write_new(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes the file of a study without candidates, complete or not at all."""
    # Side files that a deleted study left would be replayed into the new one.
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with atomic_path(path) as temporary:
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            for migration in MIGRATIONS:
                connection.executescript(migration)
            connection.executemany(
                "INSERT INTO settings VALUES (?, ?)",
                [(name, json_text(value)) for name, value in settings.items()],
            )
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
