import json
import math
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prunerzero.pruning.checkpoint import sealed

LENGTH = ("--sequence-length", 32)


def plain_perplexity(model, text):
    """A plain transformers loop over consecutive windows."""
    tokenizer, model = (
        AutoTokenizer.from_pretrained(model),
        AutoModelForCausalLM.from_pretrained(model),
    )
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    windows = ids[: len(ids) // 32 * 32].view(-1, 32)
    with torch.no_grad():
        losses = [model(window[None], labels=window[None]).loss.item() for window in windows]
    return math.exp(sum(losses) / len(losses))


def test_perplexity_is_that_of_a_plain_loop(model, texts, succeed):
    text = texts / "other.txt"
    document = succeed("evaluate", model, "--text", text, *LENGTH, "--dtype", "float32", "--json")
    expected = plain_perplexity(model, text.read_text())
    assert document["perplexity"] == {"other.txt": pytest.approx(expected, rel=1e-5)}
    assert document["model"] == model
    assert document["settings"]["compute"] == "cpu, float32"


def test_several_texts_in_one_table(model, texts, succeed):
    out = succeed("evaluate", model, "--text", texts / "other.txt",
                  "--text", texts / "calibration.jsonl", *LENGTH, "--seed", 3)  # fmt: skip
    lines = out.splitlines()
    assert all(word in lines[0] for word in (model, "32 tokens", "seed 3", "cpu"))
    assert [line.split()[0] for line in lines[2:5]] == ["text", "other.txt", "calibration.jsonl"]
    assert lines[2].split()[2:] == ["perplexity", "bits", "a", "byte"]
    assert lines[6].startswith("other.txt: consecutive windows of 32 tokens of the whole text")


def test_refuses_what_the_model_was_calibrated_on(model, texts, tmp_path, succeed, refuse):
    text = texts / "calibration.jsonl"
    succeed("prune", model, "--metric", "wanda", "--pattern", "50%", "--calibration", text,
            "--samples", 4, *LENGTH, "--output", tmp_path / "out")  # fmt: skip
    line = refuse("evaluate", tmp_path / "out", "--text", text, *LENGTH)
    assert "the model was calibrated or selected on" in line
    other = texts / "other.txt"
    document = succeed("evaluate", tmp_path / "out", "--text", other, *LENGTH, "--json")
    assert document["perplexity"]["other.txt"] > 1


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--text", "nonsense"], "nonsense"),
        (["--text", "{texts}/empty.txt"], "the file is empty"),
        (["--text", "{texts}/binary.txt"], "not a UTF-8 text file"),
        (["--text", "{texts}/short.txt"], "less than one window of 32"),
        (["--text", "{texts}/other.txt", "--sequence-length", "65"], "limit of 64"),
        (["--text", "{texts}/other.txt", "--text", "{texts}/other.txt"], "is there already"),
        (["--windows", "0"], "greater than or equal to 1"),
        (["--dtype", "int8"], "'int8' is not one of"),
        (["--text", "wikipedia"], "prunerzero assets fetch"),  # the cache is empty here
    ],
)
def test_bad_input(model, texts, refuse, extra, message):
    extra = [one.format(texts=texts) for one in extra]
    assert message in refuse("evaluate", model, *LENGTH, *extra)


def test_a_model_without_a_tokenizer(texts, tmp_path, refuse):
    from tiny_models import make_model

    make_model().save_pretrained(tmp_path / "bare")
    line = refuse("evaluate", tmp_path / "bare", "--text", texts / "other.txt", *LENGTH)
    assert "needs a tokenizer" in line


def test_a_byte_is_a_token_of_this_model(model, texts, succeed):
    document = succeed("evaluate", model, "--text", texts / "other.txt", *LENGTH, "--json")
    perplexity = document["perplexity"]["other.txt"]
    assert document["bits_per_byte"]["other.txt"] == pytest.approx(math.log2(perplexity))
    assert document["settings"]["texts"]["other.txt"]["protocol"] == {
        "context": 32,
        "part": "whole",
        "windows": "consecutive",
        "most_windows": None,
        "separator": "\n\n",
        "special_tokens": False,
    }


@pytest.fixture(scope="module")
def pruned(model, texts, tmp_path_factory):
    """The model at 50 %, with its record."""
    from prunerzero.cli.app import main

    output = tmp_path_factory.mktemp("pruned") / "out"
    assert main(["prune", model, "--metric", "wanda", "--pattern", "50%", "--samples", "4",
                 "--calibration", str(texts / "calibration.jsonl"), "--sequence-length", "32",
                 "--output", str(output)]) == 0  # fmt: skip
    return output


def test_against_another_model(model, pruned, texts, succeed):
    text = ("--text", texts / "other.txt", *LENGTH, "--dtype", "float32")
    document = succeed("evaluate", pruned, "--against", model, *text, "--json")
    alone = succeed("evaluate", pruned, *text, "--json")
    dense = succeed("evaluate", model, *text, "--json")
    assert document["perplexity"] == alone["perplexity"]
    assert document["dense_perplexity"] == dense["perplexity"]
    change = document["change"]["other.txt"]
    expected = alone["perplexity"]["other.txt"] / dense["perplexity"]["other.txt"] - 1
    assert change["change"] == pytest.approx(expected, rel=1e-6)
    assert change["low"] < change["change"] < change["high"]
    out = succeed("evaluate", pruned, "--against", model, *text)
    assert "change against it (95 %)" in out
    assert f"dense: {model}" in out


