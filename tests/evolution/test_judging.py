import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from tiny_models import make_text, make_tokenizer

from prunerzero.data.sources import load_documents
from prunerzero.data.splits import Split
from prunerzero.data.windows import WindowSampler, sample_windows
from prunerzero.evaluation.perplexity import measure_loss
from prunerzero.evolution import judging, rungs
from prunerzero.evolution.judging import Arena, IncumbentJudge, PerplexityJudge, RungPlan
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.study import Candidate, Measurement, Study

PLAN = RungPlan(length=32, screening=4, challenge=8, round_length=5, guidance=6)
METRICS = (
    "rown(A)",
    "W * F",
    "W",
    "W * sqrt(F)",
    "W * sqrt(X)",
    "W * A",
    "W * sqrt(A)",
    "W * A * F ** 0.25",
    "W * sqrt(A * F)",
    "W ** 0.5 * A",
    "W * A ** 0.75",
    "W * A * F ** 0.1",
    "rown(W) * A",
    "coln(W) * A",
    "W * A + W * F",
    "W * A * F ** 0.05",
)
RECIPES = [Recipe.from_text(text) for text in METRICS]


class Recorder:
    """A sampler that remembers what was drawn, by the windows' hash."""

    def __init__(self, sampler):
        self.sampler = sampler
        self.draws = {}
        self.pages = []

    def draw(self, index, count):
        windows = self.sampler.draw(index, count)
        for part in range(1, count + 1):
            self.draws[windows.subset(0, part).hash] = (index, windows.tokens[:part])
        self.pages.append(windows)
        return windows

    def windows(self, hash):
        """The tokens of the part of a draw that has a hash."""
        for page in self.pages:
            for start in (0, LADDER.challenge):
                for stop in (LADDER.challenge, LADDER.page):
                    if start < stop and (part := page.subset(start, stop)).hash == hash:
                        return part.tokens
        raise KeyError(hash)


def judge_of(tools, sampler, plan=PLAN):
    return IncumbentJudge([Arena(tools.masker, sampler, tools.compute, plan)])


@pytest.fixture
def tools(bench):
    return bench()


@pytest.fixture
def any_gain(monkeypatch):
    """A candidate that is as good as the incumbent climbs."""
    monkeypatch.setattr(rungs, "WORTHWHILE", 0.0)


def timeless(verdict):
    """A verdict without what differs between two runs or what JSON does not tell apart."""
    return dataclasses.replace(
        verdict,
        measurements=tuple(
            dataclasses.replace(
                m,
                seconds=0,
                id=None,
                created=None,
                candidate_id=None,
                data=json.loads(json.dumps(m.data)),
            )
            for m in verdict.measurements
        ),
    )


# IncumbentJudge


def test_the_first_candidate_is_the_measure_of_all(tools, sampler):
    judge = judge_of(tools, sampler)
    verdict = judge.judge(RECIPES[0])
    assert (verdict.fitness, verdict.incumbent) == (0.0, True)
    assert judge.incumbent is RECIPES[0]
    (measurement,) = verdict.measurements
    assert (measurement.purpose, measurement.rung) == ("fitness", 0)
    assert measurement.tokens == PLAN.screening * (PLAN.length - 1)
    assert measurement.kl == pytest.approx(np.mean(measurement.data["kl"]))


@pytest.mark.usefixtures("any_gain")
def test_the_incumbent_itself_never_wins(tools, sampler):
    judge = judge_of(tools, sampler)
    judge.judge(RECIPES[0])
    for _ in range(2 * PLAN.round_length):
        verdict = judge.judge(Recipe.from_json(RECIPES[0].to_json()))
        assert (verdict.fitness, verdict.incumbent) == (0.0, False)
        assert [m.rung for m in verdict.measurements] == [0, 1]
        for measurement in verdict.measurements:
            assert measurement.data["log_ratio"] == 0.0
            assert measurement.data["standard_error"] == 0.0


