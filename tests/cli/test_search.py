import json
import os
import shutil
import sqlite3

import pytest
from damage import poison, rewrite
from tiny_models import make_text

from prunerzero.cli.app import main
from prunerzero.recipe import Recipe
from prunerzero.study import Study


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("search-text") / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": make_text(n, 1200)}) for n in range(12)))
    return path


@pytest.fixture
def arguments(model, text, tmp_path):
    return ("search", model, "--pattern", "50%", "--study", tmp_path / "s.db",
            "--calibration", text, "--samples", 4, "--sequence-length", 32)  # fmt: skip


def instead(arguments, *extra):
    """A complete command with more, of which repeatable options replace those that were there."""
    kept = list(arguments)
    for option in ("--pattern", "--calibration"):
        if option in extra:
            place = kept.index(option)
            del kept[place : place + 2]
    return (*kept, *extra)


def test_one_document_and_plain_lines(arguments, model, text, tmp_path, own_cache, capsys):
    line = [*map(str, arguments), "--candidates", "9", "--guess", "W * A ** 0.9", "--json"]
    assert main(line) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    best = document["best"]
    assert best["recipe"] == str(tmp_path / "s.best.json")
    assert best["expression"] == Recipe.load(best["recipe"]).expression
    assert best["heldout_perplexity"] > 1
    assert set(document["baselines"]) == {"magnitude", "wanda", "gblm", "ria", "pruner-zero"}
    for entry in [document["dense"], *document["baselines"].values()]:
        assert entry["heldout_perplexity"] > 1
    assert document["finalists"]
    assert document["candidates"] == 9
    assert document["seconds"] > 0
    lines = err.splitlines()
    assert any(line.startswith("loading ") for line in lines)
    assert any(line.startswith("candidates 1; best W * sqrt(X)") for line in lines)
    assert not [line for line in lines if "\r" in line or "\x1b" in line]

    # The same command again measures nothing.
    assert main(line) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["best"] == best
    assert again["baselines"] == document["baselines"]
    assert again["heldout_readings"] == document["heldout_readings"] + 1 == 2
    with Study.open(tmp_path / "s.db") as study:
        assert study.check() == []


def test_the_found_recipe_prunes_and_may_not_be_evaluated_on_its_texts(
    arguments, model, text, tmp_path, succeed, refuse
):
    best = succeed(*arguments, "--candidates", 4, "--json")["best"]
    data = ("--calibration", text, "--samples", 4, "--sequence-length", 32)
    succeed("prune", model, "--recipe", best["recipe"], "--pattern", "50%",
            "--output", tmp_path / "out", *data)  # fmt: skip
    provenance = Recipe.load(best["recipe"]).provenance
    used = {entry["split"]: set(entry["documents"]) for entry in provenance["texts"]}
    assert used["selection"]
    documents = [json.loads(line)["text"] for line in text.read_text().splitlines()]
    from prunerzero.data.documents import Document

    for split, hashes in used.items():
        taken = next(t for t in documents if Document(t, "", "").hash in hashes)
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"text": taken}))
        line = refuse("evaluate", tmp_path / "out", "--text", tmp_path / f"{split}.jsonl",
                      "--sequence-length", 32)  # fmt: skip
        assert "calibrated" in line or "selected" in line
    everything = set().union(*used.values())
    fresh = next(t for t in documents if Document(t, "", "").hash not in everything)
    (tmp_path / "fresh.jsonl").write_text(json.dumps({"text": fresh}))
    document = succeed("evaluate", tmp_path / "out", "--text", tmp_path / "fresh.jsonl",
                       "--sequence-length", 32, "--json")  # fmt: skip
    assert document["perplexity"]["fresh.jsonl"] > 1
    # Nor may a search start from what is pruned already.
    line = refuse("search", tmp_path / "out", *arguments[2:4], "--study", tmp_path / "t.db", *data)
    assert "pruned already" in line


def test_without_json_it_prints_the_table(arguments, succeed):
    out = succeed(*arguments, "--candidates", 3)
    names = ["dense", "magnitude", "wanda", "gblm", "ria", "pruner-zero", "best found"]
    for name in names:
        assert any(line.startswith(name) for line in out.splitlines()), name
    assert "s.best.json" in out
    assert "3 candidates" in out
    assert "held-out text has been read 2 times" in succeed(*arguments, "--candidates", 3)


