"""Searches for several patterns, texts or models at once."""

import dataclasses
import json
import math

import pytest
from killing import Killed
from tiny_models import make_text, save_model

from prunerzero.errors import InputError
from prunerzero.evolution import default, rungs, texts
from prunerzero.evolution import runner as module
from prunerzero.evolution.judging import Arena, IncumbentJudge, RungPlan
from prunerzero.evolution.loop import GUIDANCE_EVENT
from prunerzero.evolution.masking import Maskers, under
from prunerzero.evolution.objective import combine, combined_ratio
from prunerzero.evolution.rungs import loss_change
from prunerzero.evolution.runner import search
from prunerzero.evolution.settings import Budget, check_texts
from prunerzero.pruning.allocation import CurvesAllocation, UniformAllocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.study import Study

pytestmark = pytest.mark.usefixtures("own_cache")
HALF, TWO_OF_FOUR = Pattern.parse("50%"), Pattern.parse("2:4")
PLAN = RungPlan(length=32, screening=4, challenge=8, round_length=5, guidance=6)
RECIPES = [
    Recipe.from_text(text)
    for text in (
        "rown(A)",
        "W",
        "W * F",
        "W * sqrt(A)",
        "W * A",
        "W * sqrt(A * F)",
        "W * A ** 0.75",
    )
]


# The objective


def test_targets_are_combined_by_their_mean_or_the_worst():
    assert combine([0.1, 0.4], "mean") == pytest.approx(0.25)
    assert combine([0.1, 0.4], "worst") == 0.4
    ratios = [(-0.3, 0.03), (0.1, 0.04)]
    assert combined_ratio([0.0, 0.0], ratios, "mean") == pytest.approx((-0.1, 0.025))
    assert combined_ratio([0.0, 0.0], ratios, "worst") == (0.1, 0.04)
    # The first target was the incumbent's worst, the second is the candidate's.
    assert combined_ratio([0.5, 0.0], ratios, "worst") == pytest.approx((-0.3, 0.03))
    assert combined_ratio([0.2, 0.0], ratios, "worst") == pytest.approx((-0.1, 0.04))


@pytest.mark.parametrize("value", [0.1, -1 / 3, 1e-17])
def test_one_target_is_not_even_rounded(value):
    assert combine([value], "mean") == value
    assert combined_ratio([0.7], [(value, 0.1)], "mean") == (value, 0.1)


def test_losses_are_compared_by_their_paired_difference():
    ratio, error = loss_change([2.0, 3.0, 4.5], [1.5, 2.75, 4.25])
    assert ratio == pytest.approx(1 / 3)
    assert error == pytest.approx(0.25 / 3)
    assert loss_change([2.0], [1.0]) == (1.0, math.inf)


# The judge


def arenas_of(tools, sampler, fitness="kl"):
    other = tools.masker.sibling(TWO_OF_FOUR)
    return [
        Arena(tools.masker, sampler, tools.compute, PLAN, fitness, "50%"),
        Arena(other, sampler, tools.compute, PLAN, fitness, "2:4"),
    ]


def facts(verdicts):
    return [
        (v.fitness, v.incumbent, [(m.rung, m.windows, json.dumps(m.data)) for m in v.measurements])
        for v in verdicts
    ]


@pytest.mark.parametrize(("objective", "fitness"), [("worst", "kl"), ("mean", "loss")])
def test_recalling_is_as_good_as_judging(bench, sampler, monkeypatch, objective, fitness):
    # A random model's loss hardly depends on its masks, so any gain counts and many are audited.
    monkeypatch.setattr(rungs, "CONFIDENCE", 0.0)
    monkeypatch.setattr(rungs, "WORTHWHILE", 0.0)
    monkeypatch.setattr(rungs, "AUDIT_EVERY", 2)
    judge = IncumbentJudge(arenas_of(bench(), sampler, fitness), objective)
    expected = [judge.judge(recipe) for recipe in RECIPES]
    assert any(m.rung == 1 for verdict in expected for m in verdict.measurements)
    assert sum(verdict.incumbent for verdict in expected) >= (3 if fitness == "kl" else 1)
    for killed in (2, 5):
        again = IncumbentJudge(arenas_of(bench(), sampler, fitness), objective)
        found = [
            again.recall(recipe, json_copy(verdict.measurements))
            for recipe, verdict in zip(RECIPES[:killed], expected, strict=False)
        ]
        found += [again.judge(recipe) for recipe in RECIPES[killed:]]
        assert facts(found) == facts(expected)


def json_copy(measurements):
    return [dataclasses.replace(m, data=json.loads(json.dumps(m.data))) for m in measurements]