def test_deep_finds_the_dense_model_itself(model, pruned, texts, succeed):
    text = ("--text", texts / "other.txt", "--text", texts / "calibration.jsonl")
    counted = ("--calibration", texts / "other.txt", *LENGTH)
    only = text[:2]
    document = succeed("evaluate", pruned, "--deep", *only, *counted, "--json")
    assert document["against"] == model
    deep = document["deep"]
    assert deep["texts"].keys() == {"other.txt"}
    assert 0 < deep["overall"]["kl"]["low"] < deep["overall"]["kl"]["high"]
    assert 0 < deep["overall"]["agreement"]["mean"] < 1
    assert sum(band["tokens"] for band in deep["frequency"]) == document["tokens"]["other.txt"]
    assert len(deep["blocks"]) == 3
    assert len(deep["continuations"]) == 4
    # A model is compared with itself where the text was not calibrated on.
    out = succeed("evaluate", model, "--deep", "--against", model, *text, *counted)
    for word in ("0.0000 (0.0000 to 0.0000)", "100.0% (100.0% to 100.0%)", "+0.0% (+0.0% to +0.0%)",
                 "model.layers.2", "16 tokens the same"):  # fmt: skip
        assert word in out


def test_deep_needs_a_dense_model_and_a_text_to_count(model, pruned, texts, refuse, tmp_path):
    text = ("--text", texts / "other.txt", *LENGTH)
    assert "name the dense model with --against" in refuse("evaluate", model, "--deep", *text)
    line = refuse("evaluate", model, "--deep", "--against", "./nowhere", *text)
    assert "'./nowhere': no such file" in line
    lost = shutil.copytree(pruned, tmp_path / "lost")
    record = json.loads((lost / "pruning.json").read_text())
    del record["sha256"]
    (lost / "pruning.json").write_text(json.dumps(sealed(record | {"model": "./gone"})))
    line = refuse("evaluate", lost, "--deep", *text)
    assert "'./gone': no such file or directory; it is what" in line
    assert line.endswith("was pruned from: give --against")
    # Wikipedia is what tokens are counted in, and the cache is empty here.
    line = refuse("evaluate", model, "--deep", "--against", model, *text)
    assert "prunerzero assets fetch" in line
    from tiny_models import save_model

    other = save_model(tmp_path / "other", vocab_size=300)
    line = refuse("evaluate", model, "--against", other, *text)
    assert "256 tokens cannot be measured against one of 300" in line


def test_published_values_stand_beside(tmp_path, monkeypatch, succeed, capsys):
    """A model of a published one's name, on a stand-in for WikiText-2."""
    from tiny_models import make_text, save_model

    from prunerzero.cli.app import main
    from prunerzero.data.documents import DOCUMENT_SEPARATOR, Benchmark, Document, Split, TextSource
    from prunerzero.data.sources import SOURCES

    documents = [
        Document(make_text(n, 5000), "wikitext2", f"{n}", None if n else Split.HELDOUT)
        for n in range(6)
    ]
    source = TextSource("wikitext2", "", lambda: documents, Benchmark(DOCUMENT_SEPARATOR))
    monkeypatch.setitem(SOURCES, "wikitext2", source)
    model = save_model(tmp_path / "Llama-2-7b-hf", max_position_embeddings=4096)
    text = ("--text", "wikitext2", "--sequence-length")
    document = succeed("evaluate", model, *text, 4096, "--json")
    [value] = document["published"]["wikitext2"]
    assert (value["value"], value["method"], value["context"]) == (5.12, "dense", 4096)
    assert document["settings"]["texts"]["wikitext2"]["windows"] == 1
    out = succeed("evaluate", model, *text, 2048)
    assert "5.47" in out
    assert "BESA" in out
    assert "5.12" not in out
    assert main(["evaluate", str(model), *text, "1024"]) == 0
    assert "context of 2048 and 4096 tokens, not 1024" in capsys.readouterr().err
    small = ("--pattern", "50%", "--calibration", "wikitext2", "--samples", 1)
    rows = succeed("compare", model, "--metrics", "magnitude,wanda", *small, *text, 4096, "--json")
    assert [row["published"][0]["value"] for row in rows["rows"]] == [14.89, 6.42]
    assert rows["dense"]["published"][0]["value"] == 5.12
    # A pruned checkpoint goes by the name of what it was pruned from.
    out = tmp_path / "out"
    succeed("prune", model, "--metric", "magnitude", *small, "--output", out)
    document = succeed("evaluate", out, *text, 4096, "--json")
    values = {each["method"]: each["value"] for each in document["published"]["wikitext2"]}
    assert values == {"magnitude": 14.89, "sparsegpt": 6.51, "wanda": 6.42, "pruner-zero": 6.26}
    table = succeed("evaluate", out, *text, 4096)
    assert "unchecked" in next(line for line in table.splitlines() if "6.26" in line)
