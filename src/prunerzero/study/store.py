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
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from prunerzero.errors import InputError
from prunerzero.files import json_text
from prunerzero.lock import ProcessLock, is_held
from prunerzero.study import leases
from prunerzero.study.connection import (
    connect,
    migrate,
    migrated_copy,
    storage_errors,
    transaction,
    write_new,
)
from prunerzero.study.progress import closing_winner, pareto_front
from prunerzero.study.records import Candidate, Event, Measurement, Purpose, Status
from prunerzero.study.rows import (
    candidate_of,
    event_of,
    insert_candidate,
    insert_duplicate,
    insert_event,
    insert_measurement,
    measurement_of,
    replace_candidate,
    rows_of,
)
from prunerzero.study.schema import APPLICATION_ID, INVARIANTS, SCHEMA_VERSION
from prunerzero.study.seals import broken_seals, listed
from prunerzero.study.settings import differences

if TYPE_CHECKING:
    from prunerzero.recipe import Recipe
    from prunerzero.report.plots import StudyPlots

# What a notebook shows of the settings.
SHOWN_SETTINGS = ("model", "pattern", "preset", "calibration", "samples", "sequence_length", "seed")


class Study:
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
        self.path = path
        self._lock = lock
        try:
            self._connection = connect(path, writable=lock is not None)
        except sqlite3.OperationalError as error:
            raise InputError(f"study {path}: cannot be opened ({error})") from None
        try:
            version = self._verify()
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

    # Reading

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read inside is as of one moment, whatever a search writes meanwhile."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("COMMIT")

    @property
    def settings(self) -> dict[str, Any]:
        """What defines the search."""
        rows = self._connection.execute("SELECT name, value FROM settings ORDER BY rowid")
        return {row["name"]: json.loads(row["value"]) for row in rows}

    def candidates(self, status: Status | None = None, *, after: int = 0) -> list[Candidate]:
        """The candidates, of one status or all, in order of insertion.

        Args:
            status: Only those of this status.
            after: Only those with a larger id, for a reader that follows a search.
        """
        return rows_of(
            self._connection.execute(
                "SELECT * FROM candidate WHERE id > ? AND status = COALESCE(?, status) ORDER BY id",
                (after, status),
            )
        )

    def candidate(self, identifier: int) -> Candidate:
        """The candidate of an id.

        Raises:
            InputError: There is none.
        """
        row = self._connection.execute(
            "SELECT * FROM candidate WHERE id = ?", (identifier,)
        ).fetchone()
        if row is None:
            raise InputError(f"study {self.path}: has no candidate {identifier}")
        return candidate_of(row)

    @property
    def best(self) -> Candidate | None:
        """The best candidate; None where nothing has a fitness.

        Of a closed search that is the winner on validation text, before that the candidate of the
        lowest fitness, the earliest of equals.
        """
        winner = closing_winner(self.events("session-start"), self.events("heldout"))
        if winner is not None:
            return self.candidate(winner)
        row = self._connection.execute(
            "SELECT * FROM candidate WHERE status = 'evaluated' ORDER BY fitness, id LIMIT 1"
        ).fetchone()
        return None if row is None else candidate_of(row)

    @property
    def best_recipe(self) -> Recipe:
        """The recipe of `best`, as `prunerzero.prune` takes it.

        Raises:
            InputError: Nothing has a fitness yet.
        """
        from prunerzero.recipe import Recipe

        best = self.best
        if best is None:
            raise InputError(f"study {self.path}: nothing has been measured yet")
        return Recipe.from_json(dict(best.recipe))

    def pareto_front(self) -> list[Candidate]:
        """The evaluated candidates that are better than every shorter one, shortest first."""
        return pareto_front(self.candidates("evaluated"))

    @property
    def plot(self) -> StudyPlots:
        """Pictures of the study: ``study.plot.history()`` and others, as matplotlib figures."""
        from prunerzero.report.plots import StudyPlots

        return StudyPlots(self)

    def to_frame(self) -> Any:
        """The candidates as a pandas data frame, one row each, with `id` as the index.

        Raises:
            MissingExtraError: Without pandas.
        """
        from prunerzero.notebook import data_frame

        names = [field.name for field in fields(Candidate)]
        rows = [{name: getattr(row, name) for name in names} for row in self.candidates()]
        return data_frame(rows, names).set_index("id")

    def __repr__(self) -> str:
        return f"<Study {self.path}>"

    def _repr_html_(self) -> str:
        from prunerzero.notebook import properties

        settings, best = self.settings, self.best
        shown = {name: settings[name] for name in SHOWN_SETTINGS if name in settings}
        counts = {str(name): count for name, count in self.counts().items() if count}
        found = {} if best is None else {"best": best.expression, "its fitness": best.fitness}
        return properties(f"Study {self.path.name}", {**shown, **counts, **found})

    def counts(self) -> dict[Status, int]:
        """Candidates by status; every status is a key."""
        counts: dict[Status, int] = dict.fromkeys(("pending", "evaluated", "rejected", "failed"), 0)
        rows = self._connection.execute("SELECT status, COUNT(*) FROM candidate GROUP BY status")
        counts.update(rows.fetchall())
        return counts

    def skipped(self) -> int:
        """Duplicates that the search avoided, of any kind."""
        row = self._connection.execute("SELECT COALESCE(SUM(skipped), 0) FROM candidate")
        return int(row.fetchone()[0])

    def duplicates(self) -> dict[str, int]:
        """For each key noted by `add_duplicate`, the id of the candidate with the same masks."""
        rows = self._connection.execute("SELECT key, candidate_id FROM duplicate ORDER BY rowid")
        return dict(rows.fetchall())

    def measurements(
        self,
        purpose: Purpose | None = None,
        candidate_id: int | None = None,
        *,
        after: int = 0,
    ) -> list[Measurement]:
        """The measurements of a purpose and of a candidate, or all, in order of insertion.

        Args:
            purpose: Only those of this purpose.
            candidate_id: Only this candidate's.
            after: Only those with a larger id.
        """
        wanted = {"purpose": purpose, "candidate_id": candidate_id}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        where = " AND ".join(["id > :after", *(f"{name} = :{name}" for name in wanted)])
        rows = self._connection.execute(
            f"SELECT * FROM measurement WHERE {where} ORDER BY id", {"after": after, **wanted}
        )
        return [measurement_of(row) for row in rows]

    def events(self, kind: str | None = None, *, after: int = 0) -> list[Event]:
        """The events of a kind, or all, of those with a larger id, in order of insertion."""
        rows = self._connection.execute(
            "SELECT * FROM event WHERE id > ? AND kind = COALESCE(?, kind) ORDER BY id",
            (after, kind),
        )
        return [event_of(row) for row in rows]

    def check(self) -> list[str]:
        """Examines the whole file and the rules of the tables.

        Returns:
            The problems, one line each; empty when the study is sound.
        """
        connection = self._connection
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

    # Within

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with transaction(self._connection, self.path):
            yield self._connection

    def _verify(self) -> int:
        version = 0
        try:
            (application,) = self._connection.execute("PRAGMA application_id").fetchone()
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if application != APPLICATION_ID:
                raise InputError(f"study {self.path}: an SQLite file, but not one of prunerzero's")
            if version > SCHEMA_VERSION:
                raise InputError(
                    f"study {self.path}: has schema {version}, this prunerzero knows up to "
                    f"{SCHEMA_VERSION}; upgrade prunerzero to open it"
                )
            (verdict,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.DatabaseError as error:
            verdict = str(error)
        if verdict != "ok":
            problem = " ".join(str(verdict).split())
            raise InputError(
                f"study {self.path}: corrupt or not a study ({problem}); "
                "restore a copy or name another file"
            )
        return version

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
