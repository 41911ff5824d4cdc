"""A search that is driven by hand."""

from __future__ import annotations

import math

import pytest
import torch

from prunerzero import AskTell, Recipe, Study
from prunerzero.errors import InputError
from prunerzero.models.blocks import prunable_matrices

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def session(model_directory, text, tmp_path):
    with AskTell(
        model_directory,
        "50%",
        study=tmp_path / "s.db",
        calibration=text,
        samples=3,
        sequence_length=32,
        windows=2,
        dtype="float32",
    ) as session:
        yield session


def test_ask_measure_tell(session, tmp_path):
    values = {}
    for _ in range(24):  # past the zoo, the seeds and the random trees
        trial = session.ask()
        assert trial.key not in values
        values[trial.key] = session.measure(trial)
        session.tell(trial, values[trial.key])
    found = {key: value for key, value in values.items() if value is not None}
    with Study.open(tmp_path / "s.db") as study:
        assert study.check() == []
        rows = study.candidates("evaluated")
        first = found[rows[0].key]
        assert [row.fitness for row in rows] == pytest.approx(
            [math.log(found[row.key] / first) for row in rows]
        )
        assert study.best.key == min(found, key=found.get)
        assert [m.kl for m in study.measurements("fitness")] == list(found.values())
        assert study.plot.history().axes
    assert rows[0].expression == Recipe.named("wanda").expression
    assert any(row.origin == "descent" for row in rows)  # it has used what it was told


def test_the_model_is_pruned_for_a_measure_of_ones_own_and_dense_again(session):
    trial = session.ask()
    before = [matrix.weight.clone() for matrix in prunable_matrices(session.masker.model)]
    with session.pruned(trial) as model:
        zeros = [float((matrix.weight == 0).float().mean()) for matrix in prunable_matrices(model)]
    assert zeros == pytest.approx([0.5] * len(zeros), abs=0.02)
    after = [matrix.weight for matrix in prunable_matrices(session.masker.model)]
    assert all(map(torch.equal, before, after))


def test_a_recipe_of_ones_own_comes_next_and_unusable_ones_are_failures(session):
    session.enqueue(Recipe.from_text("W * A ** 0.9"))
    trial = session.ask()
    assert (trial.origin, trial.recipe.expression) == ("yours", "W * A ** 0.9")
    row = session.tell(trial, session.measure(trial))
    assert row.fitness == 0.0
    session.enqueue(Recipe.from_text("mms(W - W)"))
    trial = session.ask()
    assert session.measure(trial) is None
    assert session.tell(trial, None).status == "failed"
    session.enqueue(Recipe.from_text("W * A ** 0.9"))  # known: it is not asked for again
    assert session.ask().origin != "yours"


def test_random_trees_draw_the_vocabulary(model_directory, text, tmp_path):
    options = {"calibration": text, "samples": 2, "sequence_length": 32, "windows": 1}
    with AskTell(
        model_directory, "2:4", study=tmp_path / "v.db", vocabulary=["Amean"], **options
    ) as session:
        for _ in range(60):
            session.tell(trial := session.ask(), session.measure(trial))
            if "Amean" in trial.recipe.terminals:
                break
        assert "Amean" in trial.recipe.terminals
        assert session.study.settings["vocabulary"] == ["Amean"]


def test_unusable_input(model_directory, text, tmp_path):
    options = {"study": tmp_path / "s.db", "calibration": text, "sequence_length": 32}
    with pytest.raises(InputError, match="vocabulary 'Peek'"):
        AskTell(model_directory, "50%", vocabulary=["Peek"], **options)
    with pytest.raises(InputError, match="sequence"):
        AskTell(model_directory, "50%", **options | {"sequence_length": 4096})
    assert not list(tmp_path.iterdir())


def test_wrong_use_is_one_line(session):
    trial = session.ask()
    with pytest.raises(InputError, match="not told yet"):
        session.ask()
    with pytest.raises(InputError, match="must be above 0"):
        session.tell(trial, 0.0)
    session.tell(trial, 2.0)
    [told] = session.study.measurements("fitness")
    assert (told.kl, told.data) == (None, {"value": 2.0})  # a measure of one's own
    assert session.study.check() == []
    with pytest.raises(InputError, match="given last, once"):
        session.tell(trial, 2.0)
