from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prunerzero.errors import InputError
from prunerzero.metric import Metric

W = {"data": "W"}


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ("W", "root: expected an object with 'data', got str"),
        ({}, "root: 'data' is missing"),
        ({"data": "mul", "left": W}, "root: operator 'mul' needs left and right, got left"),
        ({"data": "abs", "right": W}, "root: operator 'abs' needs left, got right"),
        (
            {"data": "abs", "left": {"data": "abs", "left": {"data": "Q"}}},
            "left.left: unknown terminal 'Q'; there are W, G, X, A, R, "
            "Amean, Avar, Hinv, Hfree, F, Gmean, G1, B",
        ),
        ({"data": "sqrtt", "left": W}, "root: unknown operator 'sqrtt'; did you mean 'sqrt'?"),
        ({"data": "W", "left": W}, "root: 'W' is a leaf and has no 'left'"),
        ({"data": "W", "name": 1}, "root: unknown key 'name'; there are 'data', 'left', 'right'"),
        ({"data": True}, "root: 'data' must be a name or a number, got bool"),
        ({"data": 10**400}, "root: the number is out of range"),
        ({"data": "power", "left": W, "right": W}, "root: the exponent must be a number"),
    ],
)
def test_errors_name_the_path(tree: Any, line: str) -> None:
    with pytest.raises(InputError) as caught:
        Metric.from_tree(tree)
    assert str(caught.value) == f"metric, {line}"


def test_hostile_depth_is_refused() -> None:
    tree: dict[str, Any] = W
    for _ in range(100_000):
        tree = {"data": "neg", "left": tree}
    with pytest.raises(InputError, match="levels deep"):
        Metric.from_tree(tree)


def test_constants_and_exponents() -> None:
    tree = {
        "data": "power",
        "left": {"data": "mul", "left": W, "right": {"data": 0.25}},
        "right": {"data": 2},
    }
    metric = Metric.from_tree(tree)
    assert str(metric) == "(W * 0.25) ** 2"
    assert metric.to_tree() == tree


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "tree.json"
    metric = Metric.parse("W * sqrt(X)")
    metric.save(path)
    assert Metric.load(path) == metric
    path.write_text('{"data": "Q"}')
    with pytest.raises(InputError, match=r"tree\.json: metric, root: unknown terminal 'Q'"):
        Metric.load(path)
    with pytest.raises(InputError, match="nothing"):
        Metric.load(tmp_path / "nothing.json")
    path.write_text('{"data":"neg","left":' * 50_000)
    with pytest.raises(InputError, match=r"tree\.json"):
        Metric.load(path)
