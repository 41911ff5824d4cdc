"""Whole searches on a tiny model, and what becomes of them when they are killed."""

import dataclasses
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from killing import FatalWrites, Killed

from prunerzero import timelimit
from prunerzero.errors import InputError
from prunerzero.evolution import runner as module
from prunerzero.evolution import session, workbench
from prunerzero.evolution.default import DefaultStrategy
from prunerzero.evolution.judging import RungPlan
from prunerzero.evolution.loop import GUIDANCE_EVENT
from prunerzero.evolution.runner import search
from prunerzero.evolution.settings import Budget
from prunerzero.metric import TERMINALS, Metric, Operator, Shape, Sign, Terminal, operators
from prunerzero.metric.operators import OPERATORS
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.statistics import TokenSum, register
from prunerzero.statistics.collectors import COLLECTORS, TOKEN_SUMS
from prunerzero.study import Study

pytestmark = pytest.mark.usefixtures("own_cache")
CANDIDATES = 26
GUESS = "W * A ** 0.9"


@dataclasses.dataclass(frozen=True)
class ShortRounds(RungPlan):
    """So that a short search has many rounds."""

    round_length: int = 4


@pytest.fixture
def run(model_directory, text, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RungPlan", ShortRounds)

    def start(name="s.db", candidates=CANDIDATES, pattern="50%", guesses=(GUESS,), **more):
        return search(
            model_directory,
            pattern,
            study=tmp_path / name,
            budget=Budget(None, candidates),
            guesses=[Recipe.from_text(guess) for guess in guesses],
            calibration=text,
            samples=4,
            sequence_length=32,
            **more,
        )

    return start


def rows_of(path):
    """All that a study says, but for times."""
    with Study.open(path) as study:
        assert study.check() == []
        candidates = [
            dataclasses.replace(row, seconds=0.0, created=None) for row in study.candidates()
        ]
        measurements = sorted(
            (m.purpose, m.candidate_id or 0, m.name or "", m.rung, m.windows, m.loss, m.kl,
             repr(m.data))
            for m in study.measurements()
        )  # fmt: skip
        guidance = [event.data for event in study.events(GUIDANCE_EVENT)]
        return candidates, measurements, guidance, study.duplicates()


def test_a_search(run, tmp_path):
    seen = []
    result = run(observe=seen.append)
    candidates, measurements, guidance, _ = rows_of(tmp_path / "s.db")
    assert len(candidates) == result.candidates == CANDIDATES
    assert [status.candidates for status in seen] == list(range(1, CANDIDATES + 1))
    evaluated = [row for row in candidates if row.status == "evaluated"]
    assert len({row.key for row in evaluated}) == len(evaluated)
    assert len({row.fingerprint for row in evaluated}) == len(evaluated)
    assert candidates[0].expression == "W * sqrt(X)"
    assert candidates[0].fitness == 0.0
    assert any(row.origin == "guess" and row.expression == GUESS for row in candidates)
    descents = [row for row in candidates if row.origin == "descent"]
    assert descents
    assert len(guidance) == DefaultStrategy.STEPS * len(descents)
    assert [data["index"] for data in guidance] == list(range(len(guidance)))
    assert any(row.fitness < 0 for row in descents)
    assert {row[0] for row in measurements} == {"fitness", "validation", "heldout"}
    assert seen[-1].gain is not None
    assert seen[-1].gain_over_published is not None
    assert seen[-1].gain >= 0
    # What is saved is what is told.
    assert result.recipe_path == tmp_path / "s.best.json"
    saved = Recipe.load(result.recipe_path)
    assert saved == result.best
    assert saved.key(Pattern.parse("50%")) in {row.key for row in evaluated}
    assert saved.provenance["candidate"] == result.closing.winner.id
    texts = {entry["split"]: entry["documents"] for entry in saved.provenance["texts"]}
    assert texts.keys() == {"calibration", "validation", "selection"}
    hashes = [one for documents in texts.values() for one in documents]
    assert len(hashes) == len(set(hashes))


def test_the_documents_keys(run, tmp_path):
    document = run().to_json()
    best = document["best"]
    assert best["expression"]
    assert os.path.isabs(best["recipe"])
    assert Recipe.load(best["recipe"]).expression == best["expression"]
    perplexities = [
        best["heldout_perplexity"],
        document["dense"]["heldout_perplexity"],
        *(entry["heldout_perplexity"] for entry in document["baselines"].values()),
    ]
    assert all(perplexity > 1 for perplexity in perplexities)
    assert document["baselines"].keys() == {"magnitude", "wanda", "gblm", "ria", "pruner-zero"}
    assert 1 <= len(document["finalists"]) <= 3
    assert document["finalists"][0]["candidate"] == best["candidate"]
    assert document["candidates"] == CANDIDATES
    assert document["seconds"] > 0
    assert document["heldout_readings"] == 1


def test_one_seed_gives_one_study(run, tmp_path):
    first, second = run("a.db", seed=3), run("b.db", seed=3)
    assert rows_of(tmp_path / "a.db") == rows_of(tmp_path / "b.db")
    assert first.closing == second.closing
    other = run("c.db", seed=4)
    assert rows_of(tmp_path / "c.db")[0] != rows_of(tmp_path / "a.db")[0]
    # Held-out windows are the same for all seeds; the model and hence its loss too.
    assert other.closing.dense.loss == first.closing.dense.loss


@pytest.mark.parametrize("seed", range(3))
def test_a_stopped_search_goes_on_as_if_nothing_had_happened(run, tmp_path, monkeypatch, seed):
    """Stops before or after one of the writes, many times."""
    run("whole.db")
    moments = random.Random(seed)
    writes = FatalWrites(
        monkeypatch, ("add_candidate", "add_duplicate", "add_measurement", "add_event")
    )
    stops = 0
    for _ in range(30):
        writes.left = moments.choice([1, 2, 3, 5, 8, 13]) if stops < 8 else 10**9
        try:
            run("parts.db")
            break
        except Killed:
            stops += 1
    assert stops == 8
    assert rows_of(tmp_path / "parts.db") == rows_of(tmp_path / "whole.db")


def test_more_candidates_go_on_where_it_ended(run, tmp_path):
    run("parts.db", candidates=7)
    run("parts.db", candidates=20)
    run("parts.db", candidates=20)
    result = run("parts.db")
    assert result.heldout_readings == 4
    whole = run("whole.db")
    parts, once = rows_of(tmp_path / "parts.db"), rows_of(tmp_path / "whole.db")
    assert parts[0] == once[0]
    assert parts[2:] == once[2:]
    assert result.closing.winner == whole.closing.winner
    fewer = run("parts.db", candidates=3)
    assert fewer.candidates == CANDIDATES


def test_a_study_of_other_settings_is_refused(run, tmp_path):
    run(candidates=2)
    before = rows_of(tmp_path / "s.db")
    with pytest.raises(InputError, match="seed 0 there, 1 here"):
        run(candidates=3, seed=1)
    with pytest.raises(InputError, match='pattern "50%" there, "2:4" here'):
        run(candidates=3, pattern="2:4")
    with pytest.raises(InputError, match="guesses"):
        run(candidates=3, guesses=())
    with pytest.raises(InputError, match='preset "default" there, "paper" here'):
        run(candidates=3, preset="paper", guesses=(GUESS,)[:0])
    assert rows_of(tmp_path / "s.db") == before


def test_a_time_budget_ends_the_search(model_directory, text, tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 4))
    ticking = type("Clock", (), {"perf_counter": lambda: next(clock)})
    monkeypatch.setattr(module, "time", ticking)
    monkeypatch.setattr(session, "time", ticking)
    options = {"calibration": text, "samples": 4, "sequence_length": 32, "study": tmp_path / "s.db"}
    first = search(model_directory, "50%", budget=Budget(50, None), **options)
    assert 2 < first.candidates < 12
    # Each invocation has its own time.
    second = search(model_directory, "50%", budget=Budget(50, None), **options)
    assert second.candidates > first.candidates + 2


