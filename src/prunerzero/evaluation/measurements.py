"""Measurements of a comparison, in a file that a killed run is gone on with."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from prunerzero.errors import InputError
from prunerzero.evaluation.perplexity import TextLoss
from prunerzero.files import json_text
from prunerzero.lock import ProcessLock

FILE = "measurements.jsonl"


@dataclass(frozen=True)
class Measurement:
    """One recipe, pruned and measured once.

    Attributes:
        losses: mean loss of each evaluation window, nats a token; empty where ``error`` says why.
        tokens: number of tokens scored in all windows together.
        sparsity: share of zeros in the prunable matrices.
        seconds: time of pruning and of statistics that no other recipe shares.
        statistics_seconds: time of the shared passes that it needs, counted whole.
        peak_bytes: largest resident memory of the process meanwhile.
        error: why there is nothing to measure; empty where there is.
        more: anything else that was measured, JSON-serialisable.
    """

    losses: tuple[float, ...]
    tokens: int
    sparsity: float
    seconds: float
    statistics_seconds: float
    peak_bytes: int
    error: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def loss(self) -> TextLoss:
        """The loss of every window."""
        return TextLoss(self.losses, self.tokens)


class Measurements:
    """A file of one line a measurement, each written at once; or memory alone.

    A line is found again by what determines it, so another command with some methods, seeds or
    patterns more measures only these.

    Args:
        directory: where the file is or will be; None keeps everything in memory.

    Raises:
        InputError: the directory cannot be written, another process has it open, or a line other
            than the last is damaged.
    """

    def __init__(self, directory: Path | None) -> None:
        self._found: dict[str, Measurement] = {}
        self._path = directory / FILE if directory is not None else None
        self._lock: ProcessLock | None = None
        if self._path is None or directory is None:
            return
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise InputError(f"output {directory}: cannot be made ({reason})") from None
        self._lock = ProcessLock(
            directory / "lock", f"output {directory}", "process {holder} is writing to it"
        )
        self._read(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()

    def get(self, key: str) -> Measurement | None:
        """The measurement under a key (`key_of`), if there is one."""
        return self._found.get(key)

    def add(self, key: str, measurement: Measurement) -> None:
        """Keeps a measurement, on disk before this returns."""
        self._found[key] = measurement
        if self._path is None:
            return
        line = json_text({"key": key, **asdict(measurement)}) + "\n"
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]  # a kill may have cut the last line
        if len(whole) < len(text):
            os.truncate(path, len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                fields = json.loads(line)
                key = fields.pop("key")
                fields["losses"] = tuple(fields["losses"])
                self._found[key] = Measurement(**fields)
            except (ValueError, TypeError, KeyError, AttributeError):
                raise InputError(f"{path}, line {number}: damaged; delete it") from None


def key_of(**parts: Any) -> str:
    """32 hexadecimal digits that name what determines a measurement."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