@pytest.mark.parametrize("objective", ["mean", "worst"])
def test_a_reading_is_that_of_each_target_alone(bench, sampler, monkeypatch, objective):
    monkeypatch.setattr(rungs, "LOST_RATIO", math.inf)  # all windows of rung 0 are read
    tools = bench()
    judge = IncumbentJudge(arenas_of(tools, sampler), objective)
    judge.judge(RECIPES[4])
    [screening, *_] = judge.judge(RECIPES[2]).measurements
    alone = {}
    for arena in arenas_of(bench(), sampler):
        single = IncumbentJudge([arena])
        single.judge(RECIPES[4])
        [one, *_] = single.judge(RECIPES[2]).measurements
        alone[arena.name] = one
    parts = screening.data["targets"]
    assert parts.keys() == alone.keys()
    for name, one in alone.items():
        assert len(one.data["kl"]) == PLAN.screening
        assert parts[name]["kl"] == one.data["kl"]
        assert parts[name]["windows"] == one.windows
    ratios = [part["log_ratio"] for part in parts.values()]
    assert screening.data["log_ratio"] == combine(ratios, objective)
    assert screening.tokens == sum(one.tokens for one in alone.values())


def part(ratio, error=0.001):
    return {"kl": [0.5] * PLAN.challenge, "log_ratio": ratio, "standard_error": error}


def test_the_worst_target_keeps_a_level_of_its_own(bench, sampler):
    judge = IncumbentJudge(arenas_of(bench(), sampler), "worst")
    [first_measured] = judge.judge(RECIPES[0]).measurements

    def verdict(first, second):
        levels = judge._levels
        ratio, error = combined_ratio(levels, [(first, 0.001), (second, 0.001)], "worst")
        data = {"targets": {"50%": part(first), "2:4": part(second)}}
        data |= {"log_ratio": ratio, "standard_error": error}
        rung = [dataclasses.replace(first_measured, rung=r, data=data) for r in (0, 1)]
        return judge.recall(RECIPES[1], rung)

    one = verdict(-0.5, -0.1)
    assert (one.fitness, one.incumbent) == (pytest.approx(-0.1), True)
    # A loss on the target that was well off costs nothing while the other gains.
    two = verdict(0.2, -0.1)
    assert (two.fitness, two.incumbent) == (pytest.approx(-0.2), True)
    # And a gain where it was well off buys nothing.
    three = verdict(-0.9, 0.05)
    assert (three.fitness, three.incumbent) == (pytest.approx(-0.15), False)


# Masks


def test_maskers_of_patterns_share_the_model(bench):
    masker = bench("50%").masker
    other = masker.sibling(TWO_OF_FOUR)
    assert other.dense is masker.dense
    plain = bench("2:4").masker
    both = Maskers([masker, other])
    recipe = Recipe.from_text("W * A")
    assert other.sketch(recipe).fingerprint == plain.sketch(recipe).fingerprint
    assert Maskers([masker]).sketch(recipe).fingerprint == masker.sketch(recipe).fingerprint
    assert both.sketch(recipe).fingerprint not in {
        masker.sketch(recipe).fingerprint,
        other.sketch(recipe).fingerprint,
    }
    assert len(both.probe_masks(recipe)) == 2 * len(masker.probe_masks(recipe))
    spread = recipe.model_copy(update={"allocation": CurvesAllocation(curves={"q_proj": (0.1,)})})
    assert both.sketch(spread).fingerprint != both.sketch(recipe).fingerprint
    assert other.sketch(spread).fingerprint == other.sketch(recipe).fingerprint
    assert both.key(spread) != both.key(recipe)
    assert both.key(recipe) == f"{recipe.key(HALF)} || {recipe.key(TWO_OF_FOUR)}"
    assert under(spread, HALF) is spread
    assert under(spread, TWO_OF_FOUR).allocation == UniformAllocation()


# Whole searches


@dataclasses.dataclass(frozen=True)
class ShortRounds(RungPlan):
    """So that a short search has several rounds."""

    round_length: int = 4
    challenge: int = 6
    guidance: int = 4


