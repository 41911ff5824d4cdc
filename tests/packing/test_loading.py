import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import MIXTURES, make_tokens

from prunerzero.errors import InputError
from prunerzero.models.loading import load_model
from prunerzero.packing import loading
from prunerzero.packing.index import read_index
from prunerzero.packing.pack import pack
from prunerzero.packing.reader import PackedCheckpoint
from prunerzero.pruning.checkpoint import sealed, seen_documents


def both(dense, **options):
    """What ``load_model`` gives for the dense directory, and for the packed one."""
    target = dense.parent / "packed"
    if not target.exists():
        pack(dense, target, shard_bytes=30_000)
    return [load_model(path, device="cpu", **options)[0] for path in (dense, target)]


def assert_same_model(first, second):
    assert type(first) is type(second)
    assert first.dtype is second.dtype
    assert not second.training
    ours, theirs = second.state_dict(), first.state_dict()
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert tensor.dtype is ours[name].dtype
        assert torch.equal(tensor, ours[name])
    assert [n for n, _ in first.named_parameters()] == [n for n, _ in second.named_parameters()]
    assert first.generation_config.to_dict() == second.generation_config.to_dict()
    configs = [model.config.to_dict() | {"_name_or_path": ""} for model in (first, second)]
    assert configs[0] == configs[1]
    tokens = make_tokens(2)
    assert torch.equal(first(tokens).logits, second(tokens).logits)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2", *MIXTURES])
def test_gives_the_same_model(make_checkpoint, family):
    assert_same_model(*both(make_checkpoint(family)))


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_tied_embeddings(make_checkpoint, family):
    dense, packed = both(make_checkpoint(family, tie_word_embeddings=True))
    assert_same_model(dense, packed)
    assert packed.get_output_embeddings().weight is packed.get_input_embeddings().weight


@pytest.mark.parametrize("dtype", [None, "float32", "float16"])
def test_types(make_checkpoint, dtype):
    checkpoint = make_checkpoint()
    assert_same_model(*both(checkpoint, dtype=dtype))


def test_the_type_where_the_configuration_names_none(make_checkpoint):
    dense = make_checkpoint(dtype=torch.float16)
    config = json.loads((dense / "config.json").read_text())
    assert config.pop("dtype") == "float16"
    (dense / "config.json").write_text(json.dumps(config))
    weights = load_file(dense / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].float()
    save_file(weights, dense / "model.safetensors", metadata={"format": "pt"})
    first, second = both(dense)
    assert first.dtype is torch.float16
    assert_same_model(first, second)


@pytest.mark.parametrize("there", [True, False])
def test_generation_settings(make_checkpoint, there):
    dense = make_checkpoint()
    for path in (dense / "generation_config.json", dense / "config.json"):
        content = json.loads(path.read_text()) | {"max_new_tokens": 7}
        path.write_text(json.dumps(content))
    if not there:
        (dense / "generation_config.json").unlink()
    first, second = both(dense)
    assert second.generation_config.to_dict() == first.generation_config.to_dict()
    assert not there or second.generation_config.max_new_tokens == 7


def test_tokenizer_name_and_record(make_checkpoint, tmp_path):
    dense = make_checkpoint()
    record = {"settings": {"recipe": {}, "calibration": {"documents": ["ab"]}}, "model_seen": []}
    (dense / "pruning.json").write_text(json.dumps(sealed(record)))
    pack(dense, tmp_path / "packed")
    model, tokenizer = load_model(tmp_path / "packed", device="cpu")
    assert tokenizer("a b")["input_ids"]
    assert model.config.name_or_path == model.name_or_path == str(tmp_path / "packed")
    assert seen_documents(str(tmp_path / "packed")) == {"ab"}


def test_each_tensor_is_decoded_once_and_in_memory_of_its_own(make_checkpoint, monkeypatch):
    dense = make_checkpoint("mixtral")
    pack(dense, dense.parent / "packed")
    read = []
    plain = PackedCheckpoint.read
    monkeypatch.setattr(
        PackedCheckpoint, "read", lambda self, name: (read.append(name), plain(self, name))[1]
    )
    model, _ = load_model(dense.parent / "packed", device="cpu")
    assert sorted(read) == sorted(read_index(dense.parent / "packed"))
    for file in (dense.parent / "packed").glob("packed*"):
        file.write_bytes(b"")  # a mapped file would take the process down here
    assert torch.isfinite(model(make_tokens(1)).logits).all()


def test_another_configuration_is_refused_as_for_dense_files(make_checkpoint, tmp_path):
    pack(make_checkpoint(), tmp_path / "packed")
    path = tmp_path / "packed" / "config.json"
    config = json.loads(path.read_text())
    for change, message in (
        ({"num_hidden_layers": 4}, "not in the weight files"),
        ({"intermediate_size": 48}, "down_proj.*config.json makes it"),
        ({"model_type": "t5"}, "cannot be loaded"),
        ({"model_type": "vit"}, "cannot be loaded: ViTConfig configures no model"),
    ):
        path.write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=message):
            load_model(tmp_path / "packed", device="cpu")


def test_code_that_comes_with_the_checkpoint(make_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    dense = make_checkpoint()
    (dense / "modeling_own.py").write_text(
        "from transformers import LlamaForCausalLM\n\nclass Own(LlamaForCausalLM):\n    mine = 1\n"
    )
    path = dense / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}))
    for trusted, name in ((False, "LlamaForCausalLM"), (True, "Own")):
        _, packed = both(dense, trust_remote_code=trusted)
        assert type(packed).__name__ == name
        assert torch.isfinite(packed(make_tokens(1)).logits).all()


def test_types_that_torch_lacks(make_checkpoint, tmp_path, monkeypatch):
    pack(make_checkpoint(), tmp_path / "packed")
    monkeypatch.delitem(loading.DTYPES, "BF16")
    with pytest.raises(InputError, match="is BF16; unpack it"):
        load_model(tmp_path / "packed", device="cpu")


def test_the_model_can_be_changed_and_saved(make_checkpoint, tmp_path):
    pack(make_checkpoint("mixtral"), tmp_path / "packed")
    model, _ = load_model(tmp_path / "packed", device="cpu")
    model.lm_head.weight.zero_()
    model.save_pretrained(tmp_path / "again")
    again, _ = load_model(tmp_path / "again", device="cpu")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
