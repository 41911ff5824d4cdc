"""Scores that are a power of the weight times a fixed factor."""

import pytest
import torch

from prunerzero import Metric
from prunerzero.metric.scoring import ColumnScorer
from prunerzero.metric.separable import fixed_factors


def made_inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    full = {name: torch.rand(6, 16, generator=generator) + 0.1 for name in ("W", "F")}
    columns = {name: torch.rand(1, 16, generator=generator) + 0.1 for name in ("A", "Hfree")}
    return full | columns


@pytest.mark.parametrize(
    "text",
    [
        "W",
        "W ** 2 / Hfree",
        "W ** 2 / Hfree * F ** 0.3 * colmean(W) ** -0.2",
        "sqrt(W * A) * sqr(F)",
        "abs(W * W) * A ** 0.5",
    ],
)
def test_ranks_like_the_expression_however_the_weight_changes(text: str) -> None:
    expression, inputs = Metric.parse(text).expression, made_inputs()
    factors = fixed_factors(expression, inputs)
    assert factors is not None
    now = torch.rand(6, 16, generator=torch.Generator().manual_seed(1))
    scores = ColumnScorer(expression, inputs).columns(slice(0, 16), now).flatten()
    assert torch.equal((now * factors).flatten().argsort(), scores.argsort())


@pytest.mark.parametrize(
    "text",
    ["W + A", "W * (W + F)", "A / W", "exp(W)", "mms(W) * A", "coln(W)", "neg(W)", "W * log(A)"],
)
def test_none_where_the_scores_are_no_such_product(text: str) -> None:
    assert fixed_factors(Metric.parse(text).expression, made_inputs()) is None
