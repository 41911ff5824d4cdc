"""Follows a study that a search writes to: the document of a moment ago, ready to be sent."""

from __future__ import annotations

import gzip
import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prunerzero.analysis.readings import analysis_path
from prunerzero.errors import InputError
from prunerzero.report.data import Extras, Scale, build_document
from prunerzero.report.detail import describe
from prunerzero.report.document import Detail, Document
from prunerzero.report.files import read_analysis
from prunerzero.report.rows import Rows
from prunerzero.study import Study

INTERVAL = 1.0  # seconds between two looks at the study
# Of one core, what following a search may take from it.
SHARE = 0.05


@dataclass(frozen=True)
class Edition:
    """The document at one moment.

    Attributes:
        document: the document.
        json: it as JSON, gzip-compressed.
        tag: tells it from other editions (an HTTP entity tag, without quotes).
        fault: why it is no longer kept up to date; empty if it is.
    """

    document: Document
    json: bytes
    tag: str
    fault: str = ""

    @property
    def headline(self) -> dict[str, Any]:
        """What is told to those who listen: that there is news, and the newest candidate."""
        candidates = self.document.candidates
        return {
            "tag": self.tag,
            "state": self.document.overview.state,
            "candidates": len(candidates.id),
            "newest": candidates.id[-1] if candidates.id else None,
            "best": self.document.best[-1] if self.document.best else None,
        }


class Follower:
    """Reads a study again and again, in a thread of its own.

    Requests are answered from memory. The study is only read, in short transactions, and the more
    expensive it becomes the more rarely: following takes at most `SHARE` of a core.

    Args:
        path: the study's file.
        extras: what is shown beside it; the analysis is read anew when its file changes.
        interval: seconds between two looks.

    Raises:
        InputError: the study cannot be read.
    """

    def __init__(self, path: Path, extras: Extras, interval: float = INTERVAL) -> None:
        self._extras = extras
        self._interval = interval
        self._stop = threading.Event()
        self._lock = threading.Lock()  # of the rows
        with Study.open(path) as study:
            self._rows = Rows.read(study)
        self._analysed = _modified(analysis_path(self._rows.path))
        self._cost = 0.0
        self.edition = self._edited()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)
        self._listeners: list[Callable[[], None]] = []

    def listen(self, call: Callable[[], None]) -> None:
        """Has ``call`` called, in the follower's thread, after each new edition."""
        self._listeners.append(call)

    def start(self) -> None:
        """Begins to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Ends following; returns when the study is closed."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def detail(self, identifier: int) -> Detail:
        """All about a candidate.

        Raises:
            InputError: there is none of that number.
        """
        with self._lock:
            return describe(self._rows, identifier, Scale(self._rows).value)

    def _follow(self) -> None:
        try:
            # One connection for all: opening checks the whole file.
            with Study.open(self._rows.path) as study:
                while not self._stop.wait(max(self._interval, self._cost / SHARE)):
                    self._look(study)
        except (InputError, sqlite3.Error, OSError) as error:
            self._publish(replace(self.edition, fault=f"no longer followed: {error}"))

    def _look(self, study: Study) -> None:
        began = time.perf_counter()
        with self._lock:
            news = self._rows.update(study)
        news |= self._read_analysis()
        state = self.edition.document.overview.state
        news |= (state == "running") != Study.is_being_written(self._rows.path)
        if news:
            self._publish(self._edited())
            self._cost = time.perf_counter() - began

    def _read_analysis(self) -> bool:
        modified = _modified(analysis_path(self._rows.path))
        if modified == self._analysed:
            return False
        self._analysed = modified
        try:
            self._extras = replace(self._extras, analysis=read_analysis(self._rows.path), notes=())
        except InputError as error:
            self._extras = replace(self._extras, analysis=None, notes=(str(error),))
        return True

    def _edited(self) -> Edition:
        document = build_document(self._rows, self._extras)
        text = document.model_dump_json().encode()
        return Edition(
            document,
            gzip.compress(text, compresslevel=3, mtime=0),
            hashlib.sha256(text).hexdigest()[:16],
        )

    def _publish(self, edition: Edition) -> None:
        self.edition = edition
        for call in self._listeners:
            call()


def _modified(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
