import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prunerzero.errors import InputError
from prunerzero.packing.index import is_packed, read_index
from prunerzero.packing.pack import pack
from prunerzero.packing.unpack import unpack
from prunerzero.pruning.checkpoint import RECORD


def tensors_of(directory):
    return {
        name: tensor
        for file in directory.glob("model*.safetensors")
        for name, tensor in load_file(file).items()
    }


def assert_same_bits(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype is second[name].dtype
        assert tensor.shape == second[name].shape
        if tensor.numel():
            assert torch.equal(
                tensor.reshape(-1).view(torch.uint8), second[name].reshape(-1).view(torch.uint8)
            )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_there_and_back(make_checkpoint, tmp_path, family, dtype):
    dense = make_checkpoint(family, dtype=dtype)
    packed = pack(dense, tmp_path / "packed")
    back = unpack(tmp_path / "packed", tmp_path / "back")
    assert_same_bits(tensors_of(dense), tensors_of(tmp_path / "back"))
    assert packed.nbytes == (tmp_path / "packed" / "packed.safetensors").stat().st_size
    assert packed.dense_nbytes == (dense / "model.safetensors").stat().st_size
    assert packed.ratio < 0.8
    assert packed.tensors == back.tensors
    assert packed.tensors["nm4"] >= 4 * 3  # GPT-2's too, whose groups lie along the columns
    assert back.nbytes == (tmp_path / "back" / "model.safetensors").stat().st_size
    AutoModelForCausalLM.from_pretrained(tmp_path / "back")


def test_everything_but_the_weights_is_copied(make_checkpoint, tmp_path):
    dense = make_checkpoint()
    (dense / "pytorch_model.bin").write_bytes(b"x")
    (dense / "chat_template.jinja").write_text("template")
    (dense / "additional_chat_templates").mkdir()
    (dense / "additional_chat_templates" / "tools.jinja").write_text("tools")
    pack(dense, tmp_path / "packed")
    unpack(tmp_path / "packed", tmp_path / "back")
    others = {name for name in os.listdir(dense) if "model.safetensors" not in name}
    others -= {"pytorch_model.bin"}
    assert {"config.json", "generation_config.json", "tokenizer.json", RECORD} <= others
    assert set(os.listdir(tmp_path / "packed")) == others | {"packed.json", "packed.safetensors"}
    assert set(os.listdir(tmp_path / "back")) == others | {"model.safetensors"}
    for name in others - {"additional_chat_templates"}:
        assert (tmp_path / "back" / name).read_bytes() == (dense / name).read_bytes()
    assert (tmp_path / "back" / "additional_chat_templates" / "tools.jinja").is_file()
    assert AutoTokenizer.from_pretrained(tmp_path / "packed")("a")["input_ids"]
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "packed")


def test_shards_both_ways(make_checkpoint, tmp_path):
    dense = make_checkpoint(max_shard_size=20_000)
    assert len(list(dense.glob("model-*.safetensors"))) > 3
    packed = pack(dense, tmp_path / "packed", shard_bytes=16_384)
    files = sorted((tmp_path / "packed").glob("packed-*.safetensors"))
    assert len(files) > 3
    assert packed.nbytes == sum(file.stat().st_size for file in files)
    assert packed.dense_nbytes == sum(f.stat().st_size for f in dense.glob("model-*.safetensors"))
    unpack(tmp_path / "packed", tmp_path / "back", shard_bytes=30_000)
    assert len(list((tmp_path / "back").glob("model-*.safetensors"))) > 2
    assert_same_bits(tensors_of(dense), tensors_of(tmp_path / "back"))
    AutoModelForCausalLM.from_pretrained(tmp_path / "back")


def test_half_of_a_large_matrix_takes_at_most_57_percent(make_checkpoint, tmp_path):
    dense = make_checkpoint(num_hidden_layers=0)
    weight = torch.randn(1024, 1024).bfloat16()
    weight[torch.rand_like(weight) < 0.5] = 0
    save_file({"weight": weight}, dense / "model.safetensors")
    packed = pack(dense, tmp_path / "packed")
    assert packed.tensors == {"dense": 0, "bitmask": 1, "nm4": 0}
    assert packed.ratio <= 0.57


