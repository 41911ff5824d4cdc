import pytest
import torch
from tiny_models import block_outputs, make_model, make_tokens

from prunerzero.errors import InputError
from prunerzero.evaluation.block_errors import block_errors, relative_error
from prunerzero.models.blocks import find_blocks
from prunerzero.models.compute import compute_for


def altered(family="llama", block=1):
    """A model of which one block lost half of a matrix."""
    model = make_model(family)
    weight = find_blocks(model)[block].matrices[0].weight
    weight[: len(weight) // 2] = 0
    return model


def errors(model, dense, tokens):
    return block_errors(
        model, dense, tokens, compute_for(model, "float32"), compute_for(dense, "float32")
    )


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt"])
def test_a_block_alone_and_with_those_before(family):
    dense, model, tokens = make_model(family), altered(family), make_tokens(5)
    found = errors(model, dense, tokens)
    assert [error.local > 0 for error in found] == [False, True, False]
    assert found[0].cumulative == 0
    assert found[1].cumulative == found[1].local  # its input is still the dense model's
    assert found[2].cumulative > 0
    # Against whole passes.
    expected = block_outputs(dense, find_blocks(dense), tokens)
    outputs = block_outputs(model, find_blocks(model), tokens)
    for error, output, wanted in zip(found, outputs, expected, strict=True):
        plain = ((output - wanted).norm(dim=-1) / wanted.norm(dim=-1)).mean()
        assert error.cumulative == pytest.approx(float(plain), rel=1e-4, abs=1e-6)


def test_one_large_token_does_not_hide_the_others():
    wanted = torch.ones(1, 4, 3)
    wanted[0, 0] = 1e6
    output = wanted.clone()
    output[0, 1:] = 2
    assert relative_error([output], [wanted]) == pytest.approx(0.75)
    assert relative_error([wanted, wanted], [wanted, wanted]) == 0
    assert relative_error([torch.zeros(1, 1, 2)], [torch.zeros(1, 1, 2)]) == 0


def test_models_of_other_blocks_are_refused():
    dense, model = make_model(num_hidden_layers=2), make_model()
    with pytest.raises(InputError, match="the model has 3, the dense one 2"):
        errors(model, dense, make_tokens(2))
