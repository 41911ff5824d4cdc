import pytest
import torch

from prunerzero import timelimit
from prunerzero.errors import InputError
from prunerzero.evolution import loop as loop_module
from prunerzero.evolution.guidance import Guidance
from prunerzero.evolution.judging import Judge, Verdict
from prunerzero.evolution.loop import (
    ALIKE,
    GUIDANCE_EVENT,
    Deadline,
    Exhausted,
    Loop,
    OutOfTime,
    RecordedGuide,
)
from prunerzero.evolution.strategies import Outcome, Proposal, Strategy
from prunerzero.metric import Operator, operators
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.recipe import Recipe
from prunerzero.study import Measurement, Study


class Script(Strategy):
    """Proposes what it is given, and remembers what it is told."""

    def __init__(self, *texts):
        self.proposals = [Proposal(Recipe.from_text(text), "guess") for text in texts]
        self.told = []
        self.asked = 0

    def ask(self):
        self.asked += 1
        return self.proposals[(self.asked - 1) % len(self.proposals)]

    def tell(self, individual, outcome, proposal=None):
        self.told.append((individual.id, outcome))


class Lengths(Judge):
    """The shorter the formula the better; counts its measurements."""

    def __init__(self):
        self.measured = []
        self.recalled = []
        self.best = None

    def judge(self, recipe):
        self.measured.append(recipe.expression)
        value = float(len(recipe.expression))
        measurement = Measurement(purpose="fitness", windows="w", tokens=1, loss=value)
        return self._verdict(recipe, [measurement])

    def recall(self, recipe, measurements):
        self.recalled.append(recipe.expression)
        return self._verdict(recipe, measurements)

    def _verdict(self, recipe, measurements):
        fitness = measurements[-1].loss
        wins = self.best is None or fitness < self.best
        if wins:
            self.best, self.incumbent = fitness, recipe
        return Verdict(fitness, wins, tuple(measurements))


@pytest.fixture
def study(tmp_path):
    with Study.create(tmp_path / "s.db", {"seed": 0}) as made:
        yield made


@pytest.fixture
def make(bench, study):
    tools = bench()

    def loop(*texts, judge=None):
        return Loop(study, Script(*texts), judge or Lengths(), tools.masker)

    return loop


def test_a_row_for_each_candidate(make, study):
    loop = make("W * A", "W", "F")
    rows = [loop.advance() for _ in range(3)]
    assert rows == study.candidates()
    assert [row.expression for row in rows] == ["W * A", "W", "F"]
    assert [row.fitness for row in rows] == [5.0, 1.0, 1.0]
    assert [row.step for row in rows] == [1, 2, 3]
    assert [row.size for row in rows] == [3, 1, 1]
    assert {row.origin for row in rows} == {"guess"}
    assert all(row.fingerprint for row in rows)
    assert all(study.measurements("fitness", row.id) for row in rows)
    assert loop._strategy.told == [
        (1, Outcome.INCUMBENT),
        (2, Outcome.INCUMBENT),
        (3, Outcome.MEASURED),
    ]
    assert study.check() == []


def test_equivalents_are_never_measured_twice(make, study):
    # All but the last give the first's masks: most have its key too, W * sqrt(X) has not.
    loop = make("W * A", "2 * W * A", "W * A + 3", "W * A ** 1.0", "W * sqrt(X)", "W")
    loop.advance()
    row = loop.advance()
    assert row.expression == "W"
    assert loop._judge.measured == ["W * A", "W"]
    assert row.skipped == loop.duplicates == 4
    assert study.skipped() == 4
    assert study.duplicates()  # at least one was known by its masks only
    assert set(study.duplicates().values()) == {1}
    assert [told for told in loop._strategy.told if told[1] is Outcome.KNOWN] == [
        (1, Outcome.KNOWN)
    ] * 4
    assert study.check() == []


def test_a_key_known_by_its_masks_is_not_scored_again(make, study, monkeypatch):
    loop = make("W * A", "W * sqrt(X)", "W * sqrt(X)", "W")
    calls = []
    sketch = loop._masker.sketch
    monkeypatch.setattr(loop._masker, "sketch", lambda r: calls.append(r.expression) or sketch(r))
    loop.advance()
    loop.advance()
    assert calls.count("W * sqrt(X)") == 1
    assert len(study.duplicates()) == 1