def test_structured_and_published(arguments, tmp_path, succeed):
    nm = succeed(*instead(arguments, "--pattern", "2:4"), "--candidates", 3, "--json")
    assert nm["wanda_under_found_allocation"] is None
    paper = succeed(*arguments, "--study", tmp_path / "paper.db", "--preset", "paper",
                    "--candidates", 4, "--json")  # fmt: skip
    assert paper["candidates"] == 4


def test_what_the_default_search_is_compared_with(arguments, tmp_path, succeed):
    for preset, origins in {"random": {"zoo", "random"}, "evopress": {"zoo", "swap"}}.items():
        study = tmp_path / f"{preset}.db"
        found = succeed(*arguments, "--study", study, "--preset", preset,
                        "--candidates", 5, "--json")  # fmt: skip
        assert found["candidates"] == 5
        with Study.open(study) as opened:
            assert {row.origin for row in opened.candidates()} == origins
            assert opened.settings["preset"] == preset


def test_one_formula(arguments, tmp_path, succeed):
    guess = tmp_path / "guess.json"
    document = {"metric": {"attention": "W * A", "mlp": "W"},
                "allocation": {"name": "curves", "curves": {"q_proj": [0.1]}}}  # fmt: skip
    Recipe.from_json(document).save(guess)
    found = succeed(
        *arguments, "--genome", "formula", "--guess", guess, "--candidates", 9, "--json"
    )
    assert found["best"]["allocation"] == {"name": "uniform"}
    assert found["wanda_under_found_allocation"] is None
    with Study.open(tmp_path / "s.db") as opened:
        rows = opened.candidates()
        assert all(isinstance(row.recipe["metric"], str) for row in rows)
        assert opened.settings["genome"] == "formula"


def test_two_patterns_at_once(arguments, model, tmp_path, succeed, refuse):
    line = (*arguments, "--pattern", "2:4", "--objective", "worst", "--fitness", "loss")
    found = succeed(*line, "--candidates", 9, "--json")
    assert found["best"].keys() >= {"expression", "group", "allocation", "recipe", "candidate"}
    assert "heldout_perplexity" not in found["best"]
    assert found["targets"].keys() == {"50%", "2:4"}
    for table in found["targets"].values():
        assert table["best"]["heldout_perplexity"] > 1
        assert set(table["baselines"]) == {"magnitude", "wanda", "gblm", "ria", "pruner-zero"}
        assert table["finalists"][0]["candidate"] == found["best"]["candidate"]
    shown = succeed(*line, "--candidates", 9)
    assert shown.count("best found  ") == 2
    assert "50%:" in shown
    assert "2:4:" in shown
    # What is saved prunes by either pattern.
    for pattern in ("50%", "2:4"):
        recipe = found["best"]["recipe"]
        if pattern == "2:4":
            recipe = found["best"].get("nm_recipe", recipe)
        succeed("prune", model, "--recipe", recipe, "--pattern", pattern,
                "--output", tmp_path / pattern.replace(":", "of"), *arguments[6:])  # fmt: skip
    difference = refuse(*arguments, "--pattern", "2:4", "--fitness", "loss", "--candidates", 9)
    assert 'objective "worst" there, absent here' in difference


def test_texts_that_would_leak_are_refused(arguments, text, tmp_path, refuse):
    lines = text.read_text().splitlines()
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("\n".join(lines[:5]))
    message = refuse(*arguments, "--calibration", fewer, "--candidates", 2)
    assert "have a document in common" in message
    assert not (tmp_path / "s.db").exists()


def test_more_candidates_and_other_settings(arguments, text, tmp_path, succeed, refuse):
    assert succeed(*arguments, "--candidates", 2, "--json")["candidates"] == 2
    assert succeed(*arguments, "--candidates", 4, "--json")["candidates"] == 4
    before = (tmp_path / "s.db").read_bytes()
    line = refuse(*arguments, "--candidates", 6, "--seed", 5)
    assert "made with other settings (seed 0 there, 5 here)" in line
    line = refuse(*instead(arguments, "--pattern", "2:4"), "--candidates", 6)
    assert 'pattern "50%" there, "2:4" here' in line
    assert (tmp_path / "s.db").read_bytes() == before
    assert not (tmp_path / "s.db.lock").exists()


def test_a_study_of_another_model(arguments, tmp_path, succeed, refuse):
    from tiny_models import save_model

    succeed(*arguments, "--candidates", 1)
    other = save_model(tmp_path / "other", family="llama", seed=1)
    line = refuse("search", other, *arguments[2:], "--candidates", 2)
    assert "model_hash" in line


