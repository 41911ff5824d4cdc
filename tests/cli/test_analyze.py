import pytest

from prunerzero.study import Study


def test_refusals(tmp_path, refuse):
    assert "does not exist" in refuse("analyze", tmp_path / "none.db")
    with Study.create(tmp_path / "s.db", {"pattern": "50%"}):
        pass
    assert "no settings of a search" in refuse("analyze", tmp_path / "s.db")
    for wrong in ("4,x", "0", "4,,8"):
        line = refuse("analyze", tmp_path / "s.db", "--sensitivity-samples", wrong)
        assert "--sensitivity-samples" in line or "is empty" in line
    assert "4:4" in refuse("analyze", tmp_path / "s.db", "--transfer-pattern", "4:4")
    assert "no such file" in refuse("analyze", tmp_path / "s.db", "--transfer-text", "none.txt")


@pytest.mark.parametrize("module", ["scipy.stats", "matplotlib"])
def test_a_missing_extra_is_named_before_anything_is_loaded(tmp_path, refuse, monkeypatch, module):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    line = refuse("analyze", tmp_path / "s.db", "--figures", tmp_path / "figures")
    assert f"prunerzero[{'plot' if module == 'matplotlib' else 'analysis'}]" in line