def test_divergences_are_those_of_the_dense_model(tools, sampler):
    verdict = judge_of(tools, sampler).judge(RECIPES[5])
    tokens = sampler.draw(0, PLAN.challenge).tokens[: PLAN.screening]

    def log_probabilities():
        with torch.no_grad():
            return torch.log_softmax(tools.model(tokens).logits[:, :-1].double(), -1)

    tools.masker.apply(RECIPES[5])
    pruned = log_probabilities()
    tools.masker.restore()
    dense = log_probabilities()
    expected = (dense.exp() * (dense - pruned)).sum(-1).mean(1)
    assert verdict.measurements[0].data["kl"] == pytest.approx(expected.tolist(), rel=1e-2)


def fake(rung, ratio, error=0.01, **notes):
    data = {"kl": [0.5] * PLAN.challenge, "log_ratio": ratio, "standard_error": error, **notes}
    return Measurement(purpose="fitness", windows="w", tokens=1, loss=1.0, rung=rung, data=data)


def test_levels_add_up_through_the_incumbents(tools, sampler):
    judge = judge_of(tools, sampler)
    a, b, c, d = RECIPES[:4]
    judge.recall(a, [fake(0, 0.0)])
    assert judge.recall(b, [fake(0, 0.2)]).fitness == 0.2
    verdict = judge.recall(b, [fake(0, -0.3), fake(1, -0.1)])
    assert (verdict.fitness, verdict.incumbent) == (-0.1, True)
    assert judge.recall(c, [fake(0, 0.05)]).fitness == pytest.approx(-0.05)
    verdict = judge.recall(d, [fake(0, -0.1), fake(1, -0.2)])
    assert (verdict.fitness, verdict.incumbent) == (pytest.approx(-0.3), True)
    assert judge.incumbent is d


@pytest.mark.parametrize(
    ("ratio", "error", "wins"),
    [(-0.1, 0.06, True), (-0.1, 0.0609, False), (-0.001, 0.0, True), (0.0, 0.0, False)],
)
def test_a_win_must_exceed_noise(tools, sampler, ratio, error, wins):
    judge = judge_of(tools, sampler)
    judge.recall(RECIPES[0], [fake(0, 0.0)])
    challenge = [fake(0, -1.0), fake(1, ratio, error)]
    assert judge.recall(RECIPES[1], challenge).incumbent is wins


def test_a_win_on_the_screening_rung_alone_counts_for_nothing(tools, sampler):
    judge = judge_of(tools, sampler)
    judge.recall(RECIPES[0], [fake(0, 0.0)])
    assert not judge.recall(RECIPES[1], [fake(0, -5.0, 0.0)]).incumbent


def test_an_audited_candidate_that_wins_becomes_the_incumbent(tools, sampler):
    judge = judge_of(tools, sampler)
    judge.recall(RECIPES[0], [fake(0, 0.0)])
    verdict = judge.recall(RECIPES[1], [fake(0, 0.3), fake(1, -0.1, audit=True)])
    assert (verdict.fitness, verdict.incumbent) == (-0.1, True)
    assert judge.incumbent is RECIPES[1]
    verdict = judge.recall(RECIPES[2], [fake(0, 0.3), fake(1, 0.2, audit=True)])
    assert (verdict.fitness, verdict.incumbent) == (pytest.approx(0.1), False)


def draw(monkeypatch, *numbers):
    """Draws the candidates of these numbers for an audit, the first being 0."""
    monkeypatch.setattr(judging, "is_drawn", lambda judged: judged in numbers)


@pytest.mark.usefixtures("any_gain")
def test_an_audit_measures_what_rung_0_rejected(tools, sampler, monkeypatch):
    recipes = [RECIPES[5], RECIPES[0], RECIPES[0], RECIPES[5], RECIPES[5]]
    draw(monkeypatch, 2, 3)
    judge = judge_of(tools, sampler)
    verdicts = run(judge, recipes)
    climbs = [[(m.rung, m.data.get("audit", False)) for m in v.measurements] for v in verdicts]
    promoted = [(0, False), (1, False)]
    assert climbs == [[(0, False)], [(0, False)], [(0, False), (1, True)], promoted, promoted]
    _, challenge = verdicts[2].measurements
    assert verdicts[2].fitness == challenge.data["log_ratio"] > 0


