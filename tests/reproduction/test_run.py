import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from prunerzero.errors import InputError
from prunerzero.evaluation.zeroshot.offline import OFFLINE
from prunerzero.evolution.loop import Deadline, OutOfTime
from prunerzero.evolution.strategies import PaperStrategy
from prunerzero.files import cache_dir
from prunerzero.lock import ProcessLock
from prunerzero.reproduction import arms
from prunerzero.reproduction.cells import Cell
from prunerzero.reproduction.run import _wanted, reproduce

ASSETS = cache_dir() / "assets"


def results(directory):
    """The cells' results by what they are of, without times."""
    found = {}
    for path in (Path(directory) / "cells").iterdir():
        document = json.loads(path.read_text())
        result = {name: value for name, value in document["result"].items() if name != "seconds"}
        found[described(Cell(document["kind"], document["what"]))] = result
    return found


def described(cell):
    return json.dumps(cell, sort_keys=True)


@pytest.fixture(scope="module")
def whole(model, tiny_options, tmp_path_factory, cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNERZERO_CACHE", str(cache))
        return reproduce(model, tmp_path_factory.mktemp("whole"), tiny_options, dtype="float32")


def test_everything_is_there(whole, tiny_options):
    assert whole.finished == whole.cells == whole.measured
    document = json.loads(json.dumps(whole.to_json()))
    rows = {name: found["rows"] for name, found in document["experiments"].items()}
    assert len(rows["methods"]) == 1 + 3 * 2
    assert len(rows["sparsity"]) == 3 * 2
    # Magnitude reads no calibration text.
    assert {row["method"] for row in rows["samples"]} == {"wanda", "pruner-zero"}
    assert {row["seeds"] for row in rows["samples"]} == {2}
    assert [row["seed"] for row in rows["search"]] == [0, 1]
    assert [row["populations"] for row in rows["simplification"]] == [3, 2]
    at_half = [
        row for name in ("methods", "sparsity") for row in rows[name]
        if (row["method"], row["pattern"]) == ("wanda", "50%")
    ]  # fmt: skip
    assert at_half[0] == at_half[1]
    record = json.loads((whole.output / "record.json").read_text())
    assert record["seeds"] == [0, 1]
    assert record["conditions"]["model_hash"]
    [session] = record["sessions"]
    assert session["cells"] == whole.cells
    assert session["versions"]["torch"]
    assert session["hardware"]["threads"] >= 1
    for name in tiny_options.experiments:
        assert (whole.output / "tables" / f"{name}.csv").is_file()
        assert json.loads((whole.output / "figures" / f"{name}.json").read_text())["lines"]
        assert (whole.output / "figures" / f"{name}.svg").is_file()
    assert "complete" in (whole.output / "results.md").read_text()


def test_chance_has_as_many_candidates_and_the_same_beginning(whole, tiny_options):
    cells = [(*json.loads(key), result) for key, result in results(whole.output).items()]
    found = {
        (what["arm"], what["seed"]): result for kind, what, result in cells if kind == "search"
    }
    for seed in (0, 1):
        evolution, random = found[arms.EVOLUTION, seed], found[arms.RANDOM, seed]
        assert len(evolution["fitness"]) == len(random["fitness"])
        assert evolution["fitness"][:3] == random["fitness"][:3]
        assert len(evolution["shares"]) == tiny_options.proposals + 1
        assert set(evolution["references"]) == {"wanda", "pruner-zero"}
    assert found[arms.UNSIMPLIFIED, 0]["shares"][0] == 1.0


def test_a_second_run_measures_only_what_is_new(whole, model, tiny_options):
    before = results(whole.output)
    again = reproduce(model, whole.output, tiny_options, dtype="float32")
    assert (again.measured, again.finished) == (0, whole.cells)
    more = replace(tiny_options, experiments=("methods",), methods=("wanda", "W * A"))
    found = reproduce(model, whole.output, more, dtype="float32")
    assert found.measured == 4
    smaller = replace(tiny_options, experiments=("search",), seeds=1, population=4, proposals=6)
    assert reproduce(model, whole.output, smaller, dtype="float32").measured == 2
    assert before.items() <= results(whole.output).items()


def test_a_budget_ends_a_run_and_the_next_goes_on(
    whole, model, tiny_options, tmp_path, monkeypatch
):
    first = reproduce(model, tmp_path / "out", tiny_options, budget=1e-9, dtype="float32")
    assert (first.measured, first.finished) == (0, 0)
    assert "Nothing is finished yet" in (tmp_path / "out" / "results.md").read_text()
    checks = count(1)

    def check(self):
        if next(checks) % 25 == 0:  # also in the middle of a search
            raise OutOfTime

    monkeypatch.setattr(Deadline, "check", check)
    runs = []
    while not runs or runs[-1].finished < runs[-1].cells:
        runs.append(reproduce(model, tmp_path / "out", tiny_options, budget=1, dtype="float32"))
    assert len(runs) > 2
    of_options = {described(cell) for cell in _wanted(tiny_options)}
    assert results(tmp_path / "out") == {
        key: result for key, result in results(whole.output).items() if key in of_options
    }


def test_a_killed_run_goes_on(whole, model, tiny_options, tmp_path, cache):
    """SIGKILL in the middle, even of a search; the results are those of an undisturbed run."""
    out = tmp_path / "out"
    code = (
        "import sys; from prunerzero.reproduction.options import Options;"
        "from prunerzero.reproduction.run import reproduce;"
        f"reproduce({model!r}, {str(out)!r}, {tiny_options!r}, dtype='float32')"
    )
    environment = os.environ | {"PRUNERZERO_CACHE": str(cache)}
    for wanted in (2, 13):  # cells; the next one then is a search
        process = subprocess.Popen([sys.executable, "-c", code], env=environment)
        while process.poll() is None and len(list(out.glob("cells/*.json"))) < wanted:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = reproduce(model, out, tiny_options, dtype="float32")
    assert found.finished == found.cells
    assert len(found.record["sessions"]) >= 2
    expected = results(whole.output)
    for key, result in results(out).items():
        assert result == expected[key]


def test_zero_shot(model, tiny_options, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "assets").symlink_to(ASSETS)
    monkeypatch.setenv("PRUNERZERO_CACHE", str(cache))
    options = replace(
        tiny_options, experiments=("zero-shot",), methods=("wanda", "magnitude"),
        tasks=("quartz",), limit=4,
    )  # fmt: skip
    found = reproduce(model, tmp_path / "out", options, dtype="float32")
    rows = found.to_json()["experiments"]["zero-shot"]["rows"]
    assert [(row["method"], row["metric"], row["items"]) for row in rows] == [
        (method, metric, 4)
        for method in ("dense", "wanda", "magnitude")
        for metric in ("acc", "acc_norm")
    ]
    seen = tmp_path / "seen.jsonl"
    passages = [row["passage"] for row in OFFLINE["last_word"].rows()[:8]]
    seen.write_text("\n".join(json.dumps({"text": passage}) for passage in passages))
    overlapping = replace(options, calibration=str(seen), tasks=("last_word",), samples=1, seeds=1)
    with pytest.raises(InputError, match="task 'last_word': the model was calibrated"):
        reproduce(model, tmp_path / "other", overlapping, dtype="float32")


def test_refusals(whole, model, tiny_options, tmp_path, text):
    with pytest.raises(InputError, match="is a file"):
        reproduce(model, text, tiny_options)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(InputError, match="not empty"):
        reproduce(model, tmp_path / "full", tiny_options)
    with pytest.raises(InputError, match="holds a reproduction of"):
        reproduce("other", whole.output, tiny_options)
    with pytest.raises(InputError, match="calibrated or selected on"):
        reproduce(model, tmp_path / "out", replace(tiny_options, text=text))
    with pytest.raises(InputError, match="1000 windows"):
        reproduce(model, tmp_path / "out", replace(tiny_options, samples=1000))
    assert not (tmp_path / "out").exists()
    lock = ProcessLock(whole.output / "lock", "x", "{holder}")
    with pytest.raises(InputError, match="is at work in it"):
        reproduce(model, whole.output, tiny_options, dtype="float32")
    lock.release()


def test_a_population_without_simplification_keeps_its_trees():
    plain, simplified = (PaperStrategy(3, simplified=one) for one in (False, True))
    trees = [
        [strategy.fresh().recipe.metric for _ in range(60)] for strategy in (plain, simplified)
    ]
    assert any(tree != tree.simplify(mode="paper") for tree in trees[0])
    assert all(tree == tree.simplify(mode="paper") for tree in trees[1])