def test_the_published_search(run, tmp_path):
    result = run(candidates=56, preset="paper", guesses=())
    candidates, measurements, guidance, _ = rows_of(tmp_path / "s.db")
    assert len(candidates) == 56
    assert guidance == []
    assert {row.origin for row in candidates} <= {"random", "crossover"}
    evaluated = [row for row in candidates if row.status == "evaluated"]
    assert all(row.fitness > 1 for row in evaluated)
    assert len({row[4] for row in measurements if row[0] == "fitness"}) == 1  # fixed windows
    assert result.closing.best.recipe.terminals <= {"W", "G", "X"}
    again = run("again.db", candidates=56, preset="paper", guesses=())
    assert rows_of(tmp_path / "again.db") == rows_of(tmp_path / "s.db")
    assert again.closing == result.closing


@pytest.mark.parametrize("preset", ["random", "evopress"])
def test_what_the_default_search_is_compared_with(run, tmp_path, preset):
    result = run(candidates=14, preset=preset, guesses=())
    candidates, measurements, guidance, _ = rows_of(tmp_path / "s.db")
    assert guidance == []
    first, *rest = candidates
    assert (first.expression, first.origin) == ("W * sqrt(X)", "zoo")
    assert {row.origin for row in rest} == {"swap" if preset == "evopress" else "random"}
    assert any(row.recipe["allocation"]["name"] == "curves" for row in rest)
    expressions = {row.expression for row in rest}
    assert (expressions == {"W * sqrt(X)"}) == (preset == "evopress")
    # Judged in the same way as the default search.
    assert first.fitness == 0.0
    assert {row[0] for row in measurements} == {"fitness", "validation", "heldout"}
    again = run("again.db", candidates=14, preset=preset, guesses=())
    assert rows_of(tmp_path / "again.db") == rows_of(tmp_path / "s.db")
    assert again.closing == result.closing


