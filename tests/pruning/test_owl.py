import pytest
import torch
from tiny_models import make_model, make_tokens

from prunerzero.errors import InputError
from prunerzero.models.blocks import find_blocks
from prunerzero.models.compute import compute_for
from prunerzero.pruning.owl import SPREAD, owl_allocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.statistics.cache import gather_statistics

HALF = Pattern.parse("50%")


@pytest.fixture
def tools(own_cache):
    model = make_model()
    blocks = find_blocks(model)
    matrices = [matrix for block in blocks for matrix in block.matrices]
    compute = compute_for(model, "float32")
    tokens = make_tokens(2, 16)
    return blocks, gather_statistics(model, matrices, tokens, frozenset("A"), compute)


def test_a_block_with_outliers_is_pruned_less(tools):
    blocks, statistics = tools
    for matrix in blocks[-1].matrices:
        matrix.weight.view(-1)[::50] = 30.0
    allocation = owl_allocation(blocks, statistics, HALF)
    kinds = {matrix.kind for matrix in blocks[0].matrices}
    assert allocation.curves.keys() == kinds
    curves = set(allocation.curves.values())
    assert len(curves) == 1  # all matrices of a block alike
    (curve,) = curves
    assert len(curve) == len(blocks)
    assert curve[-1] == min(curve) < 0
    assert max(curve) - min(curve) == pytest.approx(2 * SPREAD, abs=1e-5)
    assert sum(curve) == pytest.approx(0, abs=1e-5)


def test_the_share_of_outliers_is_the_papers(tools):
    blocks, statistics = tools
    shares = []
    for block in blocks:
        scores = torch.cat(
            [
                (matrix.weight.abs() * statistics.of(matrix, frozenset("A"))["A"]).flatten()
                for matrix in block.matrices
            ]
        )
        shares.append((scores > 3 * scores.mean()).double().mean().item())
    low, high = min(shares), max(shares)
    scaled = [(share - low) / (high - low) * 2 * 0.1 for share in shares]
    mean = sum(scaled) / len(scaled)
    (curve, *_) = owl_allocation(blocks, statistics, HALF, outlier=3, spread=0.1).curves.values()
    assert curve == pytest.approx([mean - one for one in scaled], abs=1e-5)


def test_equal_blocks_get_equal_sparsity(tools):
    blocks, statistics = tools
    (curve, *_) = owl_allocation(blocks, statistics, HALF, outlier=1e9).curves.values()
    assert set(curve) == {0.0}


def test_n_m_has_no_allocation(tools):
    with pytest.raises(InputError, match="2:4"):
        owl_allocation(*tools, Pattern.parse("2:4"))
