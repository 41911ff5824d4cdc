"""The rung that prunes a few blocks, and whole searches of a streamed model."""

import dataclasses
import math

import pytest

from prunerzero.analysis.agreement import describe_ladder
from prunerzero.evolution import default, texts, workbench
from prunerzero.evolution import runner as module
from prunerzero.evolution.judging import RungPlan
from prunerzero.evolution.loop import GUIDANCE_EVENT
from prunerzero.evolution.runner import ROUNDING_EVENT, search
from prunerzero.evolution.settings import Budget
from prunerzero.evolution.subset import chosen_blocks
from prunerzero.study import Study

pytestmark = pytest.mark.usefixtures("own_cache")


@dataclasses.dataclass(frozen=True)
class ShortRounds(RungPlan):
    """So that a short search has several rounds."""

    round_length: int = 5
    challenge: int = 6
    guidance: int = 4


@pytest.fixture
def run(model_directory, text, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RungPlan", ShortRounds)
    monkeypatch.setattr(workbench, "STREAMED_WINDOWS", 2)
    monkeypatch.setattr(default, "SEEDS", default.SEEDS[:1])
    monkeypatch.setattr(default.DefaultStrategy, "RANDOM_TREES", 1)
    monkeypatch.setattr(texts, "HELDOUT_WINDOWS", 4)
    monkeypatch.setattr(texts, "VALIDATION_WINDOWS", 4)

    def start(name, candidates, pattern="50%", **more):
        options = {"calibration": text, "samples": 4, "sequence_length": 32, "dtype": "float32"}
        options |= {"stream": True} | more
        budget = Budget(None, candidates)
        return search(model_directory, pattern, study=tmp_path / name, budget=budget, **options)

    return start


def rows_of(path):
    with Study.open(path) as study:
        assert study.check() == []
        rows = [(row.key, row.status, row.fitness) for row in study.candidates()]
        fitness = study.measurements("fitness")
        return rows, [(m.candidate_id, m.rung, m.windows, m.kl, m.data) for m in fitness]


def test_blocks_are_spread_over_the_depth():
    assert chosen_blocks(range(3), 2) == [0, 2]
    assert chosen_blocks(range(32), 4) == [4, 12, 20, 28]
    assert chosen_blocks(range(2), 5) == [0, 1]


def test_a_search_by_a_few_blocks(run, tmp_path):
    run("part.db", 5, "2:4")
    result = run("part.db", 12, "2:4")
    whole = run("whole.db", 12, "2:4")
    assert rows_of(tmp_path / "part.db") == rows_of(tmp_path / "whole.db")
    assert result.closing == whole.closing
    rows, measurements = rows_of(tmp_path / "whole.db")
    assert rows[0][2] == 0.0
    screened = [data for _, rung, _, kl, data in measurements if rung == 0 and kl is None]
    evaluated = [row for row in rows if row[1] == "evaluated"]
    assert len(screened) == len(evaluated)
    assert all(len(data["block_errors"]) == 2 for data in screened)
    challenged = [kl for _, rung, _, kl, _ in measurements if rung == 1]
    assert challenged
    assert all(kl > 0 for kl in challenged)
    with Study.open(tmp_path / "whole.db") as study:
        ladder = describe_ladder(study.candidates(), study.measurements("fitness"))
        assert 0.9 < study.events(ROUNDING_EVENT)[0].data["agreement"] <= 1
        assert study.events(GUIDANCE_EVENT)
    assert ladder.agreement[0].rungs == (0, 1)
    assert ladder.agreement[0].readings == len(challenged)
    assert math.isfinite(result.closing.best.loss.perplexity)


def test_a_search_that_spreads_sparsity_reads_all_blocks(run, tmp_path):
    run("s.db", 8)
    _, measurements = rows_of(tmp_path / "s.db")
    assert all(kl is not None for _, _, _, kl, _ in measurements)
    run("memory.db", 1, stream=False)
    _, whole = rows_of(tmp_path / "memory.db")
    # The first candidate, Wanda, is measured on the same windows, and on more of them in memory.
    assert measurements[0][4]["kl"] == pytest.approx(whole[0][4]["kl"][:2], rel=1e-4)
