"""The notebooks are sound, carry no output, and run from top to bottom on the demo model."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from documented import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = 900  # for one cell, where the machine is slow


def test_there_are_three() -> None:
    assert {path.stem for path in NOTEBOOKS} == {"first-metric", "own-terminal", "ship-it"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_sound_and_without_output(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            compile(cell.source, path.name, "exec")
            assert not cell.outputs
            assert cell.execution_count is None


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path) -> None:
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    client = NotebookClient(
        book, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute(env=os.environ | {"HF_HUB_OFFLINE": "1"})
    if keep := os.environ.get("PRUNERZERO_NOTEBOOKS"):  # to look at what they show
        nbformat.write(book, Path(keep) / path.name)
    kinds = {
        kind
        for cell in book.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        for kind in output.get("data", {})
    }
    assert "text/html" in kinds
    if path.stem != "first-metric":
        assert "image/png" in kinds
