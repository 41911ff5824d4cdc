import json
import os

import pytest
import torch
from tiny_models import make_model, make_text, make_tokenizer, make_tokens
from transformers import AutoModelForCausalLM, AutoTokenizer

from prunerzero.errors import InputError
from prunerzero.files import write_json
from prunerzero.models.blocks import prunable_matrices
from prunerzero.packing.checkpoint import DenseCheckpoint
from prunerzero.pruning.checkpoint import (
    pruned_from,
    refuse_seen,
    save_checkpoint,
    sealed,
    seen_documents,
)
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import prune
from prunerzero.recipe import Recipe

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(make_text(seed, 3000) for seed in range(4)))
    return path


def pruned(text, family="llama", dtype=torch.float32, **overrides):
    model = make_model(family, dtype=dtype, **overrides)
    result = prune(model, make_tokenizer(), Recipe.named("wanda"), Pattern.parse("2:4"),
                   calibration=str(text), samples=4, sequence_length=16)  # fmt: skip
    return model, result


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_loads_the_same_model(tmp_path, text, family, dtype):
    model, result = pruned(text, family, dtype)
    save_checkpoint(model, make_tokenizer(), result, tmp_path / "out", "toy")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.dtype is dtype
    for before, after in zip(prunable_matrices(model), prunable_matrices(again), strict=True):
        assert torch.equal(before.weight, after.weight)
        zeros = after.weight == 0
        assert zeros.sum() * 2 == zeros.numel()
        assert not torch.signbit(after.weight[zeros]).any()
    tokens = make_tokens(2)
    assert torch.equal(again(tokens).logits, model(tokens).logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("a b")["input_ids"] == make_tokenizer()("a b")["input_ids"]


def test_tied_weights_survive(tmp_path, text):
    model, result = pruned(text, tie_word_embeddings=True)
    save_checkpoint(model, None, result, tmp_path / "out", "toy")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_the_record_tells_how_it_was_made(tmp_path, text):
    model, result = pruned(text)
    save_checkpoint(model, None, result, tmp_path / "out", "toy")
    document = json.loads((tmp_path / "out" / "pruning.json").read_text())
    assert document["model"] == "toy"
    assert document["sparsity"] == 0.5
    assert [row["name"] for row in document["matrices"]] == [
        matrix.name for matrix in prunable_matrices(model)
    ]
    settings = document["settings"]
    assert Recipe.from_json(settings["recipe"]) == Recipe.named("wanda")
    assert settings["pattern"] == "2:4"
    assert settings["seed"] == 0
    assert settings["sequential"] is True
    assert settings["calibration"]["documents"]
    assert {"prunerzero", "torch", "transformers", "python"} == document["versions"].keys()


def test_the_card_says_what_was_done_and_what_it_is_not(tmp_path, text):
    model, result = pruned(text, "gpt2")
    save_checkpoint(model, None, result, tmp_path / "out", "owner/toy")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "# toy, pruned to 2:4" in card
    assert "no smaller and no faster" in card
    assert "| all | `W * sqrt(X)` |" in card
    assert "| c_attn | 50.00% |" in card
    assert "4 windows of 16 tokens" in card
    command = next(line for line in card.splitlines() if line.startswith("prunerzero prune"))
    assert "--pattern 2:4 --seed 0" in command
    assert "--samples 4 --sequence-length 16" in command


def places(directory):
    """The file of every tensor."""
    tensors = DenseCheckpoint.open(directory).tensors
    return {info.name: file.path.name for info, file in tensors.items()}


def test_other_files_of_the_source_are_kept(tmp_path, text):
    model, result = pruned(text)
    model.save_pretrained(tmp_path / "source")
    for name in (
        "LICENSE",
        "vocab.txt",
        "README.md",
        "pytorch_model.bin",
        "generation_config.json",
    ):
        (tmp_path / "source" / name).write_text("{}")
    save_checkpoint(model, None, result, tmp_path / "out", str(tmp_path / "source"))
    assert {"LICENSE", "vocab.txt"} <= set(os.listdir(tmp_path / "out"))
    assert "pytorch_model.bin" not in os.listdir(tmp_path / "out")
    assert "no smaller" in (tmp_path / "out" / "README.md").read_text()
    assert "eos_token_id" in (tmp_path / "out" / "generation_config.json").read_text()


def test_it_is_sharded_as_the_source(tmp_path, text):
    model, result = pruned(text, num_hidden_layers=6)
    model.save_pretrained(tmp_path / "many", max_shard_size="60KB")
    model.save_pretrained(tmp_path / "one")
    count = len(list((tmp_path / "many").glob("*.safetensors")))
    assert count > 2
    for source, expected in (("many", count), ("one", 1)):
        out = tmp_path / f"{source}-out"
        # Transformers saves the tensors of a model that it has loaded in another order.
        again = AutoModelForCausalLM.from_pretrained(tmp_path / source)
        save_checkpoint(again, None, result, out, str(tmp_path / source))
        assert places(out) == places(tmp_path / source)
        assert len(list(out.glob("*.safetensors"))) == expected
        assert (out / "model.safetensors.index.json").exists() == (expected > 1)
        again = AutoModelForCausalLM.from_pretrained(out)
        assert torch.equal(again(make_tokens(2)).logits, model(make_tokens(2)).logits)


def test_generation_settings_and_chat_template_are_kept(tmp_path, text):
    model, result = pruned(text)
    model.generation_config.temperature = 0.7
    model.generation_config.do_sample = True
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    save_checkpoint(model, tokenizer, result, tmp_path / "out", "toy")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert again.generation_config.temperature == 0.7
    chat = AutoTokenizer.from_pretrained(tmp_path / "out")
    said = [{"role": "user", "content": "hello"}]
    assert chat.apply_chat_template(said, tokenize=False) == "hello"


def test_everybody_can_read_it(tmp_path, text):
    model, result = pruned(text)
    save_checkpoint(model, make_tokenizer(), result, tmp_path / "out", "toy")
    for file in (tmp_path / "out").iterdir():
        assert file.stat().st_mode & 0o444 == 0o444


def test_what_a_model_has_seen_is_refused_and_remembered(tmp_path, text):
    model, result = pruned(text)
    save_checkpoint(model, make_tokenizer(), result, tmp_path / "one", "toy")
    seen = seen_documents(str(tmp_path / "one"))
    assert seen == frozenset(result.settings["calibration"]["documents"])
    with pytest.raises(InputError, match=r"text .*calibrated or selected on 1 of its documents"):
        refuse_seen(str(text), seen)
    other = tmp_path / "other.txt"
    other.write_text(make_text(99))
    refuse_seen(str(other), seen)
    # Pruned again on another text, the model has seen both.
    model, result = pruned(other)
    save_checkpoint(model, make_tokenizer(), result, tmp_path / "two", str(tmp_path / "one"))
    for used in (text, other):
        with pytest.raises(InputError, match="calibrated or selected"):
            refuse_seen(str(used), seen_documents(str(tmp_path / "two")))
    assert seen_documents("smollm2") == frozenset()


def test_documents_of_a_search_count_as_seen(tmp_path, text):
    model = make_model()
    provenance = {"texts": [{"documents": ["0123456789abcdef"]}]}
    recipe = Recipe.named("magnitude").model_copy(update={"provenance": provenance})
    result = prune(model, None, recipe, Pattern.parse("50%"))
    save_checkpoint(model, None, result, tmp_path / "out", "toy")
    assert seen_documents(str(tmp_path / "out")) == {"0123456789abcdef"}


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"settings": {"recipe": []}}'])
def test_a_record_that_is_not_ours(tmp_path, content):
    (tmp_path / "pruning.json").write_text(content)
    with pytest.raises(InputError, match="pruning record"):
        seen_documents(str(tmp_path))


def test_nothing_half_written(tmp_path, text):
    model, result = pruned(text)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError, match="cannot be written"):
        save_checkpoint(model, None, result, tmp_path / "full", "toy")

    class Broken:
        def save_pretrained(self, directory):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        save_checkpoint(model, Broken(), result, tmp_path / "new", "toy")
    assert sorted(os.listdir(tmp_path)) == before
    assert os.listdir(tmp_path / "full") == ["mine"]


def test_what_a_checkpoint_was_pruned_from(tmp_path):
    assert pruned_from(str(tmp_path)) is None
    assert pruned_from("meta-llama/Llama-2-7b-hf") is None
    settings = {"pattern": "50%"}
    record = {"model": "dense", "settings": settings}
    write_json(tmp_path / "pruning.json", sealed(record))
    assert pruned_from(str(tmp_path)) == ("dense", settings)
    write_json(tmp_path / "pruning.json", sealed({"model": "dense"}))
    with pytest.raises(InputError, match="not written by prunerzero, or altered"):
        pruned_from(str(tmp_path))
    altered = sealed(record) | {"model": "another"}
    write_json(tmp_path / "pruning.json", altered)
    with pytest.raises(InputError, match="checksum differs"):
        pruned_from(str(tmp_path))
