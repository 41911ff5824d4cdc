import pytest

from prunerzero.errors import InputError
from prunerzero.reproduction.cells import Cell, Cells

CELL = Cell("perplexity", {"method": "wanda", "seed": 0})


def test_a_cell_is_found_by_what_determines_it(tmp_path):
    cells = Cells(tmp_path, {"model": "a"})
    assert cells.result(CELL) is None
    with pytest.raises(KeyError, match="method wanda"):
        cells[CELL]
    cells.add(CELL, {"losses": (1.0, 2.0)}, 0.5, 0)
    again = Cells(tmp_path, {"model": "a"})
    assert again[Cell("perplexity", {"seed": 0, "method": "wanda"})] == {"losses": [1.0, 2.0]}
    assert again.result(Cell("perplexity", {"method": "wanda", "seed": 1})) is None
    assert again.result(Cell("zero-shot", CELL.what)) is None
    assert Cells(tmp_path, {"model": "b"}).result(CELL) is None


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', '{"format": 2, "result": {}}'])
def test_a_damaged_file_is_refused(tmp_path, content):
    cells = Cells(tmp_path, {})
    cells.add(CELL, {}, 0.0, 0)
    [path] = tmp_path.iterdir()
    path.write_text(content)
    with pytest.raises(InputError, match="cell"):
        Cells(tmp_path, {}).result(CELL)
