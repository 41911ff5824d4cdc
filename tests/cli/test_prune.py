import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from damage import configure
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prunerzero.cli.app import main
from prunerzero.files import SPARE
from prunerzero.models.blocks import prunable_matrices
from prunerzero.recipe import Recipe
from prunerzero.streaming.journal import Journal


@pytest.fixture
def data(texts):
    return ("--calibration", texts / "calibration.jsonl", "--samples", 4, "--sequence-length", 32)


def test_writes_a_checkpoint(model, data, tmp_path, succeed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = succeed("prune", model, "--metric", "wanda", "--pattern", "2:4", "--output", "out",
                       *data, "--json")  # fmt: skip
    assert document["sparsity"] == 0.5
    assert document["seconds"] > 0
    assert document["peak_rss_bytes"] > 2**20
    assert document["output"] == str(tmp_path / "out")
    assert (document["expression"], document["group"]) == ("W * sqrt(X)", "-")
    pruned = AutoModelForCausalLM.from_pretrained("out")
    for matrix in prunable_matrices(pruned):
        assert ((matrix.weight == 0).reshape(-1, 4).sum(1) == 2).all()
    assert AutoTokenizer.from_pretrained("out")("a")["input_ids"]
    assert json.loads((tmp_path / "out/pruning.json").read_text())["sparsity"] == 0.5
    assert set(os.listdir(tmp_path)) <= {"out", "own-cache"}


def test_streaming_gives_the_same_weights(model, data, tmp_path, succeed):
    for option in ("--stream", "--no-stream"):
        document = succeed("prune", model, "--metric", "W * A * F", "--pattern", "50%", *data,
                           option, "--output", tmp_path / option, "--json")  # fmt: skip
        assert document["streamed"] == (option == "--stream")
        assert document["sparsity"] == 0.5
    first, second = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("--stream", "--no-stream")
    )
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])


def test_it_streams_by_itself_where_memory_is_short(
    model, data, tmp_path, succeed, capsys, monkeypatch
):
    monkeypatch.setattr("prunerzero.streaming.decision.available_memory", lambda: 100_000)
    arguments = ("prune", model, "--metric", "wanda", "--pattern", "2:4", *data)
    assert main([*map(str, arguments), "--output", str(tmp_path / "a")]) == 0
    assert "streaming: the weights are 0.0 GB, more than half of" in capsys.readouterr().err
    document = succeed(*arguments, "--output", tmp_path / "b", "--no-stream", "--json")
    assert document["streamed"] is False
    monkeypatch.setattr("prunerzero.streaming.decision.available_memory", lambda: None)
    assert succeed(*arguments, "--output", tmp_path / "c", "--json")["streamed"] is False


def test_it_goes_on_with_what_a_streamed_run_has_left(
    model, data, tmp_path, succeed, capsys, monkeypatch
):
    arguments = ("prune", model, "--metric", "wanda", "--pattern", "2:4", *data)
    arguments += ("--output", tmp_path / "out")
    commit = Journal.commit

    def stop(self, **done):
        commit(self, **done)
        if done.get("pruned") == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "commit", stop)
    assert main([*map(str, arguments), "--stream"]) == 130
    monkeypatch.setattr(Journal, "commit", commit)
    capsys.readouterr()
    assert main([*map(str, arguments[:-4]), "--sequence-length", "16", *map(str, arguments[-2:])])
    assert "other settings (calibration)" in capsys.readouterr().err
    assert succeed(*arguments, "--json")["streamed"] is True
    assert not (tmp_path / "out.partial").exists()


def test_the_same_command_gives_the_same_weights(model, data, tmp_path, succeed):
    for name in ("a", "b"):
        succeed("prune", model, "--metric", "W * A * F", "--pattern", "50%", *data,
                "--output", tmp_path / name)  # fmt: skip
    first, second = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in "ab")
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])


def test_a_recipe_file_and_its_group(model, data, tmp_path, succeed):
    Recipe.named("ria").save(tmp_path / "r.json")
    for option in ("--recipe", "--metric"):
        document = succeed("prune", model, option, tmp_path / "r.json", "--pattern", "50%",
                           "--output", tmp_path / option, *data, "--json")  # fmt: skip
        assert document["group"] == "matrix"
    document = succeed("prune", model, "--recipe", tmp_path / "r.json", "--pattern", "50%",
                       "--group", "row", "--one-shot", "--output", tmp_path / "row", *data,
                       "--json")  # fmt: skip
    assert document["group"] == "row"
    assert document["settings"]["sequential"] is False
    assert document["settings"]["recipe"]["group"] == "row"


