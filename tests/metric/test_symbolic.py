from __future__ import annotations

import builtins

import numpy as np
import pytest
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.errors import MissingExtraError
from prunerzero.metric import Metric

WEIGHT = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
INPUT = torch.rand(1, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("W * sqrt(X)", r"W \sqrt{X}"),
        ("abs(W * W) * mms(G)", r"W^{2} \operatorname{mms}{\left(G \right)}"),
        (
            "W ** 0.75 / colmean(W)",
            r"\frac{W^{\frac{3}{4}}}{\operatorname{colmean}{\left(W \right)}}",
        ),
    ],
)
def test_latex(text: str, latex: str) -> None:
    assert Metric.parse(text).to_latex() == latex


ELEMENTWISE = st.recursive(
    st.sampled_from(["W", "A", "Amean", "0.25", "3"]),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["abs", "sqrt", "log", "exp", "tanh", "sqr", "skp"]), inner).map(
            lambda pair: f"{pair[0]}({pair[1]})"
        ),
        st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda text: f"(({text}) ** 0.7)"),
    ),
    max_leaves=5,
)


@given(ELEMENTWISE)
def test_sympy_computes_the_scores(text: str) -> None:
    metric = Metric.parse(text)
    tensors = {"W": WEIGHT.abs(), "A": INPUT, "Amean": INPUT - 0.5}
    symbols = sorted(metric.terminals)
    compute = sympy.lambdify(
        [sympy.Symbol(name, real=True, nonnegative=name in ("W", "A") or None) for name in symbols],
        metric.to_sympy(),
        "numpy",
    )
    with np.errstate(all="ignore"):
        found = compute(*(tensors[name].double().numpy() for name in symbols))
    expected = metric.score(**{name: tensors[name] for name in symbols})
    sound = expected.isfinite() & (expected.abs() < 1e30)
    if symbols and sound.all():
        scale = float(expected.abs().max()) + 1.0
        np.testing.assert_allclose(
            np.broadcast_to(found, expected.shape), expected, rtol=1e-3, atol=1e-4 * scale
        )


def test_whole_matrix_operators_stay_functions() -> None:
    found = Metric.parse("div(W, A) + zsn(W)").to_sympy()
    names = {str(function.func) for function in found.atoms(sympy.Function)}
    assert names == {"norm", "zsn"}


def test_without_sympy(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def absent(name: str, *rest: object) -> object:
        if name == "sympy":
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    metric = Metric.parse("W * A")
    with pytest.raises(MissingExtraError, match=r"prunerzero\[notebook\]"):
        metric.to_sympy()
    assert metric._repr_html_() == "<code>W * A</code>"


def test_a_notebook_shows_it_typeset() -> None:
    html = Metric.parse("W * A")._repr_html_()
    assert "<math>" in html
    assert "<code>W * A</code>" in html
