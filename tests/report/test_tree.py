"""The picture of an expression tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunerzero import Metric
from prunerzero.report.tree import draw_tree, main, place_nodes


def test_leaves_stand_side_by_side_and_parents_over_the_middle() -> None:
    placed = place_nodes(Metric.parse("W * sqrt(A + F)"))
    labels = [node.label for node in placed]
    assert labels == ["*", "W", "sqrt", "+", "A", "F"]
    by_label = dict(zip(labels, placed, strict=True))
    assert [by_label[leaf].x for leaf in "WAF"] == [0.0, 1.0, 2.0]
    assert by_label["+"].x == 1.5 == by_label["sqrt"].x
    assert by_label["*"].x == 0.75
    assert [node.y for node in placed] == [0, 1, 1, 2, 3, 3]
    assert placed[by_label["F"].parent or 0].label == "+"


def test_kinds_tell_terminals_constants_and_operators_apart() -> None:
    placed = place_nodes(Metric.parse("W ** 0.5"))
    assert [(node.label, node.kind) for node in placed] == [
        ("**", "operator"),
        ("W", "terminal"),
        ("0.5", "constant"),
    ]


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_draws_the_same_file_twice(tmp_path: Path, suffix: str) -> None:
    pictures = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for picture in pictures:
        draw_tree(Metric.named("ria"), picture)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert len(pictures[0].read_bytes()) > 2000


def test_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wanda", str(tmp_path / "tree.docx")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["W * Q", str(tmp_path / "tree.svg")]) == 2
    assert list(tmp_path.iterdir()) == []


def test_of_several_formulas_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = tmp_path / "two.json"
    two.write_text('{"metric": {"attention": "W * A", "mlp": "W * F"}}')
    picture = tmp_path / "tree.svg"
    assert main([str(two), str(picture)]) == 2
    assert "attention, mlp" in capsys.readouterr().err
    assert not picture.exists()
    assert main([str(two), str(picture), "mlp"]) == 0
    assert picture.exists()