def test_an_update_and_its_record(model, data, tmp_path, succeed):
    weights = {}
    for name, options in (("own", ()), ("none", ("--update", "none"))):
        output = tmp_path / name
        document = succeed("prune", model, "--metric", "sparsegpt", "--pattern", "2:4", *options,
                           "--output", output, *data, "--json")  # fmt: skip
        expected = "sparsegpt-adaptive" if name == "own" else "none"
        assert document["update"] == document["settings"]["recipe"]["update"] == expected
        assert document["sparsity"] == 0.5
        said = "updated along the way" if name == "own" else "as they were"
        assert said in (output / "README.md").read_text()
        weights[name] = load_file(output / "model.safetensors")
    key = "model.layers.0.mlp.down_proj.weight"
    assert not torch.equal(weights["own"][key], weights["none"][key])


def test_without_json_it_prints_a_summary(model, tmp_path, succeed):
    # Magnitude reads no calibration text, so a text of any length will do.
    (tmp_path / "t.txt").write_text("text")
    out = succeed("prune", model, "--metric", "magnitude", "--pattern", "50%",
                  "--calibration", tmp_path / "t.txt", "--output", tmp_path / "out")  # fmt: skip
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert rows["metric"] == "W"
    assert rows["sparsity"] == "50.0000%"
    assert rows["group"] == "matrix"


# What to add to a complete command, and what its line of error says.
WRONG = {
    "unknown metric": (["--metric", "wnada"], "did you mean 'wanda'"),
    "bad expression": (["--metric", "W * sqrrt(X)"], "column 5: unknown operator 'sqrrt'"),
    "no recipe file": (["--metric", "none.json"], "none.json: cannot be read"),
    "unrankable metric": (["--metric", "rowmean(W)"], "same score"),
    "150%": (["--pattern", "150%"], "between 0% and 100%"),
    "5:4": (["--pattern", "5:4"], "0 < N < M"),
    "0:4": (["--pattern", "0:4"], "0 < N < M"),
    "width": (["--pattern", "3:5"], "the width 32 of model.layers.0.self_attn.q_proj"),
    "unknown text": (["--calibration", "wikipedai"], "wikipedai"),
    "empty text": (["--calibration", "{texts}/empty.txt"], "the file is empty"),
    "binary text": (["--calibration", "{texts}/binary.txt"], "not a UTF-8 text file"),
    "short text": (["--calibration", "{texts}/short.txt"], "less than one window of 32"),
    "too few windows": (["--samples", "1000"], "1000 windows of 32 tokens were asked for"),
    "too long": (["--sequence-length", "65"], "above the model's limit of 64"),
    "length 1": (["--sequence-length", "1"], "greater than or equal to 2"),
    "group": (["--group", "column"], "'column' is not one of 'row', 'matrix', 'model'"),
    "device": (["--device", "cuda:99"], "device 'cuda:99'"),
    "full output": (["--output", "{texts}"], "not empty"),
    "file as output": (["--output", "{texts}/other.txt"], "is a file"),
    "unwritable output": (["--output", "{texts}/other.txt/out"], "cannot be written"),
    "both": (["--recipe", "r.json"], "either --metric"),
    "update": (["--update", "magic"], "'magic' is not one of 'none', 'sparsegpt', "),
    "not finite": (["--metric", "mms(W - W)"], "scores of model.layers.0.self_attn.q_proj"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input(model, data, texts, tmp_path, refuse, case):
    extra, message = WRONG[case]
    before = sorted(os.listdir(texts))
    extra = [one.format(texts=texts) for one in extra]
    line = refuse("prune", model, "--metric", "wanda", "--pattern", "50%", *data,
                  "--output", tmp_path / "out", *extra)  # fmt: skip
    assert message in line
    assert not (tmp_path / "out").exists()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
    assert sorted(os.listdir(texts)) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-model", "not a directory, not an alias (smollm2), and the hub"),
        ("./no-such-model", "no such file or directory"),
        ("{texts}", "no config.json"),
        ("{texts}/other.txt", "not a .gguf file"),
    ],
)
def test_unknown_models(data, texts, tmp_path, refuse, name, message):
    line = refuse("prune", name.format(texts=texts), "--metric", "magnitude", "--pattern", "50%",
                  *data, "--output", tmp_path / "out")  # fmt: skip
    assert message in line
    assert not (tmp_path / "out").exists()


