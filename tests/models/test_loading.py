import json
from unittest.mock import MagicMock

import pytest
import torch
from tiny_models import make_model, make_tokenizer, make_tokens, save_model

from prunerzero.errors import InputError
from prunerzero.models import loading
from prunerzero.models.hub import reachable
from prunerzero.models.loading import context_limit, load_model


def test_loads_a_checkpoint_with_its_tokenizer(tmp_path):
    model, tokenizer = load_model(save_model(tmp_path), device="cpu")
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert context_limit(model) == 64
    for name, tensor in make_model().state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
    assert tokenizer("ab c")["input_ids"] == make_tokenizer()("ab c")["input_ids"]


def test_weights_alone_have_no_tokenizer(tmp_path):
    make_model().save_pretrained(tmp_path)
    assert load_model(str(tmp_path), device="cpu")[1] is None


def test_dtype_is_the_checkpoints_unless_asked_for(tmp_path):
    make_model(dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert load_model(tmp_path, device="cpu")[0].dtype is torch.bfloat16
    assert load_model(tmp_path, device="cpu", dtype="float32")[0].dtype is torch.float32


def test_a_damaged_gguf_file_is_refused_and_leaves_nothing(tmp_path, own_cache):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + b"x" * 100)
    with pytest.raises(InputError, match="not a readable GGUF file"):
        load_model(tmp_path / "m.gguf")
    assert not own_cache.exists()


@pytest.mark.parametrize(("option", "message"), [
    ({"device": "cuda:99"}, "device 'cuda:99'"),
    ({"device": "nonsense"}, "device 'nonsense'"),
    ({"dtype": "int8"}, "dtype 'int8'"),
])  # fmt: skip
def test_wrong_options(tmp_path, option, message):
    with pytest.raises(InputError, match=message):
        load_model(tmp_path, **option)


def test_a_hub_id_is_asked_for_once(monkeypatch):
    # The suite runs in offline mode, so this is the message without internet.
    with pytest.raises(InputError, match=r"not a directory, not an alias \(smollm2\), and the hub"):
        load_model("no-such-model")


def test_the_hubs_answers(monkeypatch):
    from huggingface_hub import errors

    def answer(error):
        def model_info(self, name, timeout):
            if error:
                raise error

        monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)

    response = MagicMock()
    answer(None)
    assert reachable("gpt2")
    answer(errors.RepositoryNotFoundError("404\nlong text", response=response))
    with pytest.raises(InputError, match="there is no such model"):
        reachable("no/such")
    answer(errors.GatedRepoError("403", response=response))
    with pytest.raises(InputError, match="gated"):
        reachable("gated/model")
    answer(OSError("no network"))
    with pytest.raises(InputError, match="cannot be reached"):
        reachable("no/such")
    monkeypatch.setattr("prunerzero.models.hub.try_to_load_from_cache", lambda *_: "/there")
    assert not reachable("cached/model")
    assert loading.reachable is reachable


def test_a_quantised_checkpoint_and_an_adapter_are_refused(tmp_path):
    directory = save_model(tmp_path / "quantised")
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="quantised"):
        load_model(directory, device="cpu")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="merge it into its base model first"):
        load_model(adapter, device="cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sharded_checkpoints_of_any_precision(tmp_path, dtype):
    model = make_model(dtype=dtype)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    again, _ = load_model(tmp_path, device="cpu")
    assert again.dtype is dtype
    assert torch.equal(again(make_tokens(2)).logits, model(make_tokens(2)).logits)