def test_a_model_changed_in_place_is_another_model(arguments, tmp_path, succeed, refuse):
    from tiny_models import save_model

    place = save_model(tmp_path / "place", seed=1)
    line = ("search", place, *arguments[2:])
    succeed(*line, "--candidates", 1)
    save_model(place, seed=2)
    assert "model_hash" in refuse(*line, "--candidates", 2)


def corrupt(path):
    with Study.create(path, {"seed": 0}):
        pass
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    path.write_bytes(data)


def other_database(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()


def newer(path):
    with Study.create(path, {"seed": 0}):
        pass
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


STUDIES = {
    "corrupt": (corrupt, "corrupt or not a study"),
    "no database": (lambda path: path.write_text("text " * 2000), "corrupt or not a study"),
    "other database": (other_database, "not one of prunerzero's"),
    "newer": (newer, "has schema 99"),
    "directory": (lambda path: path.mkdir(), "a directory, not a file"),
}


@pytest.mark.parametrize("case", STUDIES)
def test_unusable_studies(arguments, tmp_path, refuse, case):
    make, message = STUDIES[case]
    make(tmp_path / "s.db")
    before = snapshot(tmp_path)
    assert message in refuse(*arguments, "--candidates", 2)
    assert snapshot(tmp_path) == before


def snapshot(folder):
    return {
        path.name: path.read_bytes() if path.is_file() else None
        for path in folder.iterdir()
        if path.name != "own-cache"
    }


# What to add to a complete command, and what its line of error says.
WRONG = {
    "150%": (["--pattern", "150%"], "between 0% and 100%"),
    "5:4": (["--pattern", "5:4"], "0 < N < M"),
    "0:4": (["--pattern", "0:4"], "0 < N < M"),
    "width": (["--pattern", "3:5"], "the width 32 of model.layers.0.self_attn.q_proj"),
    "budget unit": (["--budget", "5x"], "budget '5x': give a time such as 90s, 10m or 2h"),
    "no budget": (["--budget", "0m"], "budget '0m'"),
    "no candidates": (["--candidates", "0"], "--candidates"),
    "unknown preset": (["--preset", "papr"], "papr"),
    "unknown text": (["--calibration", "wikipedai"], "did you mean 'wikipedia'"),
    "empty text": (["--calibration", "{texts}/empty.txt"], "the file is empty"),
    "binary text": (["--calibration", "{texts}/binary.txt"], "not a UTF-8 text file"),
    "one document": (["--calibration", "{texts}/other.txt"], "too short to be split"),
    "little text": (
        ["--calibration", "{texts}/calibration.jsonl", "--sequence-length", "64"],
        "windows of 64 tokens were asked for",
    ),
    "too many samples": (["--samples", "1000"], "1000 windows of 32 tokens were asked for"),
    "too long": (["--sequence-length", "65"], "above the model's limit of 64"),
    "unrankable guess": (["--guess", "rowmean(W)"], "gives all weights of a row the same score"),
    "misspelt guess": (["--guess", "wnada"], "did you mean 'wanda'"),
    "bad guess": (["--guess", "W * sqrrt(X)"], "unknown operator 'sqrrt'"),
    "missing guess": (["--guess", "none.json"], "none.json: cannot be read"),
    "guess for paper": (["--guess", "W", "--preset", "paper"], "preset 'paper': has starting"),
    "guess for random": (["--guess", "W", "--preset", "random"], "so it takes no guess"),
    "formula for paper": (["--genome", "formula", "--preset", "paper"], "formulas anyway"),
    "formula for evopress": (["--genome", "formula", "--preset", "evopress"], "allocations alone"),
    "evopress under N:M": (["--preset", "evopress", "--pattern", "2:4"], "leaves no allocation"),
    "unknown genome": (["--genome", "tree"], "tree"),
    "model group": (["--guess", "{texts}/model.json"], "group 'model'"),
    "half a guess": (["--guess", "{texts}/half.json"], "no formula for"),
    "allocation under N:M": (["--guess", "{texts}/deep.json", "--pattern", "2:4"], "2:4 fixes"),
    "pattern twice": (["--pattern", "50%", "--pattern", "0.5"], "pattern '50%': is given twice"),
    "worst of one": (["--objective", "worst"], "objective 'worst': needs several models"),
    "paper for two": (
        ["--preset", "paper", "--pattern", "50%", "--pattern", "60%"],
        "preset 'paper': searches for one model, pattern and text",
    ),
    "paper by loss": (["--preset", "paper", "--fitness", "loss"], "perplexity anyway"),
    "unknown objective": (["--objective", "median"], "median"),
    "missing other model": (["--also", "no-such-model"], "not a directory, not an alias"),
    "unwritable study": (["--study", "{texts}/other.txt/s.db"], "cannot be written"),
    "device": (["--device", "cuda:99"], "device 'cuda:99'"),
    "dtype": (["--dtype", "float8"], "float8"),
}


@pytest.fixture(scope="module")
def guesses(texts):
    """Recipes that no search can start from."""
    Recipe.from_json({"metric": "W", "group": "model"}).save(texts / "model.json")
    Recipe.from_json({"metric": {"mlp": "W"}}).save(texts / "half.json")
    deep = {"metric": "W", "allocation": {"name": "curves", "curves": {"q_proj": [0.0, 0.1]}}}
    Recipe.from_json(deep).save(texts / "deep.json")


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.usefixtures("guesses")
def test_bad_input(arguments, texts, tmp_path, refuse, case):
    extra, message = WRONG[case]
    extra = [one.format(texts=texts) for one in extra]
    before = sorted(os.listdir(texts))
    if "--candidates" not in extra and "--budget" not in extra:
        extra += ["--candidates", "2"]
    assert message in refuse(*instead(arguments, *extra))
    assert snapshot(tmp_path) == {}
    assert sorted(os.listdir(texts)) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-model", "not a directory, not an alias (smollm2), and the hub"),
        ("./no-such-model", "no such file or directory"),
        ("{texts}", "no config.json"),
    ],
)
def test_unknown_models(arguments, texts, tmp_path, refuse, name, message):
    line = refuse("search", name.format(texts=texts), *arguments[2:], "--candidates", 2)
    assert message in line
    assert snapshot(tmp_path) == {}


