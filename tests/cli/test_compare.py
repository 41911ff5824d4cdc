import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from prunerzero.recipe import Recipe


@pytest.fixture
def data(texts):
    return ("--calibration", texts / "calibration.jsonl", "--text", texts / "other.txt",
            "--samples", 4, "--sequence-length", 32, "--dtype", "float32")  # fmt: skip


def test_rows_agree_with_prune_and_evaluate(model, data, texts, tmp_path, succeed):
    document = succeed("compare", model, "--metrics", "magnitude,wanda", "--pattern", "50%",
                       "--pattern", "2:4", *data, "--json")  # fmt: skip
    rows = document["rows"]
    assert [(row["metric"], row["pattern"], row["group"]) for row in rows] == [
        ("magnitude", "50%", "matrix"),
        ("wanda", "50%", "row"),
        ("magnitude", "2:4", "-"),
        ("wanda", "2:4", "-"),
    ]
    settings = document["settings"]
    assert settings["calibration"]["windows"] == 4
    assert settings["text"] == "other.txt"
    evaluation = ("--text", texts / "other.txt", "--sequence-length", 32, "--dtype", "float32")
    dense = succeed("evaluate", model, *evaluation, "--json")
    assert document["dense"]["perplexity"] == dense["perplexity"]["other.txt"]
    assert settings["tokens_hash"] == dense["settings"]["texts"]["other.txt"]["tokens_hash"]
    for number, row in enumerate(rows):
        output = tmp_path / str(number)
        succeed("prune", model, "--metric", row["metric"], "--pattern", row["pattern"],
                "--calibration", texts / "calibration.jsonl", "--samples", 4,
                "--sequence-length", 32, "--dtype", "float32", "--output", output)  # fmt: skip
        alone = succeed("evaluate", output, *evaluation, "--json")
        assert row["perplexity"] == pytest.approx(alone["perplexity"]["other.txt"], rel=1e-6)
        assert row["sparsity"] == 0.5
        assert row["seconds"] > 0
        first = rows[number - number % 2]
        if row is first:
            assert row["change_vs_first"] is None
        else:
            change = row["change_vs_first"]
            ratio = row["perplexity"] / first["perplexity"]
            assert change["change"] == pytest.approx(ratio - 1)
            assert change["low"] <= change["change"] <= change["high"]


def test_metrics_may_be_expressions_and_files(model, data, tmp_path, succeed):
    Recipe.named("ria").save(tmp_path / "mine.json")
    metrics = ["ratio(W, A)", "wanda", str(tmp_path / "mine.json")]
    document = succeed("compare", model, "--metrics", ",".join(metrics), "--pattern", "50%",
                       *data, "--group", "row", "--one-shot", "--json")  # fmt: skip
    assert [row["metric"] for row in document["rows"]] == metrics
    assert {row["group"] for row in document["rows"]} == {"row"}
    assert document["settings"]["sequential"] is False


def test_every_metric_with_each_update(model, data, succeed):
    document = succeed("compare", model, "--metrics", "wanda,W", "--update", "none, sparsegpt",
                       "--pattern", "2:4", *data, "--json")  # fmt: skip
    rows = document["rows"]
    assert [(row["metric"], row["update"]) for row in rows] == [
        ("wanda", "none"), ("wanda", "sparsegpt"), ("W", "none"), ("W", "sparsegpt"),
    ]  # fmt: skip
    assert len({row["perplexity"] for row in rows}) == 4
    assert {row["sparsity"] for row in rows} == {0.5}
    own = succeed("compare", model, "--metrics", "dsnot,sparsegpt", "--pattern", "2:4", *data,
                  "--json")  # fmt: skip
    assert [row["update"] for row in own["rows"]] == ["dsnot", "sparsegpt-adaptive"]


