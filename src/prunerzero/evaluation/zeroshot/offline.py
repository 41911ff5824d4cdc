"""The tasks that need no internet: their rows from the demo assets, and their lm-eval YAML.

A task is a YAML file in `yaml/`, which says how a row is asked, and a function that builds the
rows. Both go to the cache directory, where lm-eval's own command line finds them too
(``lm_eval --include_path``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from prunerzero.data.assets import asset_path
from prunerzero.data.sources import evaluation_documents
from prunerzero.errors import InputError
from prunerzero.evaluation.zeroshot import passages
from prunerzero.files import atomic_path, cache_dir, json_text

Row = dict[str, Any]

PASSAGES = "openwebtext+wikipedia-passages"
"""Whose held-out documents the passage tasks are made from: no calibration by name reads those."""


@dataclass(frozen=True)
class OfflineTask:
    """A task made from the demo assets.

    Attributes:
        name: Of the task, and of its YAML file.
        description: What is asked, for listings.
        load: Returns its rows, in any order; raises InputError where the asset is missing.
    """

    name: str
    description: str
    load: Callable[[], Iterable[Row]]

    def rows(self) -> list[Row]:
        """The rows in an order drawn from their hashes, so that the first N are a fair sample."""
        return sorted(self.load(), key=_digest)


def _socialiqa() -> Iterator[Row]:
    for row in _read("socialiqa"):
        text = row["input"][-1]["content"]
        yield _parse("socialiqa", text, r"(.*\S)\s+A: (.*); B: (.*); C: (.*)\.", row["ideal"])


def _quartz() -> Iterator[Row]:
    for row in _read("quartz"):
        text = row["input"][-1]["content"]
        yield _parse("quartz", text, r"(.*\S)\s*\n\n A: (.*)\n B: (.*)", row["ideal"])


def _mmlu() -> Iterator[Row]:
    layout = r"(.*\S)\s*\nA\. (.*)\nB\. (.*)\nC\. (.*)\nD\. (.*)\nAnswer:"
    for row in _read("mmlu"):
        yield _parse("mmlu", row["question"], layout, row["answer"])


def _of_passages(ask: Callable[[str], Row | None]) -> Callable[[], Iterator[Row]]:
    def load() -> Iterator[Row]:
        return filter(None, (ask(document.text) for document in evaluation_documents(PASSAGES)))

    return load


OFFLINE: dict[str, OfflineTask] = {
    task.name: task
    for task in (
        OfflineTask(
            "sentence_order",
            "which of two orders of its sentences is the passage's own",
            _of_passages(passages.sentence_order),
        ),
        OfflineTask(
            "last_word",
            "the last word of a passage among four words of it",
            _of_passages(passages.last_word),
        ),
        OfflineTask("socialiqa", "Social IQa: what people do and feel", _socialiqa),
        OfflineTask("quartz", "QuaRTz: which of two ways a quantity goes", _quartz),
        OfflineTask("mmlu_items", "1,000 MMLU questions, scored by the answers' text", _mmlu),
    )
}


def write_task(name: str, rows: list[Row]) -> Path:
    """Writes a task where lm-eval finds it: its rows as JSON lines, and its YAML.

    The rows' file is named after its content, so that an old one is never taken for it.

    Returns:
        The directory, ``zeroshot`` in the cache directory.
    """
    directory = cache_dir() / "zeroshot"
    lines = "".join(json_text(row) + "\n" for row in rows)
    data = directory / f"{name}-{hashlib.sha256(lines.encode()).hexdigest()[:12]}.jsonl"
    place = {"data_files": {"test": str(data)}, "cache_dir": str(directory / "datasets")}
    yaml = resources.files(__package__).joinpath("yaml", f"{name}.yaml").read_text("utf-8")
    # JSON is YAML, and needs no library to be written.
    _write(data, lines)
    _write(directory / f"{name}.yaml", f"{yaml}dataset_kwargs: {json.dumps(place)}\n")
    return directory


def _write(path: Path, text: str) -> None:
    """Leaves a file alone that is right: `datasets` would read it anew for its date."""
    if path.is_file() and path.read_bytes() == text.encode():
        return
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _parse(asset: str, text: str, layout: str, letter: str) -> Row:
    found = re.fullmatch(layout, text, re.DOTALL)
    if found is None:
        raise InputError(f"demo asset '{asset}': a question is laid out as none known: {text!r}")
    question, *choices = found.groups()
    return {
        "question": question,
        "choices": [choice.strip() for choice in choices],
        "answer": "ABCD".index(letter),
    }


def _read(asset: str) -> Iterator[Row]:
    with asset_path(asset).open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _digest(row: Row) -> bytes:
    return hashlib.sha256(json_text(row).encode("utf-8", "surrogatepass")).digest()