def test_a_damaged_model(data, tmp_path, refuse, model):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text(Path(model, "config.json").read_text())
    (damaged / "model.safetensors").write_bytes(b"x" * 100)
    line = refuse("prune", damaged, "--metric", "magnitude", "--pattern", "50%", *data,
                  "--output", tmp_path / "out")  # fmt: skip
    assert "damaged/model.safetensors: truncated, altered or not a safetensors file" in line


def test_neither_metric_nor_recipe(model, tmp_path, refuse):
    assert "either --metric" in refuse("prune", model, "--pattern", "50%", "--output", tmp_path)


def test_too_little_disk_is_found_before_pruning(model, data, tmp_path, refuse, monkeypatch):
    monkeypatch.setattr("prunerzero.files.free_space", lambda _: 10**6)
    for option in ("--stream", "--no-stream"):
        line = refuse("prune", model, "--metric", "magnitude", "--pattern", "50%", *data,
                      "--output", tmp_path / "out", option)  # fmt: skip
        assert "0.00 GB free, but 0.02 GB are needed" in line
        assert not list(tmp_path.glob("out*"))


def test_shards_are_written_twice_and_both_are_counted(
    model, data, tmp_path, succeed, refuse, monkeypatch
):
    source = tmp_path / "source"
    shutil.copytree(model, source)
    whole = AutoModelForCausalLM.from_pretrained(model)
    weights = sum(parameter.nbytes for parameter in whole.parameters())
    run = ("prune", source, "--metric", "magnitude", "--pattern", "50%", *data, "--no-stream")
    for shard, needed in (("5GB", weights), ("30KB", 2 * weights)):
        (source / "model.safetensors").unlink()
        whole.save_pretrained(source, max_shard_size=shard)
        for free, fits in ((needed, True), (needed - 1, False)):
            monkeypatch.setattr("prunerzero.files.free_space", lambda _, n=free: n + SPARE)
            output = tmp_path / f"{shard}-{fits}"
            if fits:
                succeed(*run, "--output", output)
                first, second = ({p.name for p in d.glob("*.saf*")} for d in (source, output))
                assert first == second
            else:
                assert "GB are needed" in refuse(*run, "--output", output)
                assert not output.exists()


def test_permutes_for_nm_only(model, data, tmp_path, succeed, refuse):
    run = ("prune", model, "--metric", "wanda", *data, "--permute")
    document = succeed(*run, "--pattern", "2:4", "--output", tmp_path / "out", "--json")
    found = document["settings"]["permutation"]["matrices"]
    assert {name.split(".")[-1] for name in found} == {"o_proj", "down_proj"}
    assert "--permute" in (tmp_path / "out/README.md").read_text()
    assert document["sparsity"] == 0.5
    line = refuse(*run, "--pattern", "50%", "--output", tmp_path / "other")
    assert "permutation: 50% ranks whole rows" in line
    line = refuse(*run, "--pattern", "2:4", "--output", tmp_path / "other", "--stream")
    assert "--no-stream" in line
    shown = succeed(*run, "--pattern", "2:4", "--output", tmp_path / "shown")
    assert "inputs reordered  6 matrices" in shown


@pytest.fixture
def splittable(texts):
    """What can be cut into four splits."""
    return ("--calibration", texts / "calibration.jsonl", "--samples", 3, "--sequence-length", 32,
            "--dtype", "float32", "--pattern", "50%")  # fmt: skip


