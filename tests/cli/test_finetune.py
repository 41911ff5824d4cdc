import json

import pytest


@pytest.fixture
def pruned(model, texts, tmp_path, succeed):
    succeed("prune", model, "--metric", "magnitude", "--pattern", "2:4", "--output",
            tmp_path / "pruned", "--calibration", texts / "calibration.jsonl")  # fmt: skip
    return tmp_path / "pruned"


@pytest.fixture
def data(texts):
    return ("--calibration", texts / "calibration.jsonl", "--text", texts / "other.txt",
            "--sequence-length", 16, "--batch", 2, "--steps", 2)  # fmt: skip


def test_finetunes_beside_the_dense_model(pruned, data, tmp_path, succeed):
    document = succeed("finetune", pruned, *data, "--json")
    assert document["perplexity_before"] > 1
    assert document["perplexity_after"] > 1
    assert document["sparsity"] == 0.5
    assert document["steps"] == document["dense"]["steps"] == 2
    assert document["output"] == f"{pruned}-finetuned"
    record = json.loads((tmp_path / "pruned-finetuned/pruning.json").read_text())
    assert record["finetuning"][0]["perplexity_after"] == document["perplexity_after"]
    evaluated = succeed("evaluate", f"{pruned}-finetuned", "--text", data[3],
                        "--sequence-length", 16, "--json")  # fmt: skip
    assert evaluated["perplexity"]["other.txt"] == pytest.approx(
        document["perplexity_after"], rel=1e-6
    )


def test_prints_a_table(pruned, data, succeed):
    shown = succeed("finetune", pruned, *data, "--rank", 2)
    assert "pruned, zeros kept" in shown
    assert "dense, tuned equally" in shown
    assert "zeros: 50.0000%" in shown


def test_refuses(model, pruned, data, tmp_path, refuse):
    assert "holds no pruning.json" in refuse("finetune", model, *data)
    assert "budget 'soon'" in refuse("finetune", pruned, *data, "--budget", "soon")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert "not empty" in refuse("finetune", pruned, *data, "--output", tmp_path / "full")
    assert "--no-control" in refuse("finetune", pruned, *data, "--against", tmp_path / "gone")
    assert not (tmp_path / "pruned-finetuned.partial").exists()