@pytest.mark.parametrize("pattern", ["50%", "2:4"])
def test_a_search_for_one_formula(run, tmp_path, pattern):
    result = run(pattern=pattern, genome="formula")
    candidates, _, guidance, _ = rows_of(tmp_path / "s.db")
    assert guidance
    assert any(row.origin == "descent" for row in candidates)
    assert all(isinstance(row.recipe["metric"], str) for row in candidates)
    assert all(row.recipe["allocation"] == {"name": "uniform"} for row in candidates)
    assert isinstance(result.best.metric, Metric)


@pytest.mark.parametrize("preset", ["paper", "random", "evopress"])
def test_other_presets_take_no_guesses(run, tmp_path, preset):
    with pytest.raises(InputError, match=preset):
        run(preset=preset)
    assert not list(tmp_path.glob("s.*"))


@pytest.mark.parametrize("preset", ["default", "random", "evopress", "paper"])
def test_the_first_candidate_is_there_before_gradients_are_gathered(run, monkeypatch, preset):
    gathered = []
    honest = workbench.gather_statistics

    def watched(network, matrices, tokens, terminals, *rest):
        gathered.append((terminals, len(study_of_the_run().candidates())))
        return honest(network, matrices, tokens, terminals, *rest)

    def study_of_the_run():
        return opened[-1]

    opened = []
    create = Study.open_or_create
    monkeypatch.setattr(
        Study, "open_or_create", lambda *args: opened.append(create(*args)) or opened[-1]
    )
    monkeypatch.setattr(workbench, "gather_statistics", watched)
    run(candidates=3, preset=preset, guesses=())
    needs = [bool(terminals & {"G", "F"}) for terminals, _ in gathered]
    if preset == "paper":
        assert (needs, gathered[0][1]) == ([True], 0)
    else:
        assert needs == [False, True]
        assert [rows for _, rows in gathered] == [0, 1]
    # It is measured once only when the search goes on.
    run(candidates=4, preset=preset, guesses=())
    assert gathered[-1][1] == 3


@pytest.mark.parametrize("pattern", ["2:4", "1:4"])
def test_structured_patterns(run, tmp_path, pattern):
    result = run(pattern=pattern)
    candidates, _, guidance, _ = rows_of(tmp_path / "s.db")
    assert len(candidates) == CANDIDATES
    assert all(data["costs"] == {} for data in guidance)
    first = next(row for row in candidates if row.origin == "descent")
    assert isinstance(first.recipe["metric"], dict)
    assert result.closing.reallocated is None
    assert all(row.recipe["allocation"] == {"name": "uniform"} for row in candidates)


def test_a_raising_operator_fails_its_candidates_alone(run, tmp_path, monkeypatch):
    def raising(_):
        raise RuntimeError("out of paper")

    broken = dataclasses.replace(OPERATORS["tanh"], kernel=raising)
    monkeypatch.setitem(OPERATORS, "tanh", broken)
    guesses = ("W * tanh(A)", "mms(W - W) * A", "W * A ** 0.8")
    result = run(guesses=guesses)
    assert result.candidates == CANDIDATES
    rows = {row.expression: row for row in rows_of(tmp_path / "s.db")[0]}
    assert rows[guesses[0]].status in {"failed", "rejected"}
    assert rows[guesses[0]].reason == "RuntimeError: out of paper"
    assert rows[guesses[1]].status in {"failed", "rejected"}
    assert "not finite" in rows[guesses[1]].reason
    assert rows[guesses[2]].status == "evaluated"


def test_a_candidate_that_becomes_slow_leaves_nothing_behind(run, tmp_path, monkeypatch):
    """It is given up amid pruning the model; the search is then as if it had raised."""
    kernel, tanh, calls, now = OPERATORS["tanh"].kernel, OPERATORS["tanh"], [0], [0.0]

    def dawdle(x):
        calls[0] += 1
        now[0] += 35.0 if calls[0] > len(probes) else 0.0
        return kernel(x)

    def fail(x):
        calls[0] += 1
        if calls[0] > len(probes) + 1:
            raise RuntimeError("out of paper")
        return kernel(x)

    probes = range(6)
    monkeypatch.setattr(timelimit, "time", SimpleNamespace(monotonic=lambda: now[0]))
    found = {}
    for function in (dawdle, fail):
        monkeypatch.setitem(OPERATORS, "tanh", dataclasses.replace(tanh, kernel=function))
        calls[0] = 0
        run(f"{function.__name__}.db", candidates=10, guesses=("W * tanh(A)",))
        candidates, *rest = rows_of(tmp_path / f"{function.__name__}.db")
        reasons = [row.reason for row in candidates if row.reason]
        rows = [dataclasses.replace(row, reason=None) for row in candidates]
        found[function] = rows, rest
        assert [row.status for row in rows].count("failed") == len(reasons) == 1
        if function is dawdle:
            assert reasons[0].startswith("took more than 60 s, ")
            assert now[0] == 70.0
    assert found[dawdle] == found[fail]


