import pickle

import pytest
import torch
from tiny_models import make_model, make_tokens

from prunerzero.evolution.executors.parcel import filled, pack
from prunerzero.evolution.executors.process import pack_workplace
from prunerzero.evolution.memo import Memo


def sent(value, *, writable=True):
    parcel, tensors = pack(value)
    buffer = bytearray(max(1, parcel.size))
    for start, content in filled(parcel, tensors):
        buffer[start : start + len(content)] = content
    # What travels knows no tensors.
    parcel = pickle.loads(pickle.dumps(parcel))  # noqa: S301  our own
    return parcel.open(buffer, writable=writable), buffer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("writable", [True, False])
def test_a_model_computes_the_same(dtype, writable):
    model, tokens = make_model(dtype=dtype, tie_word_embeddings=True), make_tokens(2)
    copy, _ = sent(model, writable=writable)
    assert torch.equal(copy(tokens).logits, model(tokens).logits)
    assert copy.lm_head.weight is copy.model.embed_tokens.weight
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert all(
        b.dtype == a.dtype for a, b in zip(model.parameters(), copy.parameters(), strict=True)
    )


def test_tensors_share_the_buffer_and_parameters_can_be_kept_from_it():
    values = {
        "a": torch.arange(5.0),
        "p": torch.nn.Parameter(torch.ones(3)),
        "e": torch.empty(0, 2),
    }
    shared, buffer = sent(values)
    apart, _ = sent(values, writable=False)
    before = bytes(buffer)
    with torch.no_grad():
        apart["p"].zero_()
        assert bytes(buffer) == before
        shared["p"].zero_()
    assert bytes(buffer) != before
    assert torch.equal(shared["a"], values["a"])
    assert shared["e"].shape == (0, 2)


def test_views_and_order_of_memory_do_not_matter():
    base = torch.arange(12.0).view(3, 4)
    found, _ = sent([base.T, base[1], base[:, ::2], base])
    assert [one.tolist() for one in found] == [base.T.tolist(), base[1].tolist(),
                                               base[:, ::2].tolist(), base.tolist()]  # fmt: skip


def test_a_memo_travels_empty():
    memo = Memo(1000)
    memo.recall("x", lambda: (torch.ones(2),))
    copy, _ = sent(memo)
    assert (copy.limit, copy.bytes) == (1000, 0)


def test_what_cannot_travel_is_said_in_one_line():
    with pytest.raises(ValueError, match=r"workers: this model cannot be sent .*executor serial"):
        pack_workplace(lambda: None)
