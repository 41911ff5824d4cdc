"""The Python that pages show runs as it stands, on a tiny model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documented import ROOT
from tiny_models import make_model, make_text, make_tokenizer

from prunerzero.cli.app import main
from prunerzero.evolution import Budget
from prunerzero.metric.operators import OPERATORS
from prunerzero.metric.terminals import TERMINALS
from prunerzero.statistics.collectors import COLLECTORS, TOKEN_SUMS
from prunerzero.study import Study

# What makes the page's calls small: the tiny model, a text file, few windows.
SMALL = {
    '"wikipedia"': '"my.jsonl"',
    "count=16, length=512": "count=2, length=64",
    "plan = RungPlan()": "plan = RungPlan(length=32)",
    'budget="10m",': 'budget=Budget(candidates=30), calibration="my.jsonl", samples=2,'
    " sequence_length=64,",
    'budget="1h",': 'budget=Budget(candidates=4), calibration="my.jsonl", samples=2,'
    " sequence_length=64,",
    'AskTell("smollm2", "50%",': 'AskTell("./smollm2", "50%", calibration="my.jsonl", samples=2,'
    " sequence_length=64, windows=1,",
    '"smollm2"': '"./smollm2"',
}


def sections(page: str) -> dict[str, str]:
    """A page's Python by heading."""
    parts = (ROOT / "docs" / page).read_text().split("\n## ")[1:]
    return {
        part.partition("\n")[0]: "\n".join(re.findall(r"```python\n(.*?)```", part, re.DOTALL))
        for part in parts
    }


@pytest.fixture
def in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> Iterator[Path]:
    make_model(max_position_embeddings=4096).save_pretrained(tmp_path / "smollm2")
    make_tokenizer().save_pretrained(tmp_path / "smollm2")
    lines = [f'{{"text": "{make_text(number, 1200)}"}}' for number in range(16)]
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    registries = (OPERATORS, TERMINALS, COLLECTORS, TOKEN_SUMS)
    before = [dict(registry) for registry in registries]
    yield tmp_path
    for registry, content in zip(registries, before, strict=True):
        registry.clear()
        registry.update(content)


def run(code: str, names: dict[str, Any]) -> None:
    for shown, small in SMALL.items():
        code = code.replace(shown, small)
    exec(compile(code, "docs", "exec"), names)  # noqa: S102  our own page


def test_own_operators_and_terminals_are_searched_with(in_place: Path) -> None:
    names: dict[str, Any] = {"Budget": Budget}
    shown = sections("extending.md")
    for heading in ("An operator", "A terminal", "Searching with them"):
        assert "import" in shown[heading]
        run(shown[heading], names)
    with Study.open("mine.db") as study:
        rows = list(study.candidates())
        assert study.settings["vocabulary"] == ["Peak", "softsign"]
    assert len(rows) == 30
    [guess] = [row for row in rows if row.expression == "W * softsign(Peak)"]
    assert (guess.origin, guess.status) == ("guess", "evaluated")
    assert TERMINALS["P"].name == "P"


def test_the_loop_is_driven_by_hand(in_place: Path) -> None:
    names: dict[str, Any] = {}
    run(sections("extending.md")["Driving the loop from a notebook"], names)
    assert names["row"].id == 20
    assert names["best"].fitness <= 0


def test_python_drives_the_search(in_place: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    pytest.importorskip("sympy")
    names: dict[str, Any] = {"Budget": Budget}
    shown = sections("python.md")
    shown.pop("llm-compressor")  # not installed beside this transformers: tests/integrations
    for code in shown.values():
        run(code, names)
    assert names["found"].candidates == 4
    with Study.open("mine.db") as study:
        rows = list(study.candidates())
        assert rows[0].expression == "W * sqrt(A * F)"
        assert len(rows) == 20
    assert "import torch" in names["score"].source
    # What was told by hand can be looked at like any other study.
    assert main(["study", "mine.db"]) == 0
    assert main(["report", "mine.db", "--output", "mine.html"]) == 0
