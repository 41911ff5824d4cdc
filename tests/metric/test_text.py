from __future__ import annotations

import pytest

from prunerzero.errors import InputError
from prunerzero.metric import Call, Constant, Leaf, Metric

W, G, X = Leaf("W"), Leaf("G"), Leaf("X")


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("W + G * X", Call("add", (W, Call("mul", (G, X))))),
        ("W - G - X", Call("sub", (Call("sub", (W, G)), X))),
        ("W / G / X", Call("ratio", (Call("ratio", (W, G)), X))),
        ("div(W, G)", Call("div", (W, G))),
        ("-W ** 2", Call("neg", (Call("power", (W, Constant(2))),))),
        ("(-W) ** -1e-3", Call("power", (Call("neg", (W,)), Constant(-0.001)))),
        ("-W * G", Call("mul", (Call("neg", (W,)), G))),
        ("W - -2", Call("sub", (W, Constant(-2)))),
        ("-(2)", Call("neg", (Constant(2),))),
        ("-2 ** 2", Call("neg", (Call("power", (Constant(2), Constant(2))),))),
        ("power(W, .5)", Call("power", (W, Constant(0.5)))),
        ("\n W\t", W),
    ],
)
def test_precedence_is_pythons(text: str, node: object) -> None:
    assert Metric.parse(text).expression == node


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("W + G *", "column 8: expected a terminal, a number, a call or '(', found the end"),
        ("W * G *sqrrt(X)", "column 8: unknown operator 'sqrrt'; did you mean 'sqrt'?"),
        ("W * w", "column 5: unknown terminal 'w'; did you mean 'W'?"),
        (
            "W * Q",
            "column 5: unknown terminal 'Q'; there are W, G, X, A, R, "
            "Amean, Avar, Hinv, Hfree, F, Gmean, G1, B",
        ),
        ("  ", "column 1: the text is empty; write a formula such as 'W * sqrt(X)'"),
        ("W G", "column 3: expected an operator, found 'G'"),
        ("W * (G + sqrt(X)", "column 5: '(' is never closed"),
        ("W)", "column 2: ')' closes nothing"),
        ("G + sqrt(W, G)", "column 5: 'sqrt' takes 1 argument, got 2"),
        ("sqrt", "column 1: 'sqrt' is an operator; write sqrt(...)"),
        ("W(G)", "column 1: 'W' is a terminal, not an operator"),
        ("W ** G", "column 6: the exponent of '**' must be a number"),
        ("W ** 2 ** 3", "column 6: the exponent of '**' must be a number"),
        ("W * 1e999", "column 5: constant inf is out of range: float32 ends at 3.4e38"),
        ("W * 1e-50", "column 5: constant 1e-50 is out of range: float32 begins at 1.2e-38"),
        ("W $ 2", "column 3: unexpected character '$'"),
        ("__import__(os)", "column 1: unknown operator '__import__'"),
    ],
)
def test_errors_name_the_column(text: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        Metric.parse(text)
    assert str(caught.value) == f"metric, {line}"


@pytest.mark.parametrize(
    "text", ["neg(" * 5000, "neg(" * 1500, "(" * 9000, "-" * 9000 + "W", "W+" * 4000 + "W"]
)
def test_hostile_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"levels|characters"):
        Metric.parse(text)


def test_text_is_what_one_would_write() -> None:
    for text in (
        "abs(W * W) * mms(G)",
        "W * sqrt(X)",
        "(W / colsum(W) + W / rowsum(W)) * X ** 0.25",
        "W - (G - X)",
        "-(W + G) ** -2",
    ):
        assert str(Metric.parse(text)) == text