def test_the_table_tells_what_was_done(model, data, succeed):
    out = succeed("compare", model, "--metrics", "magnitude,wanda", "--pattern", "50%", *data,
                  "--seed", 7)  # fmt: skip
    lines = out.splitlines()
    for word in (model, "4 windows", "32 tokens", "calibration.jsonl", "other.txt", "seed 7",
                 "cpu, float32", "sequential"):  # fmt: skip
        assert word in lines[0]
    assert lines[2].split()[:5] == ["metric", "group", "update", "pattern", "sparsity"]
    assert [line.split()[0] for line in lines[3:6]] == ["dense", "magnitude", "wanda"]
    assert "bits a byte" in lines[2]
    assert lines[7].startswith("other.txt: consecutive windows of 32 tokens of the whole text")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--metrics", "wanda,,ria"], "entry 2 is empty"),
        (["--metrics", "wanda,nonsense"], "metric 'nonsense'"),
        (["--update", "none,magic"], "update: Input should be 'none', 'sparsegpt', "),
        (["--update", ""], "entry 1 is empty"),
        (["--pattern", "150%"], "between 0% and 100%"),
        (["--pattern", "3:5"], "the width 32 of"),
        (["--metrics", "moe-pruner"], "this model has no router"),
        (["--metrics", "wanda,all"], "metric 'all': not in the zoo"),
        (["--allocation", "owl", "--pattern", "2:4"], "allocation 'owl': 2:4 fixes"),
        (["--allocation", "evolved", "--pattern", "2:4"], "'evolved': 2:4 fixes"),
        (["--allocation", "evolved", "--allocation-budget", "soon"], "budget 'soon'"),
        (["--allocation", "evolved"], "used whole, so nothing is left to judge by"),
        (["--allocation", "clever"], "allocation 'clever': not one of uniform, owl, evolved"),
        (["--allocation", "owl", "--group", "model"], "give one of the two"),
        (["--output", "{texts}/other.txt"], "cannot be made"),
        (["--text", "nonsense"], "nonsense"),
        (["--text", "{texts}/empty.txt"], "the file is empty"),
        (["--text", "{texts}/short.txt"], "less than one window"),
        (["--text", "{texts}/calibration.jsonl"], "calibrated or selected on"),
        (["--calibration", "{texts}/binary.txt"], "not a UTF-8 text file"),
        (["--samples", "1000"], "1000 windows"),
        (["--sequence-length", "65"], "limit of 64"),
    ],
)
def test_bad_input(model, data, texts, refuse, extra, message):
    extra = [one.format(texts=texts) for one in extra]
    line = refuse("compare", model, "--metrics", "wanda", "--pattern", "50%", *data, *extra)
    assert message in line


def test_a_file_used_whole_has_no_held_out_part(model, texts, refuse):
    line = refuse("compare", model, "--metrics", "wanda", "--pattern", "50%",
                  "--calibration", texts / "calibration.jsonl")  # fmt: skip
    assert "--text" in line