def test_callbacks_see_the_study_and_may_stop(run, tmp_path):
    seen = []

    def stop_at_five(study, row):
        assert study.candidate(row.id) == row
        seen.append(row.id)
        if len(seen) == 5:
            raise session.StopSearch

    result = run(callbacks=[stop_at_five])
    assert seen == [1, 2, 3, 4, 5]
    assert result.candidates == 5
    with Study.open(tmp_path / "s.db") as study:
        assert study.best.id == result.closing.winner.id
    run(callbacks=[lambda _, row: seen.append(row.id)])
    assert seen == list(range(1, CANDIDATES + 1))


def test_ones_own_terminal_and_operator_are_drawn(run, tmp_path, monkeypatch):
    for registry in (OPERATORS, TERMINALS, COLLECTORS, TOKEN_SUMS):  # left as they are found
        for name in ("softsign", "Peak", "largest"):
            monkeypatch.setitem(registry, name, None)
            monkeypatch.delitem(registry, name)
    operators.register(Operator("softsign", 1, lambda x: x / (1 + x.abs()), "x / (1 + |x|)"))
    peak = Terminal("Peak", Shape.COLUMN, Sign.NON_NEGATIVE, "largest |x|", "grows", "activation")
    largest = TokenSum("largest", lambda x: x.abs().amax(0, keepdim=True), torch.maximum)
    register(peak, lambda raw, _: raw["largest"], [largest])
    own = {"preset": "random", "guesses": (), "vocabulary": ("Peak", "softsign")}
    run(candidates=20, **own)
    rows = rows_of(tmp_path / "s.db")[0]
    for name in ("Peak", "softsign("):
        using = [row for row in rows if name in row.expression]
        assert any(row.status == "evaluated" for row in using)
    with pytest.raises(InputError, match="vocabulary"):
        run(candidates=21, preset="random", guesses=())
    guess = "W * softsign(Peak)"
    result = run("guess.db", candidates=21, guesses=(guess,), vocabulary=["Peak"])
    assert result.candidates == 21
    rows = rows_of(tmp_path / "guess.db")[0]
    assert [row.status for row in rows if row.expression == guess] == ["evaluated"]
    with pytest.raises(InputError, match=r"sum 'largest': .* without stream"):
        run("streamed.db", guesses=(guess,), stream=True)


def test_a_pattern_that_does_not_fit_the_model(run, tmp_path):
    with pytest.raises(InputError, match="width"):
        run(pattern="3:5")
    assert not list(tmp_path.glob("s.*"))


DRIVER = """
import sys
from prunerzero.evolution.runner import search
from prunerzero.evolution.settings import Budget

search(sys.argv[1], "50%", study=sys.argv[3], budget=Budget(None, int(sys.argv[4])),
       calibration=sys.argv[2], samples=4, sequence_length=32)
"""


def kill_once(arguments, study, rows, delay):
    """Starts a search and kills it once the study has a number of rows more, or it ends."""
    start = count(study)
    with subprocess.Popen([sys.executable, "-c", DRIVER, *arguments]) as process:
        while process.poll() is None and count(study) < start + rows:
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        process.wait()


def count(path):
    if not Path(path).exists():
        return 0
    with Study.open(path) as study:
        return sum(study.counts().values())


@pytest.mark.parametrize(
    ("kills", "candidates"), [(2, 24), pytest.param(12, 80, marks=pytest.mark.slow)]
)
def test_killing_at_any_moment_loses_nothing(model_directory, text, tmp_path, kills, candidates):
    moments = random.Random(kills)
    study = tmp_path / "killed.db"
    arguments = (model_directory, text, str(study), str(candidates))
    for _ in range(kills):
        rows = moments.randint(1, 2 * candidates // kills)
        kill_once(arguments, study, rows, moments.uniform(0, 0.1))
        with Study.open(study) as opened:
            assert opened.check() == []
    options = {
        "budget": Budget(None, candidates),
        "calibration": text,
        "samples": 4,
        "sequence_length": 32,
    }
    finished = search(model_directory, "50%", study=study, **options)
    whole = search(model_directory, "50%", study=tmp_path / "whole.db", **options)
    assert rows_of(study) == rows_of(tmp_path / "whole.db")
    assert finished.closing == whole.closing