def test_the_slack_that_recalled_candidates_earned_is_granted_and_recorded(
    tools, sampler, monkeypatch
):
    monkeypatch.setattr(rungs, "REVIEW_READINGS", 2)
    monkeypatch.setattr(rungs, "REVIEW_AUDITS", 0)
    judge = judge_of(tools, sampler, dataclasses.replace(PLAN, round_length=100))
    first = judge.judge(RECIPES[5])
    assert "slack" not in first.measurements[0].data
    worse = Recipe.from_text("W * A ** 0.9")
    (screening,) = judge.judge(worse).measurements
    assert screening.data["slack"] == 0.0
    assert 0 < screening.data["log_ratio"] < 1.5 * screening.data["standard_error"]
    for _ in range(3):  # rung 1 says the contrary of rung 0
        judge.recall(RECIPES[0], [fake(0, -0.1), fake(1, 0.2)])
        judge.recall(RECIPES[0], [fake(0, -0.2), fake(1, 0.3)])
    screening, challenge = judge.judge(worse).measurements
    assert screening.data["slack"] == 3 * rungs.SLACK_STEP
    assert screening.data["log_ratio"] > 0
    assert "audit" not in challenge.data


def run(judge, recipes=RECIPES):
    return [judge.judge(recipe) for recipe in recipes]


def test_the_run_has_wins_losses_and_rounds(tools, sampler):
    """What the following tests rely on."""
    judge = judge_of(tools, sampler)
    verdicts = run(judge)
    assert sum(verdict.incumbent for verdict in verdicts) >= 3
    assert any(len(v.measurements) == 2 and not v.incumbent for v in verdicts)
    assert any(len(v.measurements) == 1 for v in verdicts[1:])
    assert judge.arenas[0]._round > sum(verdict.incumbent for verdict in verdicts[1:])


@pytest.mark.parametrize(
    ("length", "confirm", "audit_every"), [(32, 0, 20), (20, 0, 20), (32, 6, 3)]
)
def test_recalling_is_as_good_as_judging(
    bench, sampler, tmp_path, monkeypatch, length, confirm, audit_every
):
    monkeypatch.setattr(rungs, "AUDIT_EVERY", audit_every)
    monkeypatch.setattr(rungs, "REVIEW_READINGS", 3)
    monkeypatch.setattr(rungs, "REVIEW_AUDITS", 0)
    monkeypatch.setattr(rungs, "LOWEST_TAU", 1.1)  # so that the slack grows
    tools = bench()
    sampler = type(sampler)(
        load_documents(sampler.source), make_tokenizer(), Split.SELECTION, length, seed=0
    )
    plan = dataclasses.replace(PLAN, length=length, confirm=confirm)
    expected = run(judge_of(tools, sampler, plan))
    data = [m.data for verdict in expected for m in verdict.measurements]
    assert any(one.get("slack") for one in data)
    assert any("audit" in one for one in data) or audit_every == 20
    assert any(m.rung == 2 for v in expected for m in v.measurements) is (confirm > 0)
    with Study.create(tmp_path / "s.db", {}) as study:
        for number, verdict in enumerate(expected):
            row = Candidate(
                step=number,
                key=METRICS[number],
                status="evaluated",
                recipe=RECIPES[number].to_json(),
                expression=METRICS[number],
                size=1,
                origin="guess",
                fitness=verdict.fitness,
            )
            study.add_candidate(row, verdict.measurements)
        for killed in range(1, len(RECIPES)):
            judge = judge_of(bench(), sampler, plan)
            for number in range(killed):
                found = study.measurements("fitness", number + 1)
                verdict = judge.recall(RECIPES[number], found)
                assert timeless(verdict) == timeless(expected[number])
            later = min(killed + 3, len(RECIPES))
            for number in range(killed, later):
                verdict = judge.judge(RECIPES[number])
                assert timeless(verdict) == timeless(expected[number]), (killed, number)


def test_challenges_are_on_windows_that_nothing_was_chosen_on(tools, sampler):
    recorder = Recorder(sampler)
    assert sampler.capacity // PLAN.challenge >= 10, "the text is too short for this test"
    judge = judge_of(tools, recorder)
    chosen_on = set()  # windows that the present incumbent, or one before it, was chosen on
    for number, recipe in enumerate(RECIPES[:9]):
        verdict = judge.judge(recipe)
        used = [recorder.draws[measurement.windows] for measurement in verdict.measurements]
        if len(used) == 2:
            (screening, first), (challenge, second) = used
            assert challenge > screening
            assert not rows(first) & rows(second)
            assert not rows(second) & chosen_on
        for index, _ in used:
            assert index % 2 == 0
        if verdict.incumbent and number:
            for _, tokens in used:
                chosen_on |= rows(tokens)
            # Rung 0 of the new round is a part of what was won on; its rung 1 is fresh.
            assert rows(judge.arenas[0].windows(0).tokens) <= rows(used[1][1])


