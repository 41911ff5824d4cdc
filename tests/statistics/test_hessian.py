import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.errors import InputError, PrunerZeroWarning
from prunerzero.statistics.hessian import factored, invert_lower


def make_gram(size=30, tokens=100, seed=0):
    inputs = torch.randn(tokens, size, generator=torch.Generator().manual_seed(seed))
    return inputs.T @ inputs


def test_is_the_inverse_of_the_damped_matrix():
    gram = make_gram()
    factor = factored(gram, 0.05)
    damped = gram.double() + 0.05 * gram.double().diagonal().mean() * torch.eye(30)
    inverse = torch.linalg.inv(damped)
    upper = factor.upper.double()
    product = upper.T @ (factor.free.double()[:, None] * upper)
    torch.testing.assert_close(product, inverse, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(factor.diagonal.double(), inverse.diagonal(), rtol=1e-4, atol=0)
    assert torch.equal(factor.upper, factor.upper.triu())
    assert (factor.upper.diagonal() == 1).all()
    for column in (0, 7, 29):  # without the columns before it
        rest = torch.linalg.inv(damped[column:, column:])
        assert factor.free[column].item() == pytest.approx(rest[0, 0].item(), rel=1e-4)


@given(st.integers(1, 200), st.integers(0, 20))
def test_lower_triangles_are_inverted(size, seed):
    lower = torch.linalg.cholesky(make_gram(size, 2 * size + 10, seed))
    torch.testing.assert_close(invert_lower(lower) @ lower, torch.eye(size), rtol=0, atol=1e-3)


def test_damping_is_raised_until_the_factorisation_works():
    # Not positive semi-definite: its lowest eigenvalue is -2, with a mean diagonal of 1.
    gram = torch.full((4, 4), -1.0).fill_diagonal_(1.0)
    with pytest.warns(PrunerZeroWarning, match="not positive definite") as warned:
        factor = factored(gram)
    assert factor.damping == 10.0
    assert [str(w.message).split()[-1] for w in warned] == ["0.1", "1", "10"]
    assert torch.isfinite(factor.upper).all()


def test_damping_from_nothing():
    gram = torch.ones(5, 5)  # one direction only
    with pytest.warns(PrunerZeroWarning, match="with damping 0; going on with 0.0001"):
        assert factored(gram, 0.0).damping >= 1e-4


def test_what_is_no_gram_matrix_is_refused():
    gram = torch.full((40, 40), -1.0).fill_diagonal_(1.0)  # lowest eigenvalue -38
    with (
        pytest.warns(PrunerZeroWarning),
        pytest.raises(InputError, match="even with damping 10; must be X\\^T X"),
    ):
        factored(gram)
    with pytest.raises(InputError, match="must be square"):
        factored(torch.ones(3, 4))


def test_dead_inputs_count_for_little_and_disturb_nothing():
    gram = make_gram()
    gram[5], gram[:, 5] = 0, 0
    factor = factored(gram)
    assert factor.dead.nonzero().tolist() == [[5]]
    assert factor.free[5] > 10 * factor.free[:5].max()
    assert factor.upper[5].count_nonzero() == factor.upper[:, 5].count_nonzero() == 1
    assert factored(torch.zeros(4, 4)).dead.all()


def test_scale_does_not_matter():
    gram = make_gram()
    torch.testing.assert_close(factored(gram * 7).upper, factored(gram).upper)
