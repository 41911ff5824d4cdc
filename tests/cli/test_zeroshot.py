import json

import pytest
from tiny_models import make_tokenizer, save_model

from prunerzero.files import cache_dir

ASSETS = cache_dir() / "assets"
PRUNE = ("--metric", "wanda", "--pattern", "80%", "--samples", 2, "--sequence-length", 32)


@pytest.fixture(scope="module")
def long_model(tmp_path_factory):
    """A small model that reads the tasks whole."""
    directory = save_model(tmp_path_factory.mktemp("long") / "tiny", max_position_embeddings=2048)
    tokenizer = make_tokenizer()
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture
def assets(own_cache):
    own_cache.mkdir()
    (own_cache / "assets").symlink_to(ASSETS)


def test_a_pruned_model_beside_the_dense_one(long_model, texts, tmp_path, succeed, assets):
    out = tmp_path / "out"
    succeed("prune", long_model, *PRUNE, "--calibration", texts / "calibration.jsonl",
            "--output", out)  # fmt: skip
    arguments = ("evaluate", out, "--tasks", "quartz,last_word", "--limit", 6)
    found = succeed(*arguments, "--json")
    assert found["perplexity"] == {}
    assert found["tasks"].keys() == {"quartz", "last_word"}
    assert found["tasks_settings"]["against"] == long_model
    task = found["tasks"]["quartz"]
    assert {"acc", "acc_stderr", "acc_norm", "acc_norm_stderr"} <= task.keys()
    assert (task["items"], task["available"], task["acc_chance"]) == (6, 3860, 0.5)
    assert task["dense"]["acc_above_chance"] in (True, False)
    for metric in ("acc", "acc_norm"):
        change = task["minus_dense"][metric]
        assert change["change"] == pytest.approx(task[metric] - task["dense"][metric])
        assert change["low"] <= change["change"] <= change["high"]
    lines = [line.split() for line in succeed(*arguments).splitlines()[2:]]
    assert [line[:2] for line in lines[1:] if line] == [
        ["quartz", "acc"],
        ["quartz", "acc_norm"],
        ["last_word", "acc"],
        ["last_word", "acc_norm"],
        ["last_word", "exact_match"],
    ]


def test_a_dense_model_and_a_text(long_model, texts, succeed, assets):
    found = succeed("evaluate", long_model, "--tasks", "quartz", "--limit", 4, "--text",
                    texts / "other.txt", "--sequence-length", 32, "--json")  # fmt: skip
    assert found["perplexity"].keys() == {"other.txt"}
    assert "dense" not in found["tasks"]["quartz"]
    assert found["tasks"]["quartz"]["acc_p_value"] > 0


def test_refuses_tasks_that_the_model_was_calibrated_on(
    long_model, tmp_path, succeed, refuse, assets
):
    from prunerzero.evaluation.zeroshot.offline import OFFLINE

    text = tmp_path / "calibration.jsonl"
    passages = [row["passage"] for row in OFFLINE["last_word"].rows()[:2]]
    text.write_text("\n".join(json.dumps({"text": passage}) for passage in passages))
    out = tmp_path / "out"
    succeed("prune", long_model, *PRUNE, "--calibration", text, "--output", out)
    line = refuse("evaluate", out, "--tasks", "quartz,last_word", "--limit", 4)
    assert "task 'last_word': the model was calibrated or selected on the text of 2" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "quartz"], "prunerzero assets fetch"),  # the cache is empty here
        (["--tasks", "quartz,,rte"], "entry 2 is empty"),
        (["--tasks", "rte,rte"], "named twice"),
        (["--tasks", "rte", "--limit", "1"], "greater than or equal to 2"),
        (["--tasks", "rte", "--against", "./none"], "model './none': no such file"),
    ],
)
def test_bad_input(model, refuse, arguments, message):
    assert message in refuse("evaluate", model, *arguments)


def test_methods_by_tasks(long_model, texts, succeed, assets):
    found = succeed("compare", long_model, "--metrics", "magnitude,wanda", "--pattern", "80%",
                    "--samples", 2, "--sequence-length", 32, "--text", texts / "other.txt",
                    "--calibration", texts / "calibration.jsonl", "--tasks", "quartz",
                    "--limit", 20, "--json")  # fmt: skip
    dense = found["dense"]["tasks"]["quartz"]
    assert dense["items"] == 20
    assert found["settings"]["tasks"]["limit"] == 20
    for row in found["rows"]:
        task = row["tasks"]["quartz"]
        assert task["dense"] == dense
        assert task["minus_dense"]["acc"]["change"] == pytest.approx(task["acc"] - dense["acc"])
    accuracies = [(row["tasks"]["quartz"]["acc"], row["tasks"]["quartz"]["acc_norm"])
                  for row in found["rows"]]  # fmt: skip
    assert accuracies[0] != accuracies[1] or accuracies[0] != (dense["acc"], dense["acc_norm"])


def test_compare_refuses_tasks_it_calibrates_on(long_model, texts, tmp_path, refuse, assets):
    from prunerzero.evaluation.zeroshot.offline import OFFLINE

    text = tmp_path / "calibration.jsonl"
    passages = [row["passage"] for row in OFFLINE["last_word"].rows()[:4]]
    text.write_text("\n".join(json.dumps({"text": passage}) for passage in passages))
    line = refuse("compare", long_model, "--metrics", "wanda", "--pattern", "80%", "--samples", 2,
                  "--sequence-length", 32, "--text", texts / "other.txt", "--calibration", text,
                  "--tasks", "last_word", "--limit", 2)  # fmt: skip
    assert "task 'last_word': the model was calibrated or selected on the text of" in line
