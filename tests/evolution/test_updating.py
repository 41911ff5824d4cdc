"""Searches whose candidates update the kept weights before their fitness is measured."""

import pytest
import torch
from crews import RandomCrew

from prunerzero.errors import InputError
from prunerzero.evaluation.comparison import Comparison
from prunerzero.evolution import runner
from prunerzero.evolution.guidance import measure_guidance
from prunerzero.evolution.loop import GUIDANCE_EVENT
from prunerzero.evolution.runner import search
from prunerzero.evolution.settings import Budget
from prunerzero.evolution.updating import check_update
from prunerzero.metric.scoring import ColumnScorer
from prunerzero.pruning.allocation import CurvesAllocation
from prunerzero.recipe import Recipe
from prunerzero.statistics.cache import gather_statistics
from prunerzero.statistics.hessian import inverse_factor
from prunerzero.study import Study
from prunerzero.updates.columnwise import BLOCK, as_chosen, derivatives

pytestmark = pytest.mark.usefixtures("own_cache")
CANDIDATES = 9
UPDATES = ("sparsegpt", "sparsegpt-adaptive")
ALLOCATION = CurvesAllocation(curves={"up_proj": (0.1, -0.1, 0.1)})


@pytest.fixture
def run(model_directory, text, tmp_path):
    def start(pattern="50%", candidates=CANDIDATES, name="s.db", **more):
        return search(
            model_directory, pattern, study=tmp_path / name, budget=Budget(None, candidates),
            calibration=text, samples=4, sequence_length=32, **more,
        )  # fmt: skip

    return start


@pytest.fixture
def updating(bench):
    """A bench whose masker knows what updates need."""

    def make(pattern="50%"):
        made = bench(pattern)
        wanted = frozenset({"A", "F", "X", "H", "Hfree"})
        made.masker.use(
            gather_statistics(made.model, made.masker.matrices, made.tokens, wanted, made.compute)
        )
        return made

    return make


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("pattern", ["50%", "2:4"])
def test_a_search(run, tmp_path, pattern, update):
    result = run(pattern, update=update)
    with Study.open(tmp_path / "s.db") as study:
        assert study.check() == []
        rows = study.candidates()
    assert {row.recipe["update"] for row in rows} == {update}
    first = "W ** 2 / Hfree" if update == "sparsegpt-adaptive" else "W * sqrt(X)"
    assert rows[0].expression == first
    assert any(row.origin == "descent" and "Hfree" in row.expression for row in rows)
    assert Recipe.load(result.recipe_path).update == update
    names = {reading.name for reading in result.closing.baselines}
    assert names == {"wanda", f"wanda, {update}", "sparsegpt"}
    document = result.to_json()
    assert "best_against_it" in document["baselines"]["sparsegpt"]
    assert "sparsegpt_under_found_allocation" in document
    assert "wanda_under_found_allocation" not in document
    # It goes on where it was, and repeats what it did.
    again = run(pattern, candidates=CANDIDATES + 1, update=update)
    with Study.open(tmp_path / "s.db") as study:
        assert [row.key for row in study.candidates()][:CANDIDATES] == [row.key for row in rows]
    assert again.candidates == CANDIDATES + 1


def told(path):
    with Study.open(path) as study:
        assert study.check() == []
        return [(row.key, row.status, row.fitness, row.parents) for row in study.candidates()]


@pytest.mark.parametrize(
    ("update", "pattern"), [("sparsegpt-adaptive", "50%"), ("sparsegpt-adaptive", "2:4"),
                            ("sparsegpt", "50%")]
)  # fmt: skip
def test_one_worker_finds_what_the_serial_search_does(run, tmp_path, monkeypatch, update, pattern):
    """Gram matrices travel with the statistics, and every worker factors them for itself."""
    options = {"update": update, "dtype": "float32", "candidates": 16}
    run(pattern, name="serial.db", **options)
    monkeypatch.setattr(runner, "open_executor", lambda *_: RandomCrew(1))
    run(pattern, name="one.db", executor="process", **options)
    serial = told(tmp_path / "serial.db")
    assert told(tmp_path / "one.db") == serial
    with Study.open(tmp_path / "one.db") as study:
        assert study.events(GUIDANCE_EVENT)


