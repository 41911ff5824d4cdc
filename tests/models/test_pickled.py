"""Checkpoints of pickle files: only when asked for, and tensors alone."""

import json
import os
import pickle

import pytest
import torch
from tiny_models import make_model, make_text, make_tokenizer, make_tokens, save_model

from prunerzero.cli.app import main
from prunerzero.errors import InputError
from prunerzero.models.loading import load_model
from prunerzero.models.pickled import without_pickle

pytestmark = pytest.mark.usefixtures("own_cache")


def pickled(directory, shards=1, **overrides):
    """A checkpoint as it was usual before safetensors."""
    save_model(directory, **overrides)
    (directory / "model.safetensors").unlink()
    state = make_model(**overrides).state_dict()
    names = list(state)
    if shards == 1:
        torch.save(state, directory / "pytorch_model.bin")
        return directory
    places = {}
    for number in range(shards):
        file = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin"
        mine = names[number::shards]
        torch.save({name: state[name] for name in mine}, directory / file)
        places |= dict.fromkeys(mine, file)
    index = {"metadata": {}, "weight_map": places}
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return directory


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_converted_once_when_allowed(tmp_path, own_cache, shards, tied):
    directory = pickled(tmp_path / "old", shards, tie_word_embeddings=tied)
    with pytest.raises(InputError, match=r"pickle files can run code.*--allow-pickle"):
        load_model(directory, device="cpu")
    model, tokenizer = load_model(directory, device="cpu", allow_pickle=True)
    tokens = make_tokens(2)
    expected = make_model(tie_word_embeddings=tied)
    assert torch.equal(model(tokens).logits, expected(tokens).logits)
    assert tokenizer("ab")["input_ids"] == make_tokenizer()("ab")["input_ids"]
    (converted,) = (own_cache / "models").iterdir()
    before = converted.stat().st_mtime_ns
    assert without_pickle(str(directory)) == str(converted)
    assert converted.stat().st_mtime_ns == before
    load_model(converted, device="cpu")


class Attack:
    def __reduce__(self):
        return os.mkdir, (os.environ["ATTACK"],)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_pickle_runs_nothing(tmp_path, own_cache, monkeypatch, legacy):
    monkeypatch.setenv("ATTACK", str(tmp_path / "attacked"))
    directory = pickled(tmp_path / "old")
    file = directory / "pytorch_model.bin"
    if legacy:
        file.write_bytes(pickle.dumps({"a": Attack()}))
    else:
        torch.save({"a": Attack()}, file)
    with pytest.raises(InputError, match="holds more than tensors"):
        load_model(directory, device="cpu", allow_pickle=True)
    assert not (tmp_path / "attacked").exists()
    assert not list(own_cache.glob("models/*"))


def test_damaged_and_wrong_files(tmp_path):
    directory = pickled(tmp_path / "old", 2)
    index = directory / "pytorch_model.bin.index.json"
    document = json.loads(index.read_text())
    for place, message in (("../x.bin", "is no file name"), ("gone.bin", "missing")):
        document["weight_map"]["lm_head.weight"] = place
        index.write_text(json.dumps(document))
        with pytest.raises(InputError, match=message):
            without_pickle(str(directory))
    for content, message in ((["a"], "no mapping"), ({"a": 1}, "no mapping")):
        torch.save(content, directory / "pytorch_model.bin")
        with pytest.raises(InputError, match=message):
            without_pickle(str(directory))
    (directory / "pytorch_model.bin").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="damaged"):
        without_pickle(str(directory))


def test_other_models_are_left_alone(tmp_path, own_cache):
    directory = save_model(tmp_path / "new")
    torch.save({"a": Attack}, directory / "training_args.bin")
    for name in (str(directory), "owner/name", "x" * 300, str(tmp_path)):
        assert without_pickle(name) == name
    assert not own_cache.exists()


def test_the_command(tmp_path, capsys):
    directory = pickled(tmp_path / "old")
    arguments = ["prune", str(directory), "--metric", "magnitude", "--pattern", "50%", "--output"]
    (tmp_path / "text.txt").write_text(make_text(0))
    arguments += [str(tmp_path / "out"), "--calibration", str(tmp_path / "text.txt")]
    assert main(arguments) == 2
    assert "--allow-pickle" in capsys.readouterr().err
    assert main([*arguments, "--allow-pickle", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sparsity"] == pytest.approx(0.5, abs=0.02)
