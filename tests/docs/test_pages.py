"""The generated parts of the pages are as the code gives them now."""

from __future__ import annotations

from pathlib import Path

import pytest
from documented import ROOT

from prunerzero.errors import InputError
from prunerzero.metric.operators import OPERATORS
from prunerzero.metric.terminals import TERMINALS
from prunerzero.report.concepts import BLOCKS, SMOLLM2, allocation_lines
from prunerzero.report.reference import TABLES, markdown_table, refreshed

LANGUAGE = ROOT / "docs/metric-language.md"


def test_the_language_is_the_registrys() -> None:
    text = LANGUAGE.read_text()
    assert refreshed(text) == text, "run: make docs"
    for name in (*OPERATORS, *TERMINALS):
        assert f"| `{name}` |" in text
    for name in TABLES:
        assert f"<!-- table: {name} -->" in text


def test_a_new_terminal_would_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(TERMINALS, list(TERMINALS)[-1])  # the last comes back where it was
    text = LANGUAGE.read_text()
    assert refreshed(text) != text


def test_markers_that_name_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="no table 'colours'"):
        refreshed("<!-- table: colours --><!-- end of colours -->")
    with pytest.raises(InputError, match="no end"):
        refreshed("<!-- table: terminals --> and so on")


def test_bars_in_cells_are_escaped() -> None:
    assert markdown_table(["a"], [["|x|"]]).splitlines()[-1] == r"| \|x\| |"


def test_the_picture_of_the_allocation_spends_the_pattern() -> None:
    lines = allocation_lines()
    weights = {kind: rows * columns for kind, (rows, columns) in SMOLLM2.items()}
    pruned = sum(weights[kind] * sum(values) for kind, values in lines.items())
    assert pruned / (BLOCKS * sum(weights.values())) == pytest.approx(0.5, abs=1 / 576)


def test_every_page_is_in_the_navigation() -> None:
    configured = (ROOT / "mkdocs.yml").read_text()
    for page in sorted((ROOT / "docs").rglob("*.md")):
        assert f": {page.relative_to(ROOT / 'docs')}\n" in configured


def test_pictures_exist() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        for part in page.read_text().split("](images/")[1:]:
            assert Path(page.parent / "images" / part.partition(")")[0]).is_file()
