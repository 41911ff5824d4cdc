"""What has been measured so far: one file a cell, each whole at any moment."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prunerzero.errors import InputError
from prunerzero.files import json_text, read_json, write_json

FORMAT = 1


class Cell(NamedTuple):
    """One measurement to take.

    Attributes:
        kind: what is measured: ``perplexity``, ``zero-shot``, ``search``, ``population``.
        what: all that determines it, beside the model and the texts; JSON values.
    """

    kind: str
    what: Mapping[str, Any]

    def __str__(self) -> str:
        shown = ("method", "arm", "pattern", "samples", "seed", "simplified")
        parts = [f"{name} {self.what[name]}" for name in shown if name in self.what]
        return f"{self.kind}: {', '.join(parts)}"


class Cells:
    """The finished cells of a directory.

    A cell is in its file before the next is begun, and files appear by renaming; so a run that is
    killed has lost the one cell that it was at. Its name is a hash of what determines it: other
    options measure only what is new.

    Args:
        directory: where the files are.
        conditions: what determines all cells: model, precision, texts.
    """

    def __init__(self, directory: Path, conditions: Mapping[str, Any]) -> None:
        self._directory = directory
        self._conditions = dict(conditions)
        self._known: dict[Path, dict[str, Any]] = {}

    def result(self, cell: Cell) -> Mapping[str, Any] | None:
        """What was measured; None for a cell that is not finished.

        Raises:
            InputError: its file is damaged.
        """
        path = self._path(cell)
        if path not in self._known:
            if not path.exists():
                return None
            document = read_json(path, "cell")
            if (
                not isinstance(document, dict)
                or document.get("format") != FORMAT
                or not isinstance(document.get("result"), dict)
            ):
                raise InputError(f"cell {path}: damaged; delete it to measure it anew")
            self._known[path] = document
        result: Mapping[str, Any] = self._known[path]["result"]
        return result

    def __getitem__(self, cell: Cell) -> Mapping[str, Any]:
        """What was measured in a finished cell."""
        result = self.result(cell)
        if result is None:
            raise KeyError(str(cell))
        return result

    def add(self, cell: Cell, result: Mapping[str, Any], seconds: float, session: int) -> None:
        """Keeps what was measured.

        Args:
            cell: what.
            result: the readings, JSON values.
            seconds: how long it took.
            session: number of the run in the record.
        """
        document = {
            "format": FORMAT,
            "kind": cell.kind,
            "what": dict(cell.what),
            "conditions": self._conditions,
            "result": dict(result),
            "seconds": seconds,
            "session": session,
        }
        write_json(self._path(cell), document)
        self._known.pop(self._path(cell), None)  # read back, so that a later run sees the same

    def _path(self, cell: Cell) -> Path:
        determined_by = [cell.kind, _sorted(cell.what), _sorted(self._conditions)]
        digest = hashlib.sha256(json_text(determined_by).encode()).hexdigest()[:20]
        return self._directory / f"{cell.kind}-{digest}.json"


def _sorted(values: Mapping[str, Any]) -> list[list[Any]]:
    return [[name, values[name]] for name in sorted(values)]
