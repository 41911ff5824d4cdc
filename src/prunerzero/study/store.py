"""The study: one search in one SQLite file.

One process writes, guarded by an OS lock; any number read. Every insertion is one transaction, so
a process that is killed at any moment leaves a prefix of what it did and never half a candidate.
"""

from __future__ import annotations

import json
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from prunerzero.errors import InputError
from prunerzero.files import json_text
from prunerzero.lock import ProcessLock, is_held
from prunerzero.study import leases
from prunerzero.study.checking import problems_of, schema_of
from prunerzero.study.connection import (
    connect,
    migrate,
    migrated_copy,
    storage_errors,
    transaction,
    write_new,
)
from prunerzero.study.reading import StudyReading
from prunerzero.study.records import Candidate, Measurement
from prunerzero.study.rows import (
    insert_candidate,
    insert_duplicate,
    insert_event,
    insert_measurement,
    replace_candidate,
)
from prunerzero.study.schema import SCHEMA_VERSION
from prunerzero.study.seals import broken_seals
from prunerzero.study.settings import differences

if TYPE_CHECKING:
    from prunerzero.report.plots import StudyPlots


class Study(StudyReading):
    """One search: settings, candidates, measurements, events.

    Made by `Study.create`, `Study.open` or `Study.open_or_create`; a context manager that closes.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> with Study.create(f"{folder.name}/s.db", {"pattern": "50%"}) as study:
        ...     study.best, study.pareto_front(), study.plot.history().axes[0].get_xlabel()
        (None, [], 'candidate')
    """

    def __init__(self, path: Path, lock: ProcessLock | None) -> None:
        """Opens the existing file ``path``; users call the class methods."""
        self._lock = lock
        try:
            connection = connect(path, writable=lock is not None)
        except sqlite3.OperationalError as error:
            raise InputError(f"study {path}: cannot be opened ({error})") from None
        super().__init__(path, connection)
        try:
            version = schema_of(self._connection, path)
            if lock is None and version < SCHEMA_VERSION:
                self._connection = migrated_copy(self._connection)
            elif lock is not None:
                self._prepare_writing()
        except BaseException:
            self._connection.close()
            raise

    def _prepare_writing(self) -> None:
        with storage_errors(self.path):
            self._connection.execute("PRAGMA journal_mode = WAL")
            # In WAL mode NORMAL loses nothing when the process dies, SIGKILL included: what was
            # written is the kernel's. Only a power cut can drop the last transactions, and even
            # then the file stays consistent.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            migrate(self._connection)
        if problems := broken_seals(self._connection):
            raise InputError(f"study {self.path}: {problems[0]}; restore a copy")
        with self._transaction() as connection:
            leases.release(connection, math.inf)  # their coordinator is gone, as we have its lock

    @classmethod
    def create(cls, path: str | Path, settings: Mapping[str, Any]) -> Study:
        """Makes a new study and opens it for writing.

        Args:
            path: A file that does not exist yet.
            settings: What defines the search, as JSON values. The budget is no setting.

        Raises:
            InputError: The file exists, cannot be written, or is locked by another search.
        """
        path = _absolute(path)
        lock = _lock(path)
        try:
            if path.exists():
                raise InputError(f"study {path}: exists already; resume it or name another file")
            write_new(path, settings)
            return cls(path, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, path: str | Path) -> Study:
        """Opens an existing study for reading, also while a search writes to it.

        Raises:
            InputError: The file is missing, corrupt, of another application or a newer schema.
        """
        path = _absolute(path)
        _require_file(path)
        return cls(path, lock=None)

    @classmethod
    def open_or_create(cls, path: str | Path, settings: Mapping[str, Any]) -> Study:
        """Opens a study for writing, to go on with it; makes it when there is none.

        Args:
            path: The study's file.
            settings: What defines the search; must equal those of an existing study.

        Raises:
            InputError: As for `create` and `open`, or the settings differ (the line shows how).
        """
        path = _absolute(path)
        lock = _lock(path)
        try:
            if not path.exists():
                write_new(path, settings)
            _require_file(path)
            study = cls(path, lock)
            try:
                study._require_settings(settings)
            except BaseException:
                study._connection.close()
                raise
            return study
        except BaseException:
            lock.release()
            raise

    def close(self) -> None:
        """Closes the file and gives the writer's lock back; a second call does nothing."""
        self._connection.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def is_being_written(path: str | Path) -> bool:
        """Whether a search on this machine has the study open for writing."""
        return is_held(_lock_path(_absolute(path)))

    # Writing

    def add_candidate(self, candidate: Candidate, measurements: Sequence[Measurement] = ()) -> int:
        """Adds a candidate and its measurements in one transaction.

        Args:
            candidate: Its ``id`` and ``created`` are given by the study. An evaluated one has a
                finite fitness, a rejected or failed one a reason.
            measurements: Their ``candidate_id`` becomes the new id.

        Returns:
            The candidate's id.

        Raises:
            sqlite3.IntegrityError: An evaluated candidate of this key exists, or the row breaks
                a rule above; nothing was added.
        """
        with self._transaction() as connection:
            identifier = insert_candidate(connection, replace(candidate, created=None))
            for measurement in measurements:
                insert_measurement(connection, measurement, identifier)
        return identifier

    def add_duplicate(self, key: str, candidate_id: int, step: int) -> None:
        """Notes that ``key`` gives the masks of an evaluated candidate, so is not evaluated."""
        with self._transaction() as connection:
            insert_duplicate(connection, key, candidate_id, step)

    def add_measurement(self, measurement: Measurement) -> int:
        """Adds a measurement of a candidate, a baseline, or the dense model; returns its id."""
        with self._transaction() as connection:
            return insert_measurement(connection, measurement, measurement.candidate_id)

    def add_event(self, kind: str, data: Any = None) -> int:
        """Adds an event with JSON data; returns its id."""
        with self._transaction() as connection:
            return insert_event(connection, kind, data)

    # Candidates that workers have

    def lease(self, candidate: Candidate, worker: str, seconds: float) -> int:
        """Gives a worker a candidate to measure, until `settle`.

        Args:
            candidate: A new one, pending; or one that `expire` returned.
            worker: Who has it.
            seconds: How long, without a heartbeat.

        Returns:
            The candidate's id.

        Raises:
            sqlite3.IntegrityError: One of its key is pending or evaluated, or it is leased.
        """
        with self._transaction() as connection:
            return leases.grant(connection, candidate, worker, time.time() + seconds)

    def heartbeat(self, worker: str, seconds: float) -> list[int]:
        """Prolongs a worker's leases from now; returns the candidates that it still has."""
        with self._transaction() as connection:
            return leases.extend(connection, worker, time.time() + seconds)

    def expire(self) -> list[Candidate]:
        """Ends the leases that ran out; returns all pending candidates that no worker has."""
        with self._transaction() as connection:
            leases.release(connection, time.time())
            return leases.unleased(connection)

    def settle(
        self, identifier: int, candidate: Candidate, measurements: Sequence[Measurement] = ()
    ) -> bool:
        """Writes down what became of a pending candidate, in one transaction.

        Args:
            identifier: What `lease` returned.
            candidate: The finished row, with the key that was leased.
            measurements: Its readings.

        Returns:
            False, and nothing was written, where another worker was first.

        Raises:
            InputError: It is another candidate, or still pending.
        """
        with self._transaction() as connection:
            row = self.candidate(identifier)
            if row.key != candidate.key or candidate.status == "pending":
                raise InputError(f"study {self.path}: candidate {identifier} is '{row.key}'")
            if row.status != "pending":
                return False
            leases.release_candidate(connection, identifier)
            replace_candidate(connection, identifier, candidate)
            for measurement in measurements:
                insert_measurement(connection, measurement, identifier)
        return True

    @property
    def plot(self) -> StudyPlots:
        """Pictures of the study: ``study.plot.history()`` and others, as matplotlib figures."""
        from prunerzero.report.plots import StudyPlots

        return StudyPlots(self)

    def check(self) -> list[str]:
        """Examines the whole file and the rules of the tables.

        Returns:
            The problems, one line each; empty when the study is sound.
        """
        return problems_of(self._connection)

    # Within

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with transaction(self._connection, self.path):
            yield self._connection

    def _require_settings(self, given: Mapping[str, Any]) -> None:
        wanted = json.loads(json_text(given))
        if different := differences(self.settings, wanted, "there", "here"):
            raise InputError(
                f"study {self.path}: was made with other settings ({different}); "
                "go on with the same ones or name another study"
            )


def _absolute(path: str | Path) -> Path:
    found = Path(path).expanduser().absolute()
    try:
        os.lstat(found)
    except (FileNotFoundError, NotADirectoryError):
        pass  # it may be made
    except (OSError, ValueError) as error:  # a name that is too long, or no name
        raise InputError(f"study {path}: cannot be opened ({error})") from None
    return found


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"study {path}: a directory, not a file")
    if not path.exists():
        raise InputError(f"study {path}: does not exist")


def _lock(path: Path) -> ProcessLock:
    if path.is_dir():
        raise InputError(f"study {path}: a directory, not a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"study {path}: cannot be written ({error.strerror})") from None
    return ProcessLock(
        _lock_path(path),
        f"study {path}",
        "another search (process {holder}) is writing to it; wait for it, stop it, or name another "
        "study",
    )