@pytest.fixture
def run(model_directory, text, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RungPlan", ShortRounds)
    monkeypatch.setattr(default, "SEEDS", default.SEEDS[:1])
    monkeypatch.setattr(default.DefaultStrategy, "RANDOM_TREES", 1)
    monkeypatch.setattr(default.DefaultStrategy, "STEPS", 2)
    monkeypatch.setattr(texts, "HELDOUT_WINDOWS", 4)
    monkeypatch.setattr(texts, "VALIDATION_WINDOWS", 4)

    def start(name, candidates, model=model_directory, pattern="50%", **more):
        options = {"calibration": text, "samples": 4, "sequence_length": 32} | more
        budget = Budget(None, candidates)
        return search(model, pattern, study=tmp_path / name, budget=budget, **options)

    return start


@pytest.fixture
def begin(run):
    """Starts a search that is killed after so many candidates."""

    def start(name, candidates, **options):
        def watch(status):
            if status.candidates == candidates:
                raise Killed

        with pytest.raises(Killed):
            run(name, 99, observe=watch, **options)

    return start


def rows_of(path):
    with Study.open(path) as study:
        assert study.check() == []
        candidates = [
            dataclasses.replace(row, seconds=0.0, created=None) for row in study.candidates()
        ]
        fitness = study.measurements("fitness")
        guidance = [event.data for event in study.events(GUIDANCE_EVENT)]
        read = [(m.candidate_id, m.rung, m.windows, m.loss, m.kl, m.data) for m in fitness]
        return candidates, read, guidance, study.duplicates()


@pytest.fixture
def other_text(tmp_path):
    path = tmp_path / "other.jsonl"
    path.write_text("\n".join(json.dumps({"text": make_text(n, 1200)}) for n in range(50, 62)))
    return str(path)


def test_patterns_and_texts_in_one_search_that_goes_on(run, begin, text, other_text, tmp_path):
    options = {"pattern": ["50%", TWO_OF_FOUR], "calibration": [text, other_text]}
    begin("parts.db", 5, **options)
    result = run("parts.db", 9, **options)
    whole = run("whole.db", 9, **options)
    assert rows_of(tmp_path / "parts.db") == rows_of(tmp_path / "whole.db")
    assert result.closings == whole.closings
    names = [f"{pattern}, {source}" for source in (text, other_text) for pattern in ("50%", "2:4")]
    assert list(whole.closings) == names
    assert len({closing.winner.id for closing in whole.closings.values()}) == 1
    assert len({closing.best.loss for closing in whole.closings.values()}) == 4
    candidates, measurements, guidance, _ = rows_of(tmp_path / "whole.db")
    assert all(data["targets"].keys() == set(names) for *_, data in measurements)
    descent = next(row for row in candidates if row.origin == "descent")
    assert descent.recipe["allocation"]["name"] == "curves"  # one pattern leaves it free
    assert all(data["costs"] for data in guidance)
    with Study.open(tmp_path / "whole.db") as study:
        assert study.settings["pattern"] == "50%, 2:4"
        assert len(study.events("heldout")) == 1
    provenance = whole.best.provenance
    assert provenance["targets"] == names
    assert len(provenance["texts"]) == 6
    assert result.best.source.endswith("--pattern 50% --pattern 2:4")
    saved = Recipe.load(whole.recipe_path)
    assert saved == whole.best
    spread = saved.allocation != UniformAllocation()
    assert (whole.nm_recipe_path is not None) is spread
    if whole.nm_recipe_path:
        assert Recipe.load(whole.nm_recipe_path).allocation == UniformAllocation()
    with pytest.raises(InputError, match='pattern "50%, 2:4" there, "50%" here'):
        run("whole.db", 13, pattern="50%", calibration=[text, other_text])
    with pytest.raises(InputError, match='objective absent there, "worst" here'):
        run("whole.db", 13, objective="worst", **options)


def test_models_of_different_depth(run, begin, model_directory, tmp_path):
    deeper = str(save_model(tmp_path / "deeper", seed=3, num_hidden_layers=5))
    models = [model_directory, deeper]
    begin("parts.db", 4, model=models)
    result = run("parts.db", 9, models, objective="mean")
    run("whole.db", 9, models)
    assert rows_of(tmp_path / "parts.db") == rows_of(tmp_path / "whole.db")
    assert list(result.closings) == models
    assert f"search {model_directory} --also {deeper}" in result.best.source
    guidance = rows_of(tmp_path / "whole.db")[2]
    assert all(len(data["costs"]) == 3 * 7 for data in guidance)


def test_models_of_other_kinds_are_refused(run, model_directory, tmp_path):
    other = str(save_model(tmp_path / "other", family="gpt2"))
    with pytest.raises(InputError, match="different kinds of matrices") as caught:
        run("s.db", 3, [model_directory, other])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s.db").exists()


def test_a_document_has_one_use_only(text, other_text, tmp_path):
    check_texts([text, other_text])
    lines = (tmp_path / "other.jsonl").read_text().splitlines()
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("\n".join(lines[:6]))
    with pytest.raises(InputError, match="have a document in common"):
        check_texts([text, other_text, str(fewer)])


def test_perplexity_as_the_fitness(run, begin, tmp_path):
    begin("parts.db", 5, fitness="loss")
    run("parts.db", 12, fitness="loss")
    run("whole.db", 12, fitness="loss")
    candidates, measurements, guidance, _ = rows_of(tmp_path / "whole.db")
    assert (candidates, measurements, guidance) == rows_of(tmp_path / "parts.db")[:3]
    first = next(data for _, rung, *_, data in measurements if rung == 0)
    for candidate, rung, _, loss, _, data in measurements:
        assert loss == pytest.approx(sum(data["losses"]) / len(data["losses"]))
        if candidate == 2 and rung == 0:
            count = len(data["losses"])
            expected = [a - b for a, b in zip(data["losses"], first["losses"], strict=False)]
            assert data["log_ratio"] == pytest.approx(sum(expected) / count)
    with pytest.raises(InputError, match='fitness "loss" there, absent here'):
        run("whole.db", 13)
