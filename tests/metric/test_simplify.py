from __future__ import annotations

import pytest

from prunerzero.errors import InputError
from prunerzero.metric import Metric


@pytest.mark.parametrize(
    ("text", "default", "paper"),
    [
        ("skp(neg(neg(W)))", "W", "W"),
        ("sqrt(sqr(zsn(W)))", "abs(zsn(W))", "abs(zsn(W))"),
        ("pow(sqrt(W)) * G", "W * G", "W * G"),
        ("sqr(sqrt(W)) - W", "sqr(sqrt(W)) - W", "W - W"),
        ("abs(W * W)", "W * W", "W * W"),
        ("exp(log(W))", "exp(log(W))", "W"),
        ("log(exp(W))", "log(exp(W))", "W"),
        ("W + G - W", "W + G - W", "G"),
        ("G + (W - G)", "G + (W - G)", "W"),
        ("div(W * G, G)", "div(W * G, G)", "W"),
        ("div(W, G) * G", "div(W, G) * G", "W"),
        ("W / G * G", "W / G * G", "W"),
        ("mms(mms(G))", "mms(G)", "mms(G)"),
        ("zsn(zsn(G))", "zsn(zsn(G))", "zsn(G)"),
        ("sqrt(-zsn(W))", "sqrt(zsn(W))", "sqrt(zsn(W))"),
        ("W - -G", "W + G", "W + G"),
        ("W * 1 + 0", "W", "W"),
    ],
)
def test_documented_rules(text: str, default: str, paper: str) -> None:
    assert str(Metric.parse(text).simplify()) == default
    assert str(Metric.parse(text).simplify("paper")) == paper


def test_unknown_mode() -> None:
    with pytest.raises(InputError, match="'default' or 'paper'"):
        Metric.parse("W").simplify("all")  # type: ignore[arg-type]