def rows(tokens):
    return set(map(tuple, tokens.tolist()))


def test_gradients_never_see_windows_of_a_rung(tools, sampler):
    recorder = Recorder(sampler)
    judge = judge_of(tools, recorder)
    seen = set()
    for recipe in RECIPES[:8]:
        for measurement in judge.judge(recipe).measurements:
            seen |= rows(recorder.draws[measurement.windows][1])
    previous = set()
    for index in range(3):
        reference = judge.arenas[0].fresh_reference(index)
        assert len(reference.tokens) == PLAN.guidance
        assert not rows(reference.tokens) & (seen | previous)
        previous |= rows(reference.tokens)
        indices = {draw for draw, tokens in recorder.draws.values() if rows(tokens) & previous}
        assert all(draw % 2 for draw in indices)


def test_a_fresh_reference_is_of_the_dense_model(tools, sampler):
    judge = judge_of(tools, sampler)
    judge.judge(RECIPES[0])  # leaves the model pruned
    reference = judge.arenas[0].fresh_reference(0)
    tools.masker.restore()
    assert reference.measure(tools.model).mean_kl == pytest.approx(0.0, abs=1e-6)


def test_an_unusable_candidate_leaves_no_trace(bench, sampler):
    plain, disturbed = (judge_of(bench(), sampler) for _ in range(2))
    expected = run(plain, RECIPES[:8])
    found = []
    for recipe in RECIPES[:8]:
        with pytest.raises(UnusableScores):
            disturbed.judge(Recipe.from_text("W * mms(A - A)"))
        found.append(disturbed.judge(recipe))
    assert list(map(timeless, found)) == list(map(timeless, expected))


LADDER = RungPlan(length=32, screening=16, challenge=64, confirm=256, round_length=5)


@pytest.fixture(scope="module")
def long_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "text.jsonl"
    path.write_text("\n".join(json.dumps({"text": make_text(n, 1200)}) for n in range(150)))
    return str(path)


@pytest.fixture
def long_sampler(long_text):
    documents = load_documents(long_text)
    sampler = WindowSampler(documents, make_tokenizer(), Split.SELECTION, LADDER.length, seed=0)
    assert sampler.capacity >= 4 * LADDER.page, "the text is too short for this test"
    return sampler


