from __future__ import annotations

from unittest import mock

import pytest
import torch

from prunerzero.errors import InputError
from prunerzero.metric import OPERATORS, Metric
from prunerzero.metric.scoring import evaluate

GENERATOR = torch.Generator().manual_seed(0)
W = torch.randn(5, 8, generator=GENERATOR)
G = torch.randn(5, 8, generator=GENERATOR).abs()
X = torch.randn(1, 8, generator=GENERATOR) ** 2
MAX = torch.finfo(torch.float32).max


def score(text: str, **tensors: torch.Tensor) -> torch.Tensor:
    return Metric.parse(text).score(**{"W": W, "G": G, "X": X, **tensors})


def test_published_formulas() -> None:
    magnitude = W.abs()
    torch.testing.assert_close(score("W * sqrt(X)"), magnitude * X.sqrt())
    ria = (magnitude / magnitude.sum(0) + magnitude / magnitude.sum(1, keepdim=True)) * X**0.25
    torch.testing.assert_close(score("(W / colsum(W) + W / rowsum(W)) * X ** 0.25"), ria)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_dtype_is_scored_in_float32(dtype: torch.dtype) -> None:
    weight = torch.nn.Parameter(W.to(dtype))
    scores = score("W * W * G", W=weight, G=G.to(dtype))
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    assert torch.equal(scores, weight.detach().float() ** 2 * G.to(dtype).float())


def test_shapes() -> None:
    assert torch.equal(score("X", X=X[0]), X.expand(5, 8))
    assert torch.equal(Metric.parse("X").score(X=X[0]), X)
    assert torch.equal(score("0.25"), torch.full((5, 8), 0.25))
    assert score("rowsum(W)").shape == (5, 8)
    assert torch.equal(score("rowmax(X)"), X.max().expand(5, 8))
    assert torch.equal(score("colsum(X)"), X.expand(5, 8))  # over its own tensor, unbroadcast


def test_scores_are_the_callers_own() -> None:
    for text in ("G", "X", "skp(G)", "W"):
        scores = score(text, W=W.abs())
        before = G.clone(), X.clone()
        scores.fill_(0)
        assert torch.equal(G, before[0])
        assert torch.equal(X, before[1])


def test_edges() -> None:
    assert score("mms(0.5)").isnan().all()
    assert score("zsn(rowmean(colmean(W)))").isnan().all()
    assert not score("rowstd(rowsum(W))").any()
    assert torch.equal(score("div(X, W)"), X / W.norm() + 0 * W)
    torch.testing.assert_close(score("div(W, X)"), W.abs() / X.expand(5, 8).norm())
    assert torch.equal(score("exp(W + 200)"), torch.full((5, 8), torch.inf))
    weight = torch.tensor([[0.0, 2.0]])
    assert torch.equal(
        Metric.parse("W / (W - 2)").score(W=weight), torch.tensor([[0.0, 2.0 / 1e-12]])
    )
    assert torch.equal(
        Metric.parse("1e30 / neg(W * 1e-13)").score(W=weight), torch.tensor([[MAX, -MAX]])
    )
    assert torch.equal(Metric.parse("rown(W)").score(W=0 * weight), 0 * weight)


@pytest.mark.parametrize(
    ("tensors", "line"),
    [
        ({"W": W}, "needs terminal 'X'"),
        ({"W": W, "X": None}, "needs terminal 'X'"),
        (
            {"W": W, "X": X, "Q": X},
            "unknown terminal 'Q'; there are W, G, X, A, R, Amean, Avar, Hinv, Hfree, F, Gmean, "
            "G1, B",
        ),
        ({"W": W, "X": X[:, :4]}, r"X has shape \[1, 4\], must be \[1, 8\] as W is \[5, 8\]"),
        ({"W": W, "X": W}, r"X has shape \[5, 8\], must be \[1, 8\]"),
        ({"W": W[0], "X": X}, r"W must be a matrix, got shape \[8\]"),
        ({"W": W[:0], "X": X}, r"W must be a matrix, got shape \[0, 8\]"),
        ({"W": W.numpy(), "X": X}, "W must be a torch tensor, got ndarray"),
        ({"W": W.cfloat(), "X": X}, "W must be real"),
    ],
)
def test_wrong_tensors(tensors: dict[str, torch.Tensor], line: str) -> None:
    with pytest.raises(InputError, match=line):
        Metric.parse("W * sqrt(X)").score(**tensors)


def test_equal_subexpressions_are_computed_once() -> None:
    calls = []

    def log(x: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        return x

    from dataclasses import replace

    with mock.patch.dict(OPERATORS, log=replace(OPERATORS["log"], kernel=log)):
        evaluate(Metric.parse("log(W * X) + sqr(log(W * X))").expression, {"W": W, "X": X})
    assert len(calls) == 1
