"""Statistics of the dense model, block by block, against those of the whole model."""

import pytest
import torch
from streaming.helpers import save
from tiny_models import make_model, make_tokens

from prunerzero.models.blocks import find_blocks
from prunerzero.models.compute import compute_for
from prunerzero.progress import silent
from prunerzero.statistics.collectors import (
    ABSOLUTE_GRADIENT,
    ACTIVATION,
    GRADIENT,
    REGIONAL,
    TOKENS,
    Sample,
    finish,
)
from prunerzero.statistics.gathering import gather_raw
from prunerzero.streaming import capture
from prunerzero.streaming.capture import Frame
from prunerzero.streaming.dense import DensePass
from prunerzero.streaming.journal import Journal
from prunerzero.streaming.skeleton import build_skeleton, read_config
from prunerzero.streaming.source import open_checkpoint
from prunerzero.streaming.store import WeightStore

CPU = torch.device("cpu")
WANTED = frozenset({ACTIVATION, TOKENS, GRADIENT, ABSOLUTE_GRADIENT, REGIONAL})
TERMINALS = frozenset({"A", "X", "G", "F", "G1", "B"})


def check_sums(family, tmp_path, dtype=torch.float32, tolerance=1e-5, **overrides):
    """Compares every terminal of every matrix with what one whole-model pass gathers."""
    directory = save(tmp_path / "source", family, dtype=dtype, **overrides)
    model, tokens = make_model(family, dtype=dtype, **overrides), make_tokens(4)
    compute = compute_for(model, None if dtype != torch.float32 else "float32")
    matrices = [matrix for block in find_blocks(model) for matrix in block.matrices]
    expected = gather_raw(model, matrices, tokens, WANTED, compute)

    checkpoint = open_checkpoint(directory)
    skeleton = build_skeleton(read_config(directory), dtype, CPU)
    blocks = find_blocks(skeleton)
    store = WeightStore(skeleton, blocks, checkpoint, dtype, CPU)
    frame = Frame(skeleton, blocks, store, compute)
    with Journal(tmp_path / "out.partial") as journal:
        journal.open({})
        frame.probe(tokens)
        dense = DensePass(frame, blocks, store, tokens, WANTED, compute, journal, silent)
        dense.gather()
        sample = Sample(tokens.shape[0], tokens.numel())
        for block in blocks:
            for matrix in block.matrices:
                found = dense.of(matrix, TERMINALS)
                if matrix.name in dense.unreached:
                    continue
                wanted = finish(TERMINALS, expected[matrix.name], sample)
                assert found.keys() == wanted.keys()
                for name, value in wanted.items():
                    scale = value.abs().max()
                    assert (found[name] - value).abs().max() <= tolerance * scale, matrix.name
        left = {path.name.split("-")[0] for path in journal.folder.iterdir()}
        assert left == {"journal.json", "lock", "sums"}
    assert all(parameter.is_meta for parameter in skeleton.parameters())


@pytest.mark.parametrize(
    "family", ["llama", "gpt2", "opt", "gemma2", "qwen3", "falcon", "mixtral", "gpt_oss"]
)
def test_gradients_equal_the_whole_models(family, tmp_path):
    check_sums(family, tmp_path)


@pytest.mark.parametrize("tied", [True, False])
def test_so_they_do_with_tied_embeddings_and_in_bfloat16(tied, tmp_path):
    check_sums("llama", tmp_path, torch.bfloat16, 2e-2, tie_word_embeddings=tied)


@pytest.mark.parametrize("logits", [256, 256 * 4, 256 * 15])
def test_so_they_do_when_the_head_works_on_a_few_positions(logits, tmp_path, monkeypatch):
    monkeypatch.setattr(capture, "HEAD_LOGITS", logits)
    check_sums("llama", tmp_path)


def test_hidden_states_come_from_disk_as_from_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("prunerzero.streaming.states.IN_MEMORY", 5000)
    check_sums("llama", tmp_path)
