import json
import os
import shutil
import tracemalloc

import pytest
from safetensors.torch import load_file, save_file

from prunerzero.errors import InputError
from prunerzero.models.loading import load_model
from prunerzero.packing.index import Entry, _digest, read_index
from prunerzero.packing.pack import pack
from prunerzero.packing.unpack import unpack

MATRIX = "model.layers.1.mlp.up_proj.weight"  # packed as nm4
NORM = "model.norm.weight"  # dense
SPARSE = "model.layers.0.mlp.down_proj.weight"  # bitmask, see below


@pytest.fixture
def packed(make_checkpoint, tmp_path):
    """A packed checkpoint of several files with every encoding in it."""
    dense = make_checkpoint()
    weights = load_file(dense / "model.safetensors")
    weights[SPARSE].view(-1)[::5] = 0
    save_file(weights, dense / "model.safetensors", metadata={"format": "pt"})
    result = pack(dense, tmp_path / "packed", shard_bytes=20_000)
    assert all(result.tensors.values())
    return tmp_path / "packed"


def refused(packed, message):
    """Both ways of reading refuse it, in one line."""
    for read in (
        lambda: unpack(packed, packed.parent / "back"),
        lambda: load_model(packed, device="cpu"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read()
        assert "\n" not in str(caught.value)
    assert not (packed.parent / "back").exists()


def file_of(packed, name):
    return packed / read_index(packed)[name].file


def change_entry(packed, name, **changes):
    """Alters the index and makes its checksum right again, as only a forger would."""
    path = packed / "packed.json"
    document = json.loads(path.read_text())
    document["tensors"][name] |= changes
    document["sha256"] = _digest(document["tensors"])
    path.write_text(json.dumps(document))


def test_truncated(packed):
    path = file_of(packed, MATRIX)
    os.truncate(path, path.stat().st_size - 1)
    refused(packed, f"{path.name}: truncated, altered")


def test_missing_file(packed):
    path = file_of(packed, MATRIX)
    path.unlink()
    refused(packed, f"{path.name}: missing")


@pytest.mark.parametrize("name", [MATRIX, NORM, SPARSE])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_any_altered_byte(packed, name, where):
    path = file_of(packed, name)
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for part, entry in header.items():
        if part.rpartition(":")[0] != name:
            continue
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        place = {"first": start, "middle": (start + end) // 2, "last": end - 1}[where]
        altered = bytearray(content)
        altered[place] ^= 1
        path.write_bytes(altered)
        refused(packed, f"{path.name}: tensor '{name}': altered")


def test_altered_header(packed):
    path = file_of(packed, SPARSE)
    content = path.read_bytes()
    for old, new in ((f"{SPARSE}:mask", f"{SPARSE}:mesk"), ("BF16", " F16")):
        path.write_bytes(content.replace(old.encode(), new.encode()))
        refused(packed, "altered|missing|is  F16")
    path.write_bytes(content.replace(b'"format":"pt"', b'"format":"pu"'))
    refused(packed, "altered, its header differs")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "format is not 'prunerzero-packed'"),
        ('{"format": "other"}', "format is not 'prunerzero-packed'"),
        ('{"format": "prunerzero-packed", "version": 2}', "version 2, .* reads 1; update"),
        ('{"format": "prunerzero-packed", "version": 1, "tensors": []}', "checksum differs"),
    ],
)
def test_another_index(packed, content, message):
    (packed / "packed.json").write_text(content)
    refused(packed, f"packed.json.*{message}")


def test_an_altered_index(packed):
    path = packed / "packed.json"
    text = path.read_text()
    path.write_text(text.replace("64,\n", "32,\n", 1))
    assert path.read_text() != text
    refused(packed, "packed.json: altered, its checksum differs")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (MATRIX, {"shape": [10**9, 10**9]}, "altered, .*:codes' is U8"),
        (SPARSE, {"shape": [10**9, 10**9]}, "altered, .*:mask' is U8"),
        (NORM, {"shape": [10**9, 10**9]}, "altered, .*:dense' is BF16"),
        (NORM, {"shape": [4, 8]}, "altered, .*:dense' is BF16"),
        (SPARSE, {"shape": [32, 60]}, "altered"),
        (SPARSE, {"dtype": "F16"}, "altered, .*:values' is BF16"),
        (SPARSE, {"dtype": "F3"}, "unknown type 'F3'"),
        (SPARSE, {"encoding": "dense"}, "there is no '.*:dense'"),
        (SPARSE, {"encoding": "zip"}, "encoding: Input should be"),
        (SPARSE, {"encoding": "nm4"}, "kept and axis belong to nm4"),
        (MATRIX, {"kept": 3}, "altered"),
        (MATRIX, {"kept": 4}, "kept: Input should be less"),
        (MATRIX, {"axis": 0}, "altered, its checksum differs"),
        (MATRIX, {"axis": 2}, "axis 2 is no dimension"),
        (MATRIX, {"shape": [64, -32]}, "shape: 1: Input should be greater"),
        (MATRIX, {"shape": [64.5, 32]}, "shape: 0: Input should be a valid integer"),
        (MATRIX, {"file": "../packed.safetensors"}, "file: String should match"),
        (MATRIX, {"file": "packed-00009-of-00009.safetensors"}, "missing"),
        (MATRIX, {"sha256": "0" * 64}, "altered, its checksum differs"),
        (MATRIX, {"more": 1}, "more: Extra inputs"),
    ],
)
def test_a_forged_index(packed, name, changes, message):
    change_entry(packed, name, **changes)
    tracemalloc.start()
    refused(packed, message)
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()


def test_a_tensor_that_is_in_no_file(packed):
    path = packed / "packed.json"
    document = json.loads(path.read_text())
    entry = document["tensors"].pop(NORM)
    document["sha256"] = _digest(document["tensors"])
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=f"not in the weight files, first {NORM}"):
        load_model(packed, device="cpu")
    document["tensors"]["model.morn.weight"] = entry
    document["sha256"] = _digest(document["tensors"])
    path.write_text(json.dumps(document))
    refused(packed, r"tensor 'model\.morn\.weight': missing")


def test_files_of_another_export(packed, tmp_path):
    """A weight file may be whole and yet not belong here."""
    weights = load_file(tmp_path / "dense" / "model.safetensors")
    weights[MATRIX] *= 2
    save_file(weights, tmp_path / "dense" / "model.safetensors", metadata={"format": "pt"})
    pack(tmp_path / "dense", tmp_path / "other", shard_bytes=20_000)
    path = file_of(packed, MATRIX)
    shutil.copy(tmp_path / "other" / path.name, path)
    refused(packed, "checksum differs")


def test_entries_say_what_they_need():
    whole = {"dtype": "F32", "shape": [4, 4], "file": "packed.safetensors", "sha256": "0" * 64}
    Entry.model_validate(whole | {"encoding": "nm4", "kept": 2, "axis": 1})
    for wrong in ({"encoding": "nm4", "kept": 2}, {"encoding": "dense", "axis": 1},
                  {"encoding": "nm4", "kept": True, "axis": 1}):  # fmt: skip
        with pytest.raises(ValueError):
            Entry.model_validate(whole | wrong)