def test_what_is_nearly_alike_is_not_measured(make, study, bench):
    recipes = [Recipe.from_text(text) for text in ("W * A", "W * A ** 1.001", "W * A ** 3")]
    first, near, far = map(bench().masker.sketch, recipes)
    assert first.is_near(near, ALIKE)
    assert not first.is_near(far, ALIKE)
    loop = make(*(recipe.expression for recipe in recipes))
    loop.advance()
    assert loop.advance().expression == recipes[2].expression
    assert loop._judge.measured == [recipes[0].expression, recipes[2].expression]
    if first.fingerprint != near.fingerprint:
        assert set(study.duplicates().values()) == {1}


def test_a_search_that_goes_on_knows_what_is_alike(make, study):
    texts = ("W * A", "W * A ** 3", "W * A ** 1.001", "W")
    loop = make(*texts)
    loop.advance()
    loop.advance()
    again = make(*texts)
    again.replay()
    assert again.advance().expression == "W"
    assert again._judge.measured == ["W"]


def test_unusable_scores_are_rejected_once_with_the_reason(make, study):
    loop = make("W * mms(W - W)", "W * mms(W - W)", "W * 0", "W")
    first, second, third = (loop.advance() for _ in range(3))
    assert (first.status, first.fitness, first.fingerprint) == ("rejected", None, None)
    assert "not finite" in first.reason
    assert second.status == "rejected"
    assert "all the same" in second.reason
    assert (third.status, third.skipped) == ("evaluated", 0)
    assert loop.duplicates == 1
    assert loop._strategy.told == [(3, Outcome.INCUMBENT)]  # nothing is bred from a failure
    assert study.check() == []


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (RuntimeError("boom\n  at line 2"), "failed", "RuntimeError: boom at line 2"),
        (ZeroDivisionError("float division"), "failed", "ZeroDivisionError: float division"),
        (MemoryError(), "failed", "MemoryError: "),
        (UnusableScores("no good"), "failed", "no good"),
    ],
)
def test_a_raising_measurement_is_recorded_and_the_search_goes_on(
    make, study, error, status, reason
):
    judge = Lengths()
    loop = make("W * A", "F", "W", judge=judge)
    loop.advance()
    honest, judge.judge = judge.judge, lambda recipe: (_ for _ in ()).throw(error)
    row = loop.advance()
    assert (row.status, row.reason, row.expression) == (status, reason, "F")
    assert not study.measurements("fitness", row.id)
    judge.judge = honest
    assert loop.advance().status == "evaluated"
    assert study.check() == []


@pytest.mark.parametrize("enough", [1 << 62, "torch"])
def test_scores_that_do_not_fit_in_memory_fail_their_candidate(make, study, monkeypatch, enough):
    """Python's and torch's own failures to allocate, for real: an exabyte."""

    def greedy(x):
        if x.numel() > 400:  # a matrix of the model, and nothing that a probe tries
            bytearray(enough) if enough != "torch" else torch.empty(1 << 58)
        return x + 1

    register(monkeypatch, Operator("greedy", 1, greedy, ""))
    loop = make("W * A", "greedy(W)", "W")
    rows = [loop.advance() for _ in range(3)]
    assert [row.status for row in rows] == ["evaluated", "failed", "evaluated"]
    assert rows[1].reason.startswith("MemoryError" if enough != "torch" else "RuntimeError: ")
    assert "memory" in rows[1].reason.lower()
    assert study.check() == []


def register(monkeypatch, operator):
    """For the time of a test."""
    monkeypatch.setitem(operators.OPERATORS, operator.name, None)
    del operators.OPERATORS[operator.name]
    operators.register(operator)


