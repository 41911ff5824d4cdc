"""The rows of a study as a reader holds them, who may follow a search that goes on."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from prunerzero.study import Candidate, Event, Measurement, Study


@dataclass
class Rows:
    """Everything in a study, read at first whole and then what is new.

    Attributes:
        path: the study's file.
        settings: what defines the search.
        candidates: by id.
        measurements: in order of insertion.
        events: in order of insertion.
    """

    path: Path
    settings: dict[str, Any]
    candidates: dict[int, Candidate] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @classmethod
    def read(cls, study: Study) -> Rows:
        """All rows of an open study."""
        rows = cls(study.path, study.settings)
        rows.update(study)
        return rows

    def update(self, study: Study) -> bool:
        """Reads what the study has got since the last time; tells whether there was anything.

        Candidates that another worker has are read again: their row will change.
        """
        pending = [id for id, row in self.candidates.items() if row.status == "pending"]
        seen = min(pending) - 1 if pending else max(self.candidates, default=0)
        with study.snapshot():
            events = study.events(after=_last(self.events))
            candidates = study.candidates(after=seen)
            measurements = study.measurements(after=_last(self.measurements))
        changed = [row for row in candidates if self.candidates.get(row.id or 0) != row]
        self.candidates.update({row.id: row for row in candidates if row.id is not None})
        self.measurements += measurements
        self.events += events
        return bool(changed or measurements or events)

    def of_kind(self, kind: str) -> list[Event]:
        """The events of a kind."""
        return [event for event in self.events if event.kind == kind]


class SearchClock:
    """Tells search time, which stands still between sessions.

    A session lasts as long as its last event says, or to its last candidate if it was killed.
    """

    def __init__(self, rows: Rows) -> None:
        self._starts: list[float] = []
        self._before: list[float] = []  # search time at the start of each session
        made = [_seconds(row.created) for row in rows.candidates.values()]
        ends = rows.of_kind("session-end")
        starts = rows.of_kind("session-start")
        total = 0.0
        for number, start in enumerate(starts):
            began = _seconds(start.created)
            following = starts[number + 1] if number + 1 < len(starts) else None
            until = _seconds(following.created) if following else float("inf")
            lasted = [
                float(end.data["seconds"])
                for end in ends
                if end.id > start.id and (following is None or end.id < following.id)
            ]
            last = max((at for at in made if began <= at < until), default=began)
            self._starts.append(began)
            self._before.append(total)
            total += lasted[-1] if lasted else last - began
        self.total = total

    def at(self, created: str | None) -> float:
        """Search seconds at a time; what precedes the first session is at 0."""
        moment = _seconds(created)
        session = bisect_right(self._starts, moment) - 1
        return 0.0 if session < 0 else self._before[session] + moment - self._starts[session]


def _seconds(created: str | None) -> float:
    return datetime.fromisoformat(created or "1970-01-01T00:00:00+00:00").timestamp()


def _last(rows: list[Any]) -> int:
    return rows[-1].id if rows else 0
