import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from prunerzero.errors import InputError
from prunerzero.packing.container import ShardWriter
from prunerzero.packing.shards import spread, written
from prunerzero.packing.weightfile import ITEM_BYTES, TensorInfo, WeightFile


def write(directory, tensors, limit=10**9, parts=("",)):
    """Arrays of unsigned integers by name, as shards named ``model``."""
    names = {1: "U8", 2: "U16", 4: "U32", 8: "U64"}
    infos = [TensorInfo(name, names[a.itemsize], a.shape) for name, a in tensors.items()]
    shards = spread(infos, "model", limit)
    for writer, tensor in written(directory, shards, parts, lambda *_: None):
        writer.add(tensor.name, tensor.dtype, tensor.shape, tensors[tensor.name])
    return shards


def test_safetensors_reads_what_is_written(tmp_path):
    generator = np.random.default_rng(0)
    tensors = {
        f'tensor "{n}" ü': generator.integers(0, 200, shape).astype(dtype)
        for n, (shape, dtype) in enumerate(
            [((), "u2"), ((0, 3), "u8"), ((5, 7), "u1"), ((4,), "u4"), ((2, 3, 4), "u8")]
        )
    }
    write(tmp_path, tensors)
    path = tmp_path / "model.safetensors"
    with safe_open(path, framework="numpy") as handle:
        assert set(handle.keys()) == tensors.keys()
        assert handle.metadata() == {"format": "pt"}
        for name, array in tensors.items():
            assert np.array_equal(handle.get_tensor(name), array)
    file = WeightFile.open(path)
    for name, array in tensors.items():
        assert np.array_equal(file.read(name), array)
        assert file.read(name).shape == array.shape
        assert file.offsets[name] % array.itemsize == 0


def test_reads_every_type_that_torch_writes(tmp_path):
    tensors = {
        str(dtype): torch.arange(12).reshape(3, 4).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64,
                      torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.complex64)
    }  # fmt: skip
    save_file(tensors, tmp_path / "m.safetensors")
    file = WeightFile.open(tmp_path / "m.safetensors")
    for name, tensor in tensors.items():
        bits = file.read(name)
        assert bits.itemsize == tensor.element_size() == ITEM_BYTES[file.tensors[name].dtype]
        assert bits.tobytes() == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


@given(
    counts=st.lists(st.integers(0, 30), max_size=12),
    widths=st.lists(st.sampled_from(["U8", "BF16", "F32"]), min_size=12, max_size=12),
    limit=st.integers(1, 100),
)
def test_shards_are_bounded_and_complete(counts, widths, limit):
    infos = [TensorInfo(str(n), widths[n], (count,)) for n, count in enumerate(counts)]
    shards = spread(infos, "packed", limit)
    assert sorted(t.name for held in shards.values() for t in held) == sorted(t.name for t in infos)
    for held in shards.values():
        assert sum(t.nbytes for t in held) <= limit or sum(1 for t in held if t.nbytes) == 1
    if len(shards) > 1:
        assert min(shards) == f"packed-00001-of-{len(shards):05}.safetensors"
    else:
        assert list(shards) == ["packed.safetensors"]


def test_an_interrupted_file_is_unreadable(tmp_path):
    path = tmp_path / "m.safetensors"

    def fail():
        with ShardWriter(path, [TensorInfo("a", "U8", (1000,))], ("",)) as writer:
            writer.add("a", "U8", (1000,), np.ones(1000, np.uint8))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with pytest.raises(InputError, match="not a safetensors file"):
        WeightFile.open(path)


def test_damaged_files(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(InputError, match="missing"):
        WeightFile.open(path)
    write(tmp_path, {"a": np.ones(1000, np.uint8)})
    whole = path.read_bytes()
    file = WeightFile.open(path)
    for length in (0, 4, 60, len(whole) - 1):
        os.truncate(path, length)
        with pytest.raises(InputError, match="truncated, altered or not a safetensors file"):
            WeightFile.open(path)
        with pytest.raises(InputError, match="truncated"):
            file.read("a")
        path.write_bytes(whole)
    path.unlink()
    with pytest.raises(InputError, match="missing"):
        file.read("a")
    header = json.dumps({"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"xx")
    with pytest.raises(InputError, match="tensor 'a' is F4"):
        WeightFile.open(path)
