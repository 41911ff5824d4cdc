"""What an analysis has measured so far: one JSON file beside the study, whole at any moment."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunerzero.errors import InputError
from prunerzero.files import json_text, read_json, write_json

FORMAT = 1


def analysis_path(study: Path) -> Path:
    """Where the analysis of a study is kept."""
    return study.with_name(study.name.removesuffix(".db") + ".analysis.json")


class Readings:
    """Readings by the conditions that they were taken under and by recipe.

    A reading is in the file before the next is taken, and the file is replaced by renaming; so an
    analysis that is cut off goes on where it was. Conditions and recipes are named by hashes of
    what determines a reading; what these stand for is in the file too.

    Args:
        path: the file; made by the first reading.

    Raises:
        InputError: it is there, but no file of this kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._document: dict[str, Any] = {"format": FORMAT, "conditions": {}, "readings": {}}
        if path.exists():
            self._document = _checked(read_json(path, "analysis"), path)

    def under(self, conditions: Mapping[str, Any]) -> ReadingsUnder:
        """The readings taken under these conditions."""
        name = _digest(json_text(dict(sorted(conditions.items()))))
        self._document["conditions"][name] = dict(conditions)
        return ReadingsUnder(self, self._document["readings"].setdefault(name, {}))

    def keep_result(self, result: Mapping[str, Any]) -> None:
        """Keeps what the analysis concluded, beside the readings."""
        self._document["result"] = dict(result)
        self.save()

    def save(self) -> None:
        """Writes the file."""
        write_json(self.path, self._document)


class ReadingsUnder:
    """Readings under one set of conditions, by recipe."""

    def __init__(self, readings: Readings, taken: dict[str, dict[str, Any]]) -> None:
        self._readings = readings
        self._taken = taken

    def __getitem__(self, key: str) -> Mapping[str, Any]:
        """What is known of the recipe with this key; empty for nothing."""
        return self._taken.get(_digest(key), {})

    def add(self, key: str, expression: str, reading: Mapping[str, Any]) -> None:
        """Adds to what is known of a recipe, on disk too."""
        known = self._taken.setdefault(_digest(key), {"expression": expression})
        known.update(reading)
        self._readings.save()


def _checked(document: Any, path: Path) -> dict[str, Any]:
    sound = (
        isinstance(document, dict)
        and document.get("format") == FORMAT
        and isinstance(document.get("conditions"), dict)
        and isinstance(document.get("readings"), dict)
    )
    if not sound:
        raise InputError(
            f"analysis {path}: not an analysis of format {FORMAT}; move it away to begin anew"
        )
    return document  # type: ignore[no-any-return]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