def test_any_type_and_shape(make_checkpoint, tmp_path):
    dense = make_checkpoint(num_hidden_layers=0)
    generator = torch.Generator().manual_seed(0)
    tensors = {"scalar": torch.tensor(3.0), "empty": torch.empty(0, 4), "a:mask": torch.zeros(300)}
    for dtype in (torch.float64, torch.float32, torch.float8_e4m3fn, torch.int64, torch.bool,
                  torch.uint8, torch.complex64):  # fmt: skip
        tensor = torch.randint(0, 2, (5, 67), generator=generator) * 1.5
        tensors["a" if dtype is torch.float32 else str(dtype)] = tensor.to(dtype)
    tensors["a"][0] = torch.tensor([-0.0, torch.nan] * 33 + [torch.inf])
    save_file(tensors, dense / "model.safetensors")
    pack(dense, tmp_path / "packed", shard_bytes=2_000)
    unpack(tmp_path / "packed", tmp_path / "back")
    assert_same_bits(tensors_of(dense), tensors_of(tmp_path / "back"))
    entries = read_index(tmp_path / "packed")
    assert entries["a:mask"].encoding == entries["a"].encoding == "bitmask"


def test_progress_is_told(make_checkpoint, tmp_path):
    told = []
    pack(make_checkpoint(), tmp_path / "packed", report=lambda *step: told.append(step))
    count = len(read_index(tmp_path / "packed"))
    assert told == [("exporting", n, count) for n in range(1, count + 1)]


def spoil_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def only_pickle(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def shard_index(directory, weight_map):
    (directory / "model.safetensors").rename(directory / "model-1.safetensors")
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))


QUANTISED = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
NOT_A_SOURCE = {
    "quantised": (lambda d: spoil_config(d, **QUANTISED), "quantised"),
    "quantised text model": (lambda d: spoil_config(d, text_config=QUANTISED), "quantised"),
    "pickle": (only_pickle, "its weights are in pytorch_model.bin"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "no weight files"),
    "no config": (lambda d: (d / "config.json").unlink(), "no config.json"),
    "config": (lambda d: (d / "config.json").write_text("{"), "not valid JSON"),
    "config list": (lambda d: (d / "config.json").write_text("[]"), "not a JSON object"),
    "truncated": (lambda d: os.truncate(d / "model.safetensors", 5000), "truncated"),
    "shard missing": (lambda d: shard_index(d, {"a": "model-2.safetensors"}), "missing"),
    "shard elsewhere": (lambda d: shard_index(d, {"a": "../m.safetensors"}), "no file name"),
    "tensor missing": (lambda d: shard_index(d, {"a": "model-1.safetensors"}), "tensor 'a'"),
    "no map": (lambda d: shard_index(d, {}), "no weight_map"),
}


@pytest.mark.parametrize("case", NOT_A_SOURCE)
def test_other_sources_are_refused(make_checkpoint, tmp_path, case):
    spoil, message = NOT_A_SOURCE[case]
    dense = make_checkpoint()
    spoil(dense)
    with pytest.raises(InputError, match=message) as caught:
        pack(dense, tmp_path / "packed")
    assert "\n" not in str(caught.value)
    assert str(dense) in str(caught.value)
    assert os.listdir(tmp_path) == ["dense"]


def test_a_tensor_in_two_shards_is_refused(make_checkpoint, tmp_path):
    dense = make_checkpoint()
    shard_index(dense, {"a": "model-1.safetensors", "lm_head.weight": "model-2.safetensors"})
    save_file(
        {"a": torch.zeros(1), "lm_head.weight": torch.zeros(1)}, dense / "model-2.safetensors"
    )
    with pytest.raises(InputError, match=r"'lm_head.weight' is in model-1.safetensors too"):
        pack(dense, tmp_path / "packed")


def test_neither_way_twice(make_checkpoint, tmp_path):
    dense = make_checkpoint()
    pack(dense, tmp_path / "packed")
    assert is_packed(tmp_path / "packed")
    assert not is_packed(dense)
    with pytest.raises(InputError, match="is packed"):
        pack(tmp_path / "packed", tmp_path / "again")
    with pytest.raises(InputError, match=r"not packed, as it holds no packed.json"):
        unpack(dense, tmp_path / "again")
    with pytest.raises(InputError, match="no such directory"):
        pack(tmp_path / "none", tmp_path / "again")
    with pytest.raises(InputError, match="cannot be written"):
        pack(dense, tmp_path / "packed")


def test_nothing_half_written(make_checkpoint, tmp_path):
    dense = make_checkpoint()

    def fail(step, done, total):
        if done == 5:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        pack(dense, tmp_path / "packed", report=fail)
    assert os.listdir(tmp_path) == ["dense"]