class Clock:
    """Stands still but for what is done to it."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(timelimit, "time", made)
    return made


def test_a_slow_formula_is_recorded_and_skipped(make, study, monkeypatch, clock):
    def dawdle(x):
        clock.now += 25.0
        return x + 1

    register(monkeypatch, Operator("dawdle", 1, dawdle, ""))
    clock.now = 0.0  # it has been tried
    loop = make("W * A", "dawdle(W)", "W", "dawdle(W)", "F")
    rows = [loop.advance() for _ in range(4)]
    assert [row.expression for row in rows] == ["W * A", "dawdle(W)", "W", "F"]
    assert [row.status for row in rows] == ["evaluated", "failed", "evaluated", "evaluated"]
    assert rows[1].reason.startswith("took more than 60 s, ")
    assert "times the usual" in rows[1].reason
    assert clock.now == 75.0  # after the third of the probe matrices
    assert rows[1].fingerprint is None
    assert study.check() == []
    again = make("W * A", "dawdle(W)", "W", "dawdle(W)", "F", "W * F")
    again.replay()
    assert again.advance().expression == "W * F"  # and nothing slow was done again
    assert clock.now == 75.0


def test_a_slow_measurement_is_recorded_and_skipped(make, study, clock):
    class Slow(Lengths):
        def judge(self, recipe):
            for _ in range(10 if recipe.expression == "F" else 1):
                clock.now += 7.0
                timelimit.check_time()
            return super().judge(recipe)

    judge = Slow()
    loop = make("W * A", "F", "W", judge=judge)
    rows = [loop.advance() for _ in range(3)]
    assert [row.status for row in rows] == ["evaluated", "failed", "evaluated"]
    assert rows[1].fingerprint is not None
    assert judge.measured == ["W * A", "W"]
    assert clock.now == 7 + 63 + 7


def test_an_interrupt_is_no_fault_of_the_candidate(make, study):
    def interrupted(_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ValueError("as pydantic does") from error

    judge = Lengths()
    judge.judge = interrupted
    with pytest.raises(KeyboardInterrupt):
        make("W", judge=judge).advance()
    assert study.candidates() == []


def test_a_bug_of_ours_is_not_hidden(make, study):
    judge = Lengths()
    judge.judge = lambda recipe: (_ for _ in ()).throw(TypeError("ours"))
    with pytest.raises(TypeError):
        make("W", judge=judge).advance()
    assert study.candidates() == []


TEXTS = ("W * A", "2 * W * A", "W * mms(W - W)", "W", "W * sqrt(X)", "F", "W * F", "A")


@pytest.mark.parametrize("killed_after", range(1, 6))
def test_going_on_is_as_if_never_stopped(make, study, bench, tmp_path, killed_after):
    loop = make(*TEXTS)
    for _ in range(6):
        loop.advance()
    with Study.create(tmp_path / "other.db", {"seed": 0}) as other:
        tools = bench()
        first = Loop(other, Script(*TEXTS), Lengths(), tools.masker)
        for _ in range(killed_after):
            first.advance()
        second = Loop(other, Script(*TEXTS), Lengths(), tools.masker)
        second.replay()
        assert second._judge.measured == []
        assert second._strategy.told == first._strategy.told
        assert second.duplicates == first.duplicates
        for _ in range(6 - killed_after):
            second.advance()
        assert len(first._judge.measured + second._judge.measured) == len(loop._judge.measured)
        assert list(map(lasting, other.candidates())) == list(map(lasting, study.candidates()))
        assert other.duplicates() == study.duplicates()
        assert second._strategy.told == loop._strategy.told


def lasting(row):
    return (row.id, row.step, row.key, row.status, row.fitness, row.fingerprint, row.reason,
            row.skipped, row.parents)  # fmt: skip


def test_a_study_of_another_search_is_refused(make):
    make("W * A", "W").advance()
    with pytest.raises(InputError, match="candidate 1 is not what this version"):
        make("F", "W").replay()


def test_a_space_without_anything_new_ends(make, monkeypatch):
    monkeypatch.setattr(loop_module, "MOST_DUPLICATES", 20)
    loop = make("W * A", "W")
    loop.advance()
    loop.advance()
    with pytest.raises(Exhausted):
        loop.advance()


def test_derivatives_are_measured_once(bench, study):
    tools = bench()
    measured = []

    def measure(masker, recipe, reference, fitness):
        assert (masker, fitness) == (tools.masker, "loss")
        measured.append((recipe, reference))
        slopes = {"q_proj": {"A": 1 / 3, "F": -0.25 * len(measured)}}
        return Guidance(0.7, {"a": 0.1 + len(measured), "b": -1e-17 / 3}, slopes)

    class References:
        masker = tools.masker
        fitness = "loss"

        def fresh_reference(self, index):
            return f"reference {index}"

    wanda, magnitude = Recipe.named("wanda"), Recipe.named("magnitude")
    deadline = Deadline()
    guide = RecordedGuide(study, [References()], measure, deadline)
    first, second = guide(wanda), guide(magnitude)
    assert first != second
    assert measured == [(wanda, "reference 0"), (magnitude, "reference 1")]
    assert GUIDANCE_EVENT == "guidance"
    events = [event.data for event in study.events(GUIDANCE_EVENT)]
    assert [data["index"] for data in events] == [0, 1]
    again = RecordedGuide(study, [References()], measure, deadline)
    assert [again(wanda), again(magnitude)] == [first, second]
    assert len(measured) == 2
    again(wanda)
    assert measured[2] == (wanda, "reference 2")
    # Late in a session what is recorded is told still, and nothing new is begun.
    late = RecordedGuide(study, [References()], measure, Deadline(at=0.0))
    assert late(wanda) == first
    late(magnitude)
    late(wanda)
    with pytest.raises(OutOfTime):
        late(wanda)
    assert len(measured) == 3
