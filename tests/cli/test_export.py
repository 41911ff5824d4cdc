import os
import re
import shutil

import pytest
import torch
from damage import configure, poison, rewrite, store_codes
from safetensors.torch import load_file

from prunerzero.cli.app import main
from prunerzero.errors import InputError
from prunerzero.files import SPARE
from prunerzero.models.loading import load_model


@pytest.fixture
def pruned(model, texts, tmp_path, succeed):
    succeed("prune", model, "--metric", "magnitude", "--pattern", "50%", "--output",
            tmp_path / "pruned", "--calibration", texts / "calibration.jsonl",
            "--json")  # fmt: skip
    return tmp_path / "pruned"


def test_there_and_back(pruned, tmp_path, succeed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = succeed("export", pruned, "--format", "packed", "--output", "out", "--json")
    assert document["bytes"] == os.path.getsize("out/packed.safetensors")
    assert document["dense_bytes"] == os.path.getsize(pruned / "model.safetensors")
    assert document["ratio"] == document["bytes"] / document["dense_bytes"]
    assert document["ratio"] < 0.75
    assert document["output"] == str(tmp_path / "out")
    assert document["tensors"].keys() == {"dense", "bitmask", "nm4"}
    assert document["tensors"]["bitmask"] == 7 * 3
    again = succeed("export", "out", "--format", "dense", "--output", "back", "--json")
    assert again["bytes"] == again["dense_bytes"] == os.path.getsize("back/model.safetensors")
    first, second = load_file(pruned / "model.safetensors"), load_file("back/model.safetensors")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor.view(torch.int32), second[name].view(torch.int32))
    assert set(os.listdir("back")) == set(os.listdir(pruned))
    assert set(os.listdir(tmp_path)) <= {"out", "back", "pruned", "own-cache"}
    loaded, tokenizer = load_model("out", device="cpu")
    for name, tensor in load_model(pruned, device="cpu")[0].state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    assert tokenizer("a")["input_ids"]


def test_a_packed_directory_is_a_model(pruned, texts, tmp_path, succeed, refuse):
    succeed("export", pruned, "--output", tmp_path / "out")
    values = [
        succeed("evaluate", path, "--text", texts / "other.txt", "--sequence-length", 32,
                "--json")["perplexity"]["other.txt"]
        for path in (pruned, tmp_path / "out")
    ]  # fmt: skip
    assert values[0] == values[1] > 1
    path = tmp_path / "out" / "packed.safetensors"
    os.truncate(path, path.stat().st_size - 100)
    line = refuse("evaluate", tmp_path / "out", "--text", texts / "other.txt",
                  "--sequence-length", 32)  # fmt: skip
    assert "packed.safetensors: truncated" in line


def test_without_json_it_prints_a_summary(pruned, tmp_path, succeed):
    out = succeed("export", pruned, "--output", tmp_path / "out")
    rows = dict(line.split("  ", maxsplit=1) for line in out.splitlines())
    assert rows["format"].strip() == "packed"
    assert rows["tensors"].strip() == "9 dense, 21 bitmask, 0 nm4"
    assert rows["ratio"].strip().endswith("%")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "--format", "zip"], "'zip' is not one of 'packed', 'dense'"),
        (["{model}", "--format", "dense"], "not packed"),
        (["no-such"], "no such directory"),
        (["smollm2"], "no such directory"),
        (["{texts}"], "no config.json"),
        (["{model}", "--output", "{texts}"], "not empty"),
        (["{model}", "--output", "{texts}/other.txt"], "is a file"),
    ],
)
def test_bad_input(model, texts, tmp_path, refuse, arguments, message):
    arguments = [argument.format(model=model, texts=texts) for argument in arguments]
    line = refuse("export", "--output", tmp_path / "out", *arguments)
    assert message in line
    assert not (tmp_path / "out").exists()


def test_needs_an_output(model, refuse):
    assert "Missing option '--output'" in refuse("export", model)


def test_progress_goes_to_stderr(model, tmp_path, capsys):
    assert main(["export", str(model), "--output", str(tmp_path / "out"), "--json"]) == 0
    assert "exporting: 30/30" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_size": 64},
            "is [256, 32] in the weight files, but config.json makes it",
        ),
        ({"num_hidden_layers": 2}, "belongs to block 2, but config.json says that the model has 2"),
        ({"num_hidden_layers": 4}, "not in the weight files, first model.layers.3"),
    ],
)
def test_packed_weights_that_config_json_lies_about(
    changes, message, model, tmp_path, succeed, refuse
):
    packed = tmp_path / "packed"
    succeed("export", model, "--output", packed)
    configure(packed, **changes)
    line = refuse("export", packed, "--format", "dense", "--output", tmp_path / "out")
    assert message in line
    with pytest.raises(InputError, match=re.escape(message)):
        load_model(packed, device="cpu")
    assert not (tmp_path / "out").exists()


def test_too_little_disk_is_found_before_writing(pruned, tmp_path, succeed, refuse, monkeypatch):
    packed = succeed("export", pruned, "--output", tmp_path / "a", "--json")["bytes"]
    for free, fits in ((packed, True), (packed // 2, False)):
        for module in ("packing.pack", "files"):
            monkeypatch.setattr(f"prunerzero.{module}.free_space", lambda _, n=free: n + SPARE)
        if fits:
            succeed("export", pruned, "--output", tmp_path / "b", "--json")
        else:
            assert "GB are needed" in refuse("export", pruned, "--output", tmp_path / "c")
    assert "GB are needed" in refuse("export", tmp_path / "a", "--format", "dense",
                                     "--output", tmp_path / "d")  # fmt: skip
    assert set(os.listdir(tmp_path)) <= {"a", "b", "pruned", "own-cache"}


ODD = {
    "adapter": (lambda d: (d / "adapter_config.json").write_text("{}"), "an adapter"),
    "shapes": (lambda d: configure(d, hidden_size=64), "config.json makes it"),
    "NaN": (lambda d: rewrite(d, poison), "holds NaN or infinity"),
    "record": (lambda d: (d / "pruning.json").write_text("{}"), "not written by prunerzero"),
    "codes": (lambda d: rewrite(d, store_codes), "is I8, so quantised"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_no_checkpoint_of_weights(case, model, tmp_path, refuse):
    damage, message = ODD[case]
    source = tmp_path / "source"
    shutil.copytree(model, source)
    damage(source)
    assert message in refuse("export", source, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_that_is_not_there(tmp_path, refuse):
    assert "no such directory" in refuse("export", "nowhere", "--output", tmp_path / "out")


def test_a_packed_directory_without_its_configuration(pruned, tmp_path, succeed, refuse):
    succeed("export", pruned, "--output", tmp_path / "packed")
    (tmp_path / "packed" / "config.json").unlink()
    line = refuse("export", tmp_path / "packed", "--format", "dense", "--output", tmp_path / "out")
    assert "no config.json" in line
    assert not (tmp_path / "out").exists()
