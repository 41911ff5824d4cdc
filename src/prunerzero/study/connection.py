"""Making and opening the SQLite file of a study."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prunerzero.errors import StorageError
from prunerzero.files import atomic_path, json_text
from prunerzero.study.schema import APPLICATION_ID, MIGRATIONS, SEALED
from prunerzero.study.seals import add_digest, seal

# What SQLite says when the disk is full, broken, or not to be written on.
_STORAGE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}


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
    add_digest(connection)
    return connection


def migrate(connection: sqlite3.Connection) -> None:
    """Takes a study to the present schema, one version a transaction, and seals its rows."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for target, migration in enumerate(MIGRATIONS[version:], start=version + 1):
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE; {migration}; PRAGMA user_version = {target};"
            )
            if target == len(MIGRATIONS):
                for table in SEALED:
                    seal(connection, table)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.OperationalError):
                connection.execute("ROLLBACK")
            raise


def migrated_copy(connection: sqlite3.Connection) -> sqlite3.Connection:
    """A study of an older schema in memory, taken to the present one; the file stays as it is."""
    copy = sqlite3.connect(":memory:", isolation_level=None)
    copy.row_factory = sqlite3.Row
    add_digest(copy)
    connection.backup(copy)
    connection.close()
    migrate(copy)
    copy.execute("PRAGMA query_only = ON")
    return copy


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """All statements of the body, or none of them.

    Raises:
        StorageError: The disk is full or cannot be written; the study is as it was before.
    """
    with storage_errors(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            # A full disk may have rolled back already.
            with suppress(sqlite3.OperationalError):
                connection.execute("ROLLBACK")
            raise


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Says in one line that the disk under a study fails.

    Raises:
        StorageError: It does.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _STORAGE:  # the rest are finer codes
            raise
        raise StorageError(
            f"study {path}: cannot be written ({error}); what it held before is intact: make room "
            "and go on with it"
        ) from None


def write_new(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes the file of a study without candidates, complete or not at all.

    Raises:
        InputError: The file cannot be written.
        StorageError: The disk is full.
    """
    # Side files that a deleted study left would be replayed into the new one.
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    with atomic_path(path) as temporary, storage_errors(path):
        connection = sqlite3.connect(temporary, isolation_level=None)
        try:
            add_digest(connection)
            migrate(connection)
            connection.executemany(
                "INSERT INTO settings (name, value) VALUES (?, ?)",
                [(name, json_text(value)) for name, value in settings.items()],
            )
            seal(connection, "settings")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("PRAGMA journal_mode = WAL")
        finally:
            connection.close()
