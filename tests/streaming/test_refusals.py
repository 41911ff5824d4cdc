"""Bad input: one line that says what is wrong, and nothing written or lost."""

import os
import shutil
from collections import namedtuple

import pytest
from damage import DAMAGE
from streaming.helpers import HALF, save
from tiny_models import make_model, make_tokens

from prunerzero import Metric, Pattern
from prunerzero.errors import InputError
from prunerzero.packing.pack import pack
from prunerzero.streaming import prune_streamed

pytestmark = pytest.mark.usefixtures("own_cache")
Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_checkpoints(case, tmp_path):
    damage, shard, message = DAMAGE[case]
    source = save(tmp_path / "source", shard=shard)
    damage(source)
    before = sorted(os.listdir(source))
    with pytest.raises(InputError, match=message) as caught:
        prune_streamed(source, tmp_path / "out", Metric.parse("W * A"), HALF, device="cpu",
                       calibration=make_tokens())  # fmt: skip
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["source"]
    assert sorted(os.listdir(source)) == before


def test_packed_checkpoints(tmp_path):
    pack(save(tmp_path / "source"), tmp_path / "packed")
    with pytest.raises(InputError, match=r"is packed .*export.* or prune in memory"):
        prune_streamed(tmp_path / "packed", tmp_path / "out", Metric.parse("W"), HALF)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": Pattern.parse("3:5")}, "pattern 3:5: the width 32 of model.layers.0"),
        ({"recipe": Metric.parse("rowmean(W)")}, "same score"),
        ({"calibration": make_tokens(2, 65)}, "above the model's limit of 64"),
        ({"calibration": "wikipedia"}, "needs a tokenizer"),
        ({"dtype": "int8"}, "dtype 'int8'"),
        ({"device": "cuda:99"}, "device 'cuda:99'"),
    ],
)
def test_bad_arguments(options, message, tmp_path):
    source = save(tmp_path / "source")
    options = {"calibration": make_tokens(), "device": "cpu"} | options
    recipe, pattern = options.pop("recipe", Metric.parse("W * A")), options.pop("pattern", HALF)
    with pytest.raises(InputError, match=message):
        prune_streamed(source, tmp_path / "out", recipe, pattern, **options)
    assert set(os.listdir(tmp_path)) <= {"source", "own-cache"}


def test_a_full_or_occupied_output(tmp_path):
    source = save(tmp_path / "source")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    for name, message in (("full", "not empty"), ("full/file", "is a file")):
        with pytest.raises(InputError, match=message):
            prune_streamed(source, tmp_path / name, Metric.parse("W"), HALF, device="cpu")
    assert (tmp_path / "full/file").read_text() == "mine"
    assert os.listdir(tmp_path / "full") == ["file"]


def test_too_little_disk_is_found_before_anything_is_written(tmp_path, monkeypatch):
    source = save(tmp_path / "source")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 10**6))
    with pytest.raises(InputError, match=r"0\.00 GB free, but 0\.02 GB are needed"):
        prune_streamed(source, tmp_path / "out", Metric.parse("W"), HALF, device="cpu")
    assert os.listdir(tmp_path) == ["source"]


def test_a_disk_that_fills_up_later_loses_nothing(tmp_path, monkeypatch):
    source = save(tmp_path / "source")

    def full(_target, _tensors):
        raise OSError(28, "No space left on device", str(tmp_path / "out.partial/file"))

    monkeypatch.setattr("prunerzero.streaming.target.Target.write", full)
    with pytest.raises(InputError, match="no space left on device; what is done is kept in"):
        prune_streamed(source, tmp_path / "out", Metric.parse("W"), HALF, device="cpu")
    monkeypatch.undo()
    assert (tmp_path / "out.partial/journal.json").exists()
    prune_streamed(source, tmp_path / "out", Metric.parse("W"), HALF, device="cpu")
    assert sorted(os.listdir(tmp_path)) == ["out", "source"]


def test_models_that_are_no_chain_of_blocks(tmp_path, monkeypatch):
    source = save(tmp_path / "source")
    kind = type(make_model().model)
    forward = kind.forward

    def scaled(self, *args, **kwargs):
        # What a model does between its blocks: here the second block's input is doubled.
        second = self.layers[1]
        handle = second.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 2, *inputs[1:]))
        try:
            return forward(self, *args, **kwargs)
        finally:
            handle.remove()

    monkeypatch.setattr(kind, "forward", scaled)
    with pytest.raises(InputError, match=r"layers.1 is given something else .*--no-stream"):
        prune_streamed(source, tmp_path / "out", Metric.parse("W * A"), HALF, device="cpu",
                       calibration=make_tokens())  # fmt: skip
    assert os.listdir(tmp_path) == ["source"]


def test_blocks_whose_arguments_depend_on_other_blocks(tmp_path, monkeypatch):
    source = save(tmp_path / "source")
    kind = type(make_model().model)
    block = type(make_model().model.layers[0])
    forward, inside = kind.forward, block.forward

    def leaking(self, *args, **kwargs):
        seen = []

        def keep(_module, _inputs, output):
            seen.append(output)

        def give(_module, inputs, named):
            return inputs, named | {"extra": seen[-1].sum()}

        handles = [layer.register_forward_hook(keep) for layer in self.layers[:1]]
        handles += [
            layer.register_forward_pre_hook(give, with_kwargs=True) for layer in self.layers[1:]
        ]
        try:
            return forward(self, *args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    monkeypatch.setattr(kind, "forward", leaking)
    monkeypatch.setattr(block, "forward", lambda self, *a, extra=None, **k: inside(self, *a, **k))
    with pytest.raises(InputError, match=r"more of what other blocks compute .*--no-stream"):
        prune_streamed(source, tmp_path / "out", Metric.parse("W * A"), HALF, device="cpu",
                       calibration=make_tokens())  # fmt: skip
    assert os.listdir(tmp_path) == ["source"]
