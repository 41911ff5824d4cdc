import pytest
import torch
from tiny_models import FAMILIES, block_outputs, make_model, make_tokens
from torch import nn

from prunerzero.errors import InputError
from prunerzero.models.blocks import find_blocks
from prunerzero.models.compute import compute_for
from prunerzero.models.replay import Replay
from prunerzero.models.watching import watch_inputs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_replay_equals_the_full_pass_block_by_block(family, batch):
    model, tokens = make_model(family), make_tokens(5)
    blocks = find_blocks(model)
    expected = block_outputs(model, blocks, tokens)
    replay = Replay(model, blocks, tokens, batch, compute_for(model, "float32"))
    for block, output in zip(blocks, expected, strict=True):
        replay.advance(replay.run(block))
        torch.testing.assert_close(torch.cat(replay.hidden), output, rtol=1e-4, atol=1e-5)


def test_replay_follows_changes_of_earlier_blocks():
    model, tokens = make_model("gemma2"), make_tokens(5)
    blocks = find_blocks(model)
    replay = Replay(model, blocks, tokens, 2, compute_for(model, "float32"))
    for block in blocks:
        for matrix in block.matrices:
            matrix.weight[:, ::2] = 0
        replay.advance(replay.run(block))
    expected = block_outputs(model, blocks, tokens)[-1]
    torch.testing.assert_close(torch.cat(replay.hidden), expected, rtol=1e-4, atol=1e-5)


def test_one_full_pass_serves_all_batches_of_one_shape():
    model = make_model()
    blocks = find_blocks(model)
    calls = []
    blocks[-1].matrices[0].module.register_forward_hook(lambda *_: calls.append(1))
    Replay(model, blocks, make_tokens(11), 2, compute_for(model, "float32"))
    # One checks that the model is a chain. Five batches of two windows need one pass; the last, of
    # one window, needs its own.
    assert len(calls) == 3
    assert not any("forward" in vars(block.module) for block in blocks)


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon", "mixtral"])
def test_a_pass_for_the_inputs_ends_before_the_last_product(family):
    model, tokens = make_model(family), make_tokens(6)
    blocks = find_blocks(model)
    replay = Replay(model, blocks, tokens, 2, compute_for(model, "float32"))

    def seen(run):
        """What the matrices were given, and how many passes came to their end."""
        met, outputs = [], []
        handles = watch_inputs(
            blocks[1].matrices, lambda matrix, inputs, _: met.append((matrix.name, inputs))
        )
        handles.append(blocks[1].module.register_forward_hook(lambda *_: outputs.append(1)))
        run(blocks[1])
        for handle in handles:
            handle.remove()
        return met, len(outputs)

    whole, passes = seen(replay.run)
    shown, complete = seen(replay.show)
    assert [name for name, _ in shown] == [name for name, _ in whole]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(shown, whole, strict=True))
    experts = any(matrix.siblings for matrix in blocks[1].matrices)
    assert passes == 3
    assert complete == (3 if experts else 1)


class ContentModel(nn.Module):
    """Gives its blocks an argument that depends on the tokens."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(256, 8)
        self.layers = nn.ModuleList([ContentBlock() for _ in range(2)])

    @property
    def base_model(self):
        return self

    def forward(self, ids, use_cache):
        hidden = self.embedding(ids)
        for layer in self.layers:
            hidden = layer(hidden_states=hidden, scale=ids[..., None] / 256)[0]
        return hidden


class ContentBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(8, 8)

    def forward(self, hidden_states, scale):
        return (hidden_states + scale * self.proj(hidden_states).tanh(),)


def test_arguments_that_depend_on_the_tokens_are_captured_for_every_batch():
    torch.manual_seed(0)
    model, tokens = ContentModel().requires_grad_(False), make_tokens(7)
    blocks = find_blocks(model)
    replay = Replay(model, blocks, tokens, 2, compute_for(model, "float32"))
    for block in blocks:
        replay.advance(replay.run(block))
    torch.testing.assert_close(torch.cat(replay.hidden), model(tokens, use_cache=False))


class BetweenModel(ContentModel):
    """Does something between its blocks."""

    def forward(self, ids, use_cache):
        hidden = self.embedding(ids)
        for layer in self.layers:
            hidden = 2 * layer(hidden_states=hidden, scale=1.0)[0]
        return hidden


class LoopingModel(ContentModel):
    """Runs its blocks twice."""

    def forward(self, ids, use_cache):
        hidden = self.embedding(ids)
        for layer in [*self.layers, *self.layers]:
            hidden = layer(hidden_states=hidden, scale=1.0)[0]
        return hidden


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (BetweenModel, r"layers\.1 is given something else than what layers\.0 returns"),
        (LoopingModel, r"layers\.0: runs more than once"),
    ],
)
def test_a_model_that_is_no_chain_of_blocks_is_refused(kind, message):
    model = kind().requires_grad_(False)
    with pytest.raises(InputError, match=message):
        Replay(model, find_blocks(model), make_tokens(3), 2, compute_for(model, "float32"))


def test_a_model_that_cannot_run_is_refused_in_one_line(monkeypatch):
    def forward(*_args, **_kwargs):
        raise RuntimeError("The size of tensor a (4) must match\nthe size of tensor b (8)")

    model = make_model()
    monkeypatch.setattr(model.model.layers[1].mlp, "forward", forward)
    compute = compute_for(model, "float32")
    with pytest.raises(
        InputError, match=r"LlamaForCausalLM': cannot run .*layers.1.mlp: .*\(4\) must match; "
    ):
        Replay(model, find_blocks(model), make_tokens(2), 2, compute)