def test_auto_takes_the_best_of_the_zoo(model, splittable, texts, tmp_path, succeed, capsys):
    from prunerzero.cli.app import main

    arguments = ["prune", model, "--metric", "auto", *splittable, "--output", tmp_path / "out"]
    assert main([str(one) for one in [*arguments, "--json"]]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    chosen = document["chosen"]
    perplexities = chosen["perplexities"]
    assert chosen["name"] == min(perplexities, key=perplexities.get)
    assert perplexities.keys() >= {"wanda", "sparsegpt", "gblm", "obs", "wanda-plus-plus"}
    assert "moe-pruner" in chosen["left_out"]
    assert chosen["against"].keys() == perplexities.keys() - {chosen["name"]}
    assert f"takes {chosen['name']}: perplexity" in err
    assert "moe-pruner is left out: metric 'moe-pruner': terminal R" in err
    recipe = document["settings"]["recipe"]
    assert recipe["name"] == chosen["name"]
    assert document["sparsity"] == pytest.approx(0.5, abs=2e-3)
    # What it was chosen by is no text to report on.
    splits = [use["split"] for use in recipe["provenance"]["texts"]]
    assert splits[-1] == "validation"
    assert document["settings"]["calibration"]["split"] == "calibration"
    assert main(["evaluate", str(tmp_path / "out"), "--text", str(texts / "calibration.jsonl"),
                 "--sequence-length", "32"]) == 2  # fmt: skip
    assert "calibrated or selected on" in capsys.readouterr().err


def test_auto_keeps_to_its_time(model, splittable, tmp_path, succeed):
    document = succeed("prune", model, "--metric", "auto", "--budget", "0.001s", *splittable,
                       "--output", tmp_path / "out", "--json")  # fmt: skip
    chosen = document["chosen"]
    assert list(chosen["perplexities"]) == ["wanda"] == [chosen["name"]]
    assert "would take" in chosen["left_out"]["sparsegpt"]


def test_allocations_from_the_command_line(model, splittable, tmp_path, succeed):
    found = {}
    for name in ("uniform", "owl", "evolved"):
        document = succeed("prune", model, "--metric", "wanda", "--allocation", name,
                           "--allocation-budget", "1s", *splittable, "--output", tmp_path / name,
                           "--json")  # fmt: skip
        assert document["sparsity"] == pytest.approx(0.5, abs=2e-3)
        found[name] = document["settings"]["recipe"]
    assert found["uniform"]["allocation"] == {"name": "uniform"}
    assert found["owl"]["allocation"]["name"] == "curves"  # what it came to
    assert found["evolved"]["allocation"]["name"] == "curves"
    assert found["evolved"]["provenance"]["texts"][-1]["split"] == "selection"
    Recipe.from_json(found["owl"] | {"group": "row"}).save(tmp_path / "owl.json")
    again = succeed("prune", model, "--metric", "W * A", "--allocation", tmp_path / "owl.json",
                    *splittable, "--output", tmp_path / "again", "--json")  # fmt: skip
    assert again["settings"]["recipe"]["allocation"] == found["owl"]["allocation"]
    whole = succeed("prune", model, "--metric", "wanda", "--group", "model", *splittable,
                    "--output", tmp_path / "whole", "--json")  # fmt: skip
    assert whole["sparsity"] == pytest.approx(0.5, abs=2e-3)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--metric", "moe-pruner"], "this model has no router"),
        (["--metric", "auto", "--stream"], "measures recipes on the whole model in memory"),
        (["--metric", "auto", "--budget", "never"], "budget 'never'"),
        (["--metric", "wanda", "--allocation", "evolved", "--stream"], "--no-stream"),
        (["--metric", "wanda", "--allocation", "owl", "--stream"], "--no-stream"),
        (["--metric", "wanda", "--group", "model", "--stream"], "--no-stream"),
        (["--metric", "wanda", "--allocation", "nothing"], "allocation 'nothing'"),
    ],
)
def test_what_does_not_go_together(model, splittable, tmp_path, refuse, extra, message):
    assert message in refuse("prune", model, *splittable, *extra, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--stream", "--no-stream"])
def test_an_altered_record_is_found_before_pruning(model, data, tmp_path, refuse, option):
    source = tmp_path / "source"
    shutil.copytree(model, source)
    (source / "pruning.json").write_text('{"sparsity": 0.5}')
    line = refuse("prune", source, "--metric", "magnitude", "--pattern", "50%", *data,
                  "--output", tmp_path / "out", option)  # fmt: skip
    assert "pruning.json: not written by prunerzero, or altered" in line
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("option", ["--stream", "--no-stream"])
def test_another_models_tokenizer(model, data, tmp_path, refuse, option):
    source = tmp_path / "source"
    shutil.copytree(model, source)
    file = source / "tokenizer.json"
    document = json.loads(file.read_text())
    document["model"]["vocab"]["a"] = 5000
    file.write_text(json.dumps(document))
    line = refuse("prune", source, "--metric", "wanda", "--pattern", "50%", *data,
                  "--output", tmp_path / "out", option)  # fmt: skip
    assert "gives token ids up to 5000, but the model knows 256 tokens" in line


def test_code_that_comes_with_a_checkpoint_is_not_asked_about(model, data, tmp_path, refuse):
    source = tmp_path / "source"
    shutil.copytree(model, source)
    configure(source, model_type="strange", auto_map={"AutoConfig": "x.C", "AutoModel": "x.M"})
    for option in ("--stream", "--no-stream"):
        line = refuse("prune", source, "--metric", "magnitude", "--pattern", "50%", *data,
                      "--output", tmp_path / "out", option)  # fmt: skip
        assert "custom code" in line
