"""The derivatives of an updated matrix by what is pruned, against autograd through the update."""

import torch
from torch import Tensor

from prunerzero.statistics.hessian import factored
from prunerzero.updates.columnwise import derivatives, updated

COLUMNS = 150  # more than one block, the last one not whole


def softly_updated(weight: Tensor, upper: Tensor, pruned: Tensor) -> tuple[Tensor, Tensor]:
    """The update by its definition, for shares of a weight that go; and what each weight was."""
    values: list[Tensor] = []
    for column in range(weight.shape[1]):
        left = [upper[k, column] * pruned[:, k] * values[k] for k in range(column)]
        values.append(weight[:, column] - sum(left, start=torch.zeros_like(weight[:, 0])))
    found = torch.stack(values, 1)
    return (1 - pruned) * found, found


def test_derivatives_are_those_of_autograd() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, COLUMNS, generator=generator)
    factor = factored((inputs @ torch.randn(COLUMNS, COLUMNS, generator=generator)).T.cov())
    weight = torch.randn(5, COLUMNS, generator=generator)
    mask = torch.rand(5, COLUMNS, generator=generator) > 0.5
    target = torch.randn(5, COLUMNS, generator=generator)
    pruned = (~mask).double().requires_grad_()
    result, values = softly_updated(weight.double(), factor.upper.double(), pruned)
    torch.testing.assert_close(result.float(), updated(weight, mask, factor))
    (result - target).square().sum().backward()
    assert pruned.grad is not None
    gradient = 2 * (result - target).detach().float()
    found, worth = derivatives(weight, mask, gradient, factor)
    torch.testing.assert_close(found, values.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(worth, -pruned.grad.float(), rtol=1e-3, atol=1e-3)