def test_interrupted(arguments, tmp_path, monkeypatch, own_cache, capsys):
    from prunerzero.evolution.loop import Loop

    advance = Loop.advance
    calls = iter(range(100))

    def interrupted(self):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return advance(self)

    monkeypatch.setattr(Loop, "advance", interrupted)
    assert main([*map(str, arguments), "--candidates", "5", "--json"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert "the same command goes on" in err
    assert main([*map(str, arguments), "--candidates", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["candidates"] == 5


def test_it_streams_where_memory_is_short(arguments, tmp_path, succeed, capsys, monkeypatch):
    monkeypatch.setattr("prunerzero.streaming.decision.available_memory", lambda: 100_000)
    assert main([*map(str, arguments), "--candidates", "1"]) == 0
    assert "more than a quarter of the" in capsys.readouterr().err
    monkeypatch.setattr("prunerzero.streaming.decision.available_memory", lambda: None)
    document = succeed(*arguments, "--candidates", 2, "--json")
    assert document["candidates"] == 2
    with Study.open(tmp_path / "s.db") as study:
        assert study.settings["compute"].endswith("streamed")


@pytest.mark.slow
def test_workers_measure_and_the_same_command_goes_on(arguments, tmp_path, succeed):
    several = (*arguments, "--executor", "process", "--workers", 2, "--json")
    assert succeed(*several, "--candidates", 5)["candidates"] == 5
    assert succeed(*several, "--candidates", 7)["candidates"] == 7
    with Study.open(tmp_path / "s.db") as study:
        assert study.check() == []
        assert study.counts()["pending"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--workers", 2), "executor 'serial' has none"),
        (("--ray-address", "auto"), "is for executor 'ray', not 'serial'"),
        (("--executor", "ray", "--stream"), "a streamed model is read by one process"),
    ],
)
def test_options_of_workers_that_do_not_fit(arguments, tmp_path, refuse, options, message):
    assert message in refuse(*arguments, *options)
    assert not (tmp_path / "s.db").exists()


def test_weights_that_are_no_numbers_leave_no_study(arguments, model, tmp_path, refuse):
    source = tmp_path / "source"
    shutil.copytree(model, source)
    rewrite(source, poison)
    arguments = [source if one == model else one for one in arguments]
    for option in ("--stream", "--no-stream"):
        assert "holds NaN or infinity" in refuse(*arguments, option)
    assert not list(tmp_path.glob("s.*"))


def test_too_little_disk_for_statistics_is_found_before_there_is_a_study(
    arguments, tmp_path, refuse, monkeypatch
):
    monkeypatch.setattr("prunerzero.files.free_space", lambda _: 10**6)
    line = refuse(*arguments, "--candidates", 1, "--stream")
    assert "0.00 GB free, but 0.02 GB are needed" in line
    assert not (tmp_path / "s.db").exists()