def test_winners_of_rung_1_are_confirmed_on_more_fresh_windows(tools, long_sampler, monkeypatch):
    monkeypatch.setattr(rungs, "WON_ERRORS", math.inf)
    recorder = Recorder(long_sampler)
    judge = judge_of(tools, recorder, LADDER)
    verdicts = run(judge, RECIPES[:6])
    climbs = [[m.rung for m in verdict.measurements] for verdict in verdicts]
    assert [0] in climbs[1:]
    assert [0, 1, 2] in climbs
    used = set()
    for verdict in verdicts[1:]:
        counts = [
            (m.tokens // (LADDER.length - 1), len(m.data["kl"])) for m in verdict.measurements
        ]
        assert all(counted == read for counted, read in counts)
        # All windows of a rung, unless the candidate lost there on part of them.
        full = [16, 64, 256][: len(counts)]
        assert [read for _, read in counts[:-1]] == full[:-1]
        assert counts[-1][1] == full[-1] or counts[-1][1] in rungs.parts(full[-1], LADDER)
        assert verdict.incumbent <= (len(counts) == 3)
        if len(counts) == 3:
            _, challenge, confirmation = verdict.measurements
            ratio, error = rungs.decisive(verdict.measurements)
            assert verdict.incumbent is (ratio < -rungs.CONFIDENCE * error)
            assert error < challenge.data["standard_error"]
            fresh = rows(recorder.windows(challenge.windows))
            fresh |= rows(recorder.windows(confirmation.windows))
            assert len(fresh) == LADDER.page
            assert not fresh & used
            used |= fresh


@pytest.mark.usefixtures("any_gain")
def test_a_candidate_that_has_lost_is_read_no_further(tools, sampler):
    judge = judge_of(tools, sampler)
    first = judge.judge(Recipe.from_text("W * A"))
    assert len(first.measurements[0].data["kl"]) == PLAN.screening
    hopeless = judge.judge(Recipe.from_text("1 / (W * A)")).measurements
    assert [len(measurement.data["kl"]) for measurement in hopeless] == [PLAN.glance]
    assert hopeless[0].tokens == PLAN.glance * (PLAN.length - 1)
    again = judge.judge(Recipe.from_text("W * A * 2")).measurements
    assert [len(measurement.data["kl"]) for measurement in again] == [4, 8]


@pytest.mark.usefixtures("any_gain")
def test_a_reading_does_not_depend_on_its_parts(tools, sampler):
    whole = judge_of(tools, sampler, dataclasses.replace(PLAN, screening=8))
    parts = judge_of(tools, sampler)
    run(whole, [RECIPES[5], RECIPES[5]])
    run(parts, [RECIPES[5], RECIPES[5]])
    assert whole.arenas[0]._readings[0].kl[:4] == parts.arenas[0]._readings[0].kl
    assert whole.arenas[0]._readings[1].kl == parts.arenas[0]._readings[1].kl


def test_a_confirmation_can_undo_a_win(tools, sampler):
    judge = judge_of(tools, sampler, dataclasses.replace(PLAN, confirm=8))
    judge.recall(RECIPES[0], [fake(0, 0.0)])
    undone = judge.recall(RECIPES[1], [fake(0, -0.1), fake(1, -0.1), fake(2, 0.2)])
    assert (undone.fitness, undone.incumbent) == (pytest.approx(0.05), False)
    upheld = judge.recall(RECIPES[1], [fake(0, -0.1), fake(1, -0.1), fake(2, -0.02)])
    assert (upheld.fitness, upheld.incumbent) == (pytest.approx(-0.06), True)


@pytest.mark.usefixtures("any_gain")
def test_audits_climb_to_the_top(tools, sampler, monkeypatch):
    draw(monkeypatch, 1, 3)
    judge = judge_of(tools, sampler, dataclasses.replace(PLAN, confirm=6))
    verdicts = run(judge, [RECIPES[5], RECIPES[0], RECIPES[0], RECIPES[5]])
    climbs = [[(m.rung, m.data.get("audit", False)) for m in v.measurements] for v in verdicts]
    assert climbs[1] == [(0, False), (1, True), (2, True)]
    assert climbs[2] == [(0, False)]
    # The incumbent itself passes rung 0 but does not win on rung 1.
    assert climbs[3] == [(0, False), (1, False), (2, True)]


@pytest.mark.usefixtures("any_gain")
def test_each_model_is_pruned_once_a_climb(tools, sampler, monkeypatch):
    judge = judge_of(tools, sampler)
    run(judge, [RECIPES[5], RECIPES[5]])  # the incumbent's readings are known from here on
    applied = []
    apply = tools.masker.apply
    monkeypatch.setattr(tools.masker, "apply", lambda r: applied.append(r) or apply(r))
    twin = Recipe.from_json(RECIPES[5].to_json())
    assert len(judge.judge(twin).measurements) == 2
    assert applied == [twin]


# PerplexityJudge


def test_the_papers_fitness_is_perplexity(tools, text):
    windows = sample_windows(load_documents(text), make_tokenizer(), Split.SELECTION, 4, 32)
    judge = PerplexityJudge(tools.masker, windows, tools.compute)
    best = math.inf
    for recipe in RECIPES[:6]:
        verdict = judge.judge(recipe)
        tools.masker.apply(recipe)
        loss = measure_loss(tools.model, windows, tools.compute)
        assert verdict.fitness == loss.perplexity
        assert verdict.measurements[0].loss == loss.mean
        assert verdict.measurements[0].windows == windows.hash
        assert verdict.measurements[0].tokens == loss.tokens
        assert verdict.incumbent is (verdict.fitness < best)
        best = min(best, verdict.fitness)
    again = PerplexityJudge(tools.masker, windows, tools.compute)
    verdict = again.recall(RECIPES[5], verdict.measurements)
    assert verdict.fitness == loss.perplexity
    assert again.incumbent is RECIPES[5]
