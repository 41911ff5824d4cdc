"""What the pictures of a study show, read from the tuples behind them; and that they are drawn."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from made_study import evaluated, fitness_reading, make_study
from matplotlib.figure import Figure

from prunerzero.report.plots import front_info, funnel_info, history_info
from prunerzero.study import Study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study.open(make_study(tmp_path_factory.mktemp("plots") / "s.db", 120, close=True))


def test_history(study: Study) -> None:
    info = history_info(study)
    rows = study.candidates("evaluated")
    assert info.candidates == tuple(row.id for row in rows)
    assert info.values == pytest.approx([math.exp(row.fitness) for row in rows])
    for place in (0, 7, len(rows) - 1):
        assert info.best[place] == min(info.values[: place + 1])
    assert [line.name for line in info.lines] == ["wanda"]
    assert info.lines[0].value == 1.0


def test_front(study: Study) -> None:
    info = front_info(study)
    assert info.front == tuple(row.id for row in study.pareto_front())
    assert list(info.front_sizes) == sorted(set(info.front_sizes))
    assert list(info.front_values) == sorted(info.front_values, reverse=True)
    for size, value in zip(info.sizes, info.values, strict=True):
        assert any(
            s <= size and v <= value
            for s, v in zip(info.front_sizes, info.front_values, strict=True)
        )


def test_pictures_are_figures_that_a_notebook_shows(study: Study) -> None:
    history = study.plot.history()
    for picture in (history, study.plot.pareto_front(), study.plot.funnel()):
        assert isinstance(picture, Figure)
        assert picture._repr_png_().startswith(b"\x89PNG")
    best = next(line for line in history.axes[0].lines if line.get_label() == "best so far")
    assert tuple(best.get_ydata()) == history_info(study).best
    bars = study.plot.funnel().axes[0].patches
    assert [bar.get_width() for bar in bars] == list(funnel_info(study).counts)


def test_an_empty_study_and_one_of_a_single_candidate(tmp_path: Path) -> None:
    with Study.create(tmp_path / "s.db", {"pattern": "50%"}) as study:
        assert history_info(study).values == ()
        assert study.pareto_front() == []
        assert isinstance(study.plot.history(), Figure)
        study.add_candidate(evaluated(0, 0.0), [fitness_reading()])
        assert history_info(study).best == (1.0,)
        assert isinstance(study.plot.pareto_front(), Figure)