def test_a_run_over_seeds_goes_on_and_leaves_its_tables(model, data, tmp_path, succeed, capsys):
    directory = tmp_path / "run"
    arguments = ("compare", model, "--metrics", "magnitude,wanda,gblm", "--pattern", "50%",
                 *data, "--output", directory)  # fmt: skip
    first = succeed(*arguments, "--seeds", 2, "--json")
    lines = (directory / "measurements.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 2 * 3 - 1  # the dense model; magnitude needs no data, so no two seeds
    again = succeed(*arguments, "--seeds", 2, "--json")
    assert again["rows"] == first["rows"]
    assert (directory / "measurements.jsonl").read_text().splitlines() == lines
    more = succeed(*arguments, "--seeds", 3, "--json")
    assert len((directory / "measurements.jsonl").read_text().splitlines()) == len(lines) + 2
    for row in more["rows"]:
        assert len(row["perplexities"]) == 3
        assert row["spread"] >= 0
        assert row["peak_rss_bytes"] > 2**20
    magnitude, wanda, gblm = more["rows"]
    assert magnitude["spread"] == pytest.approx(0)
    assert gblm["statistics_seconds"] > 0 == wanda["statistics_seconds"]
    assert any(row["best_or_tied"] for row in more["rows"])
    assert json.loads((directory / "comparison.json").read_text()) == more
    rows = list(csv.DictReader((directory / "comparison.csv").open()))
    assert [row["metric"] for row in rows] == ["magnitude", "wanda", "gblm"]
    assert float(rows[1]["perplexity"]) == pytest.approx(wanda["perplexity"])
    latex = (directory / "comparison.tex").read_text()
    assert latex.count(r"\\") == 5
    assert r"50\%" in latex
    assert "<svg" in (directory / "comparison.svg").read_text()


def test_a_run_measures_what_a_single_one_does(model, data, succeed):
    arguments = ("compare", model, "--metrics", "wanda,gblm,sparsegpt", "--pattern", "50%", *data)
    both = succeed(*arguments, "--seeds", 2, "--json")
    for seed in (0, 1):  # the windows that are evaluated are the whole text with either
        alone = succeed(*arguments, "--seed", seed, "--json")
        for row, other in zip(both["rows"], alone["rows"], strict=True):
            assert row["perplexities"][seed] == pytest.approx(other["perplexity"], rel=1e-6)


def test_statistics_are_gathered_once_a_seed(model, data, succeed, monkeypatch):
    from prunerzero.statistics import cache

    passes, original = [], cache.gather_raw

    def counted(model, matrices, tokens, wanted, *rest):
        passes.append(frozenset(wanted))
        return original(model, matrices, tokens, wanted, *rest)

    monkeypatch.setattr(cache, "gather_raw", counted)
    succeed("compare", model, "--metrics", "gblm,gblm-l1,llm-pruner,pruner-zero,wanda-plus-plus",
            "--pattern", "50%", "--pattern", "2:4", *data, "--seeds", 2, "--json")  # fmt: skip
    gradients = frozenset({"gradient_sum", "gradient_square_sum", "gradient_absolute_sum"})
    regional = frozenset({"regional_gradient_square_sum"})
    assert passes == [gradients, regional] * 2


def test_one_shot_gram_matrices_are_shared(model, data, succeed, monkeypatch):
    from prunerzero.statistics import hessian

    made, original = [], hessian.factored

    def counted(gram, *rest):
        made.append(gram.data_ptr())
        return original(gram, *rest)

    monkeypatch.setattr(hessian, "factored", counted)
    succeed("compare", model, "--metrics", "sparsegpt,wanda-sparsegpt,obs", "--pattern", "50%",
            "--pattern", "2:4", "--one-shot", *data, "--json")  # fmt: skip
    assert len(made) == 3 * 4  # blocks, and different inputs of each


def test_the_whole_zoo(model, data, succeed, capsys):
    code = ["compare", model, "--metrics", "all", "--pattern", "2:4", *data, "--json"]
    from prunerzero.cli.app import main

    assert main([str(one) for one in code]) == 0
    out, err = capsys.readouterr()
    listed = [row["metric"] for row in json.loads(out)["rows"]]
    assert listed[0] == "wanda"  # what the others are read against
    names = set(listed)
    assert names >= {"wanda", "obs", "wanda-plus-plus", "gblm-l1", "llm-pruner", "sparsegpt"}
    assert not names & {"moe-pruner", "found-smollm2-50"}
    assert "moe-pruner is left out at 2:4: metric 'moe-pruner': terminal R is the router's" in err
    assert "found-smollm2-50 is left out at 2:4: allocation 'curves': 2:4 fixes" in err


def test_several_calibration_texts(model, texts, tmp_path, succeed):
    other = tmp_path / "second.jsonl"
    other.write_text(json.dumps({"text": "abc xyz " * 60}))
    arguments = ("compare", model, "--metrics", "magnitude,wanda,obs", "--pattern", "50%",
                 "--calibration", texts / "calibration.jsonl", "--calibration", other,
                 "--text", texts / "other.txt", "--samples", 4, "--sequence-length", 32,
                 "--dtype", "float32")  # fmt: skip
    document = succeed(*arguments, "--json")
    assert len(document["rows"]) == 6
    sources = [Path(one["source"]).name for one in document["settings"]["calibrations"]]
    assert sources == ["calibration.jsonl", "second.jsonl"]
    effect = document["data_effects"][0]
    shares = [effect[part] for part in ("method", "text", "interaction", "seed")]
    assert sum(shares) == pytest.approx(1)
    assert min(shares) >= 0
    magnitude = [row for row in document["rows"] if row["metric"] == "magnitude"]
    assert magnitude[0]["perplexity"] == magnitude[1]["perplexity"]  # it needs no data
    assert {row["change_vs_first"] is None for row in magnitude} == {True}
    out = succeed(*arguments)
    assert "2 calibration texts: of the variance of log perplexity" in out


def test_allocations_of_every_metric(model, data, succeed):
    document = succeed("compare", model, "--metrics", "wanda,W", "--allocation", "uniform,owl",
                       "--pattern", "50%", *data, "--json")  # fmt: skip
    rows = document["rows"]
    assert [(row["metric"], row["allocation"]) for row in rows] == [
        ("wanda", "uniform"), ("wanda", "owl"), ("W", "uniform"), ("W", "owl"),
    ]  # fmt: skip
    assert all(row["sparsity"] == pytest.approx(0.5, abs=2e-3) for row in rows)
    whole = succeed("compare", model, "--metrics", "wanda", "--group", "model", "--pattern", "50%",
                    *data, "--json")  # fmt: skip
    assert whole["rows"][0]["group"] == "model"
    assert whole["rows"][0]["perplexity"] != rows[0]["perplexity"]


def test_what_needs_no_torch_is_refused_without_it(model, texts, tmp_path):
    """Loading torch takes seconds; a mistyped metric should not."""
    prune = ["prune", model, "--metric", "wanda", "--pattern", "50%", "--output", "out",
             "--calibration", str(texts / "calibration.jsonl")]  # fmt: skip
    wrong = [
        [*prune, "--metric", "W *"],
        [*prune, "--pattern", "150%"],
        [*prune, "--calibration", str(texts / "empty.txt")],
        [*prune, "--output", str(texts)],
        [*prune, "--recipe", "none.json"],
        ["prune", "./nowhere", *prune[2:]],
        ["evaluate", model, "--text", "nonsense"],
        ["evaluate", model, "--tasks", "rte,rte"],
        ["compare", model, "--metrics", "wnada", "--pattern", "50%"],
    ]
    code = (
        "import sys; from prunerzero.cli.app import main;"
        f"print([main(arguments) for arguments in {wrong!r}], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == f"{[2] * len(wrong)} False\n"
    assert len(done.stderr.splitlines()) == len(wrong)


def test_the_console_is_quiet(model, data):
    """Nothing of the libraries' own on stderr, in a process of its own."""
    arguments = ["compare", model, "--metrics", "wanda", "--pattern", "50%", *map(str, data)]
    code = f"from prunerzero.cli.app import main; main({arguments!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    steps = [line.partition(",")[0] for line in done.stderr.splitlines()]
    assert steps == [
        f"loading {model}",
        f"dense: {data[3]}: 21/21",
        "wanda 50%: pruning: 3/3",
        f"wanda 50%: {data[3]}: 21/21",
    ]


def test_permuted_rows_stand_beside_the_others(model, data, succeed, refuse):
    run = ("compare", model, "--metrics", "wanda,magnitude", *data, "--permute")
    document = succeed(*run, "--pattern", "50%", "--pattern", "2:4", "--json")
    assert [(row["metric"], row["permuted"], row["pattern"]) for row in document["rows"]] == [
        ("wanda", False, "50%"),
        ("magnitude", False, "50%"),
        ("wanda", False, "2:4"),
        ("wanda", True, "2:4"),
        ("magnitude", False, "2:4"),
        ("magnitude", True, "2:4"),
    ]
    plain, permuted = (row["perplexity"] for row in document["rows"][2:4])
    assert plain != permuted
    # The model is put back: a run without permutations measures the same.
    alone = succeed("compare", model, "--metrics", "magnitude", "--pattern", "2:4", *data, "--json")
    assert alone["rows"][0]["perplexity"] == document["rows"][4]["perplexity"]
    assert "50% ranks whole rows" in refuse(*run, "--pattern", "50%")
    assert "wanda, permuted" in succeed(*run, "--pattern", "2:4")


def test_what_the_model_writes_calibrates_and_is_not_evaluated_on(model, data, succeed, refuse):
    run = ("compare", model, "--metrics", "wanda", "--pattern", "2:4", "--calibration")
    document = succeed(*run, "self", *data[2:], "--json")
    assert document["settings"]["calibration"]["source"] == "self"
    assert "give another with --text" in refuse(*run, "self")
