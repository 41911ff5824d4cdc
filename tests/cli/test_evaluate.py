import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

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
    assert [line.split()[0] for line in lines[2:]] == ["text", "other.txt", "calibration.jsonl"]


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
