from __future__ import annotations

import pytest

from prunerzero.errors import InputError
from prunerzero.metric import Metric


@pytest.mark.parametrize(
    ("text", "row", "matrix", "model"),
    [
        # strictly increasing operations
        ("mms(log(W))", "W", "W", "mms(log(W))"),
        ("zsn(skp(W ** 0.3))", "W", "W", "zsn(W ** 0.3)"),
        ("div(W, G)", "W", "W", "div(W, G)"),
        ("sqr(zsn(W))", "abs(zsn(W))", "abs(zsn(W))", "abs(zsn(W))"),
        ("exp(W)", "exp(W)", "exp(W)", "exp(W)"),
        ("exp(tanh(W))", "tanh(W)", "tanh(W)", "tanh(W)"),
        ("tanh(mms(G))", "G", "G", "mms(G)"),
        # order reversed
        ("-mms(W)", "-W", "-W", "-mms(W)"),
        ("1 - W", "-W", "-W", "-W"),
        ("-2 * W", "-W", "-W", "-W"),
        ("-(-W * G)", "G * W", "G * W", "G * W"),
        # factors and terms
        ("2 * W * A", "A * W", "A * W", "A * W"),
        ("W * rowmean(colmean(W)) + 3", "W", "W", "W * rowmean(colmean(W))"),
        ("W / rowsum(W)", "W", "W / rowsum(W)", "W / rowsum(W)"),
        ("rown(W) * A", "A * W", "A * rown(W)", "A * rown(W)"),
        ("W + rowmax(G)", "W", "W + rowmax(G)", "W + rowmax(G)"),
        ("W * 0", "0 * W", "0 * W", "0 * W"),
        ("W / colsum(W)", "W / colsum(W)", "W / colsum(W)", "W / colsum(W)"),
        ("W * mms(G)", "W * mms(G)", "W * mms(G)", "W * mms(G)"),
        # one spelling
        ("(W * G) * A", "W * (A * G)", "W * (A * G)", "W * (A * G)"),
        ("W * W * G", "G * sqr(W)", "G * sqr(W)", "G * sqr(W)"),
        ("power(W - G, 2) * A", "A * sqr(W - G)", "A * sqr(W - G)", "A * sqr(W - G)"),
        # nothing dropped that could cancel: roundings of the sum would be large beside it
        ("(W - 1) + G", "G + (W - 1)", "G + (W - 1)", "G + (W - 1)"),
        ("rowsum(W)", "rowsum(W)", "rowsum(W)", "rowsum(W)"),
    ],
)
def test_canonical_forms(text: str, row: str, matrix: str, model: str) -> None:
    metric = Metric.parse(text)
    assert str(metric.canonical()) == row
    assert str(metric.canonical("matrix")) == matrix
    assert str(metric.canonical("model")) == model
    assert metric.canonical("matrix", nm=True) == metric.canonical("row")


def test_repeated_squares_end() -> None:
    metric = Metric.parse("pow(sqr(mms(F))) / colmax(W)")
    assert str(metric.canonical()) == "sqr(sqr(mms(F))) / colmax(W)"


def test_unknown_group() -> None:
    with pytest.raises(InputError, match="'row', 'matrix' or 'model'"):
        Metric.parse("W").canonical("layer")  # type: ignore[arg-type]


def test_rankable() -> None:
    Metric.parse("X").check_rankable()
    for text in ("rowsum(W)", "0.5", "colmean(rowmean(W))"):
        with pytest.raises(InputError, match="cannot rank"):
            Metric.parse(text).check_rankable()
