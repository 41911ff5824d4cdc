"""What can be asked of a study."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunerzero.errors import InputError
from prunerzero.study.progress import closing_winner, pareto_front
from prunerzero.study.records import Candidate, Event, Measurement, Purpose, Status
from prunerzero.study.rows import candidate_of, event_of, measurement_of, rows_of

if TYPE_CHECKING:
    from prunerzero.recipe import Recipe

# What a notebook shows of the settings.
SHOWN_SETTINGS = ("model", "pattern", "preset", "calibration", "samples", "sequence_length", "seed")


class StudyReading:
    """The questions that `Study` answers; nothing here writes."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Reads from an open study."""
        self.path = path
        self._connection = connection

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