def test_several_workers_update(run, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "open_executor", lambda *_: RandomCrew(3))
    run(executor="process", update="sparsegpt-adaptive", candidates=16)
    rows = told(tmp_path / "s.db")
    assert len(rows) == 16
    assert {status for _, status, *_ in rows} <= {"evaluated", "rejected"}


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["process", "ray"])
def test_real_workers_update(run, tmp_path, executor):
    if executor == "ray":
        pytest.importorskip("ray")
    options = {"update": "sparsegpt-adaptive", "dtype": "float32", "candidates": 12}
    run(name="serial.db", **options)
    run(name="one.db", executor=executor, workers=1, **options)
    assert told(tmp_path / "one.db") == told(tmp_path / "serial.db")


def test_the_update_is_a_setting(run):
    run(candidates=1)
    with pytest.raises(InputError, match="update"):
        run(candidates=2, update="sparsegpt")


@pytest.mark.parametrize(
    ("update", "preset", "stream"),
    [("dsnot", "default", False), ("sparsegpt", "paper", False), ("sparsegpt", "default", True)],
)
def test_what_a_search_cannot_do(update, preset, stream):
    with pytest.raises(InputError, match="update"):
        check_update(update, preset, stream=stream)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("pattern", ["50%", "2:4"])
def test_a_candidate_is_pruned_as_prune_does_one_shot(updating, pattern, update):
    tools = updating(pattern)
    more = {} if tools.pattern.is_nm else {"allocation": ALLOCATION}
    recipe = Recipe.from_text("W ** 2 / Hfree * F ** 0.2").model_copy(
        update={"update": update} | more
    )
    comparison = Comparison(
        tools.model, tools.blocks, tools.tokens, tools.compute, sequential=False
    )
    with comparison.pruned("", recipe, tools.pattern):
        expected = {matrix.name: matrix.weight.clone() for matrix in tools.masker.matrices}
    tools.masker.apply(recipe)
    for matrix in tools.masker.matrices:
        assert torch.equal(matrix.weight, expected[matrix.name])
        assert not torch.equal(
            matrix.weight, tools.masker.dense.weights[matrix.name] * (matrix.weight != 0)
        )


@pytest.mark.parametrize("pattern", ["50%", "2:4"])
def test_the_mask_follows_from_the_weights_as_they_were(updating, pattern):
    tools = updating(pattern)
    recipe = Recipe.named("sparsegpt")
    tools.masker.apply(recipe)
    for matrix in tools.masker.matrices:
        given = tools.masker.statistics(recipe, matrix)
        dense = tools.masker.dense.weights[matrix.name]
        mask = matrix.weight != 0
        factor = inverse_factor(given["H"])
        values, _ = derivatives(dense, mask, torch.ones_like(dense), factor)
        seen = as_chosen(values, mask, factor, tools.pattern.m or BLOCK)
        scorer = ColumnScorer(recipe.metric.expression, {"Hfree": given["Hfree"], "W": dense.abs()})
        scores = scorer.columns(slice(0, dense.shape[1]), seen)
        agreeing = (tools.pattern.mask(scores, group="matrix") == mask).float().mean()
        assert agreeing > 0.999  # but for near ties, which round differently


@pytest.mark.parametrize("group", ["row", "matrix"])
@pytest.mark.parametrize("update", UPDATES)
def test_derivatives_are_finite_and_tell_matrices_apart(updating, update, group):
    from prunerzero.evaluation.divergence import DenseReference

    tools = updating()
    reference = DenseReference(tools.model, tools.tokens, tools.compute)
    recipe = Recipe.named("sparsegpt").model_copy(update={"update": update, "group": group})
    found = measure_guidance(tools.masker, recipe, reference)
    assert found.divergence > 0
    assert len(set(found.costs.values())) == len(tools.masker.matrices)
    assert set(next(iter(found.slopes.values()))) == {
        "A", "F", "colmean(W)", "colmean(F)", "Hfree",
    }  # fmt: skip
    assert any(slope for slopes in found.slopes.values() for slope in slopes.values())
