"""What of a streamed run is done, so that the same command goes on after it was killed."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, Self

from prunerzero.errors import InputError
from prunerzero.files import json_text, read_json, write_json
from prunerzero.lock import ProcessLock

SUFFIX = ".partial"
FORMAT = 1


def work_directory(output: Path) -> Path:
    """Where a run keeps what it has done until the output is complete: beside it."""
    return output.with_name(output.name + SUFFIX)


class Journal:
    """A work directory and the record of what is done in it, replaced as a whole at each step.

    An operating system's lock keeps a second process out of the directory.

    Attributes:
        folder: the work directory.
        done: what is done, JSON-serialisable.
    """

    def __init__(self, folder: Path) -> None:
        """Reads nothing yet.

        Args:
            folder: the work directory; made when the run begins.
        """
        self.folder = folder
        self.done: dict[str, Any] = {}
        self._settings: dict[str, Any] = {}
        self._before = 0.0
        self._began = time.perf_counter()
        self._lock: ProcessLock | None = None

    @property
    def seconds(self) -> float:
        """Time of this run so far, and of those that it continues up to what they finished."""
        return self._before + time.perf_counter() - self._began

    def exists(self) -> bool:
        """Whether an earlier run has left something."""
        return os.path.isfile(self._path)  # `Path` raises for names that are too long

    def open(self, settings: dict[str, Any]) -> bool:
        """Begins, or goes on.

        Args:
            settings: everything that decides about the output, JSON-serialisable.

        Returns:
            Whether there is an earlier run to go on with.

        Raises:
            InputError: that run has other settings, or is still at work.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = ProcessLock(
            self.folder / "lock",
            str(self.folder),
            "another process is at work in it ({holder}); wait for it, or stop it",
        )
        self._settings = settings
        if not self.exists():
            return False
        found = read_json(self._path, "journal")
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise InputError(f"{self.folder}: not left by this version of prunerzero; delete it")
        before, now = found["settings"], _as_read(settings)
        names = [name for name in {**now, **before} if now.get(name) != before.get(name)]
        if names:
            raise InputError(
                f"{self.folder}: left by an unfinished run with other settings "
                f"({', '.join(names)}); repeat those, or delete the directory"
            )
        self.done = found["done"]
        self._before = found["seconds"]
        return True

    def commit(self, **done: Any) -> None:
        """Records that something is done; what it consists of is on disk already."""
        self.done.update(done)
        document = {
            "format": FORMAT,
            "settings": self._settings,
            "seconds": self.seconds,
            "done": self.done,
        }
        write_json(self._path, document)

    def discard(self) -> None:
        """Deletes the work directory."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._lock is None:
            return  # not opened: whatever is there belongs to another run
        if kind is not None and not self.exists():
            self.discard()  # nothing is done yet that would be worth keeping
        self._lock.release()
        self._lock = None

    @property
    def _path(self) -> Path:
        return self.folder / "journal.json"


def _as_read(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings after a way through JSON (tuples become lists)."""
    found: dict[str, Any] = json.loads(json_text(settings))
    return found
