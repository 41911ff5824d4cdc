from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from prunerzero.errors import InputError
from prunerzero.metric import (
    OPERATORS,
    TERMINALS,
    Metric,
    Operator,
    Shape,
    Sign,
    Terminal,
    kernels,
    operators,
    terminals,
)
from prunerzero.metric.types import NON_NEGATIVE


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    before = dict(OPERATORS), dict(TERMINALS)
    yield
    for registry, content in zip((OPERATORS, TERMINALS), before, strict=True):
        registry.clear()  # type: ignore[attr-defined]
        registry.update(content)  # type: ignore[attr-defined]


def test_a_users_operator() -> None:
    operators.register(
        Operator("softsign", 1, lambda x: x / (1 + x.abs()), "x / (1 + |x|)", error_growth=1)
    )
    metric = Metric.parse("softsign(W) * 2")
    assert torch.equal(metric.score(W=torch.tensor([[-1.0, 3.0]])), torch.tensor([[1.0, 1.5]]))


def _in_place(x: torch.Tensor) -> torch.Tensor:
    return x.mul_(2)


@pytest.mark.parametrize(
    ("kernel", "line"),
    [
        (lambda x: 1 / x, "is not finite on zeros"),
        (lambda x: x.log(), "is not finite on zeros"),
        (lambda x: x.sum(), r"must be torch.float32 \(3, 4\)"),
        (lambda x: x.double(), r"returned torch.float64"),
        (lambda x: 1.0, "returned float, no tensor"),
        (lambda x: x.nothing(), "raised on ones"),
        (lambda x: x - 2, "leaves its declared bounds on ones"),
        (_in_place, "changes its argument in place"),
    ],
)
def test_unusable_functions(kernel: Callable[..., Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        operators.register(Operator("mine", 1, kernel, "", bounds=lambda x: NON_NEGATIVE))
    assert "mine" not in OPERATORS


def test_taken_and_wrong_names() -> None:
    for name, line in (("sqrt", "taken"), ("W", "taken"), ("a b", "identifier")):
        with pytest.raises(InputError, match=line):
            operators.register(Operator(name, 1, torch.abs, ""))
    with pytest.raises(InputError, match="arity is 3"):
        operators.register(Operator("mine", 3, torch.abs, ""))
    with pytest.raises(InputError, match="taken"):
        terminals.register(Terminal("W", Shape.FULL, Sign.ANY, "", "", "weight"))


def test_a_users_terminal() -> None:
    terminals.register(
        Terminal("Mean", Shape.COLUMN, Sign.ANY, "mean input", "scale-free", "activation")
    )
    metric = Metric.parse("W * Mean")
    assert metric.sign is Sign.ANY
    assert metric.terminals == {"W", "Mean"}


def test_the_papers_fifteen() -> None:
    assert sum(operator.paper for operator in OPERATORS.values()) == 15


def test_the_language_needs_no_torch() -> None:
    code = (
        "import sys; from prunerzero.metric import Metric; "
        "Metric.parse('2 * W * A').simplify().canonical(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_false_promise_of_row_locality() -> None:
    mine = Operator("mine", 1, lambda x: x - x.mean(0, keepdim=True), "", row_local=True)
    with pytest.raises(InputError, match="declared row-local, yet other rows change one on a ramp"):
        operators.register(mine)
    operators.register(
        Operator("mine", 1, lambda x: x - x.mean(1, keepdim=True), "", row_local=True)
    )


@pytest.mark.parametrize("exponent", [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 0.3])
def test_powers_without_logarithms(exponent: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.exp(torch.randn(5000, generator=generator) * 6).reshape(50, 100)
    exact = x.double() ** exponent
    normal = (exact > 1e-37) & (exact < 1e38)
    error = (kernels.power(-x, exponent).double() - exact).abs()[normal] / exact[normal]
    assert error.max() < 3 * 2**-23
    ends = torch.tensor([[0.0, -0.0, 1.0, -1.0, torch.inf, -torch.inf, torch.nan]])
    powers = kernels.power(ends, exponent)
    largest = torch.inf if exponent <= 1 else kernels.FLOAT32_MAX
    assert powers.tolist()[0][:6] == [0.0, 0.0, 1.0, 1.0, largest, largest]
    assert powers[0, 6].isnan()


def test_ratio_of_either_sign() -> None:
    a = torch.tensor([[6.0, 6.0, 1.0, 1.0, -1.0, 1.0]])
    b = torch.tensor([[2.0, -2.0, 0.0, -0.0, -1e-20, torch.inf]])
    expected = torch.tensor([[3.0, -3.0, 1e12, 1e12, 1e12, 0.0]])
    torch.testing.assert_close(kernels.ratio(a, b), expected)
