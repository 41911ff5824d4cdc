import pytest

from prunerzero.analysis.readings import Readings, analysis_path
from prunerzero.analysis.sample import Distinct, read_study, rung_readings, spread
from prunerzero.errors import InputError
from prunerzero.recipe import Recipe
from prunerzero.study import Candidate, Measurement, Study

SETTINGS = {"model": "tiny", "model_hash": "0", "pattern": "50%"}


def reading(rung, ratio=None, count=4):
    data = {"kl": [0.5] * count}
    if ratio is not None:
        data |= {"log_ratio": ratio, "standard_error": 0.1}
    return Measurement(purpose="fitness", windows="w", tokens=8, loss=3.0, rung=rung, data=data)


def test_rungs_are_on_the_scale_of_the_fitness():
    assert rung_readings(0.0, [reading(0)]) == (0.0,)
    # The incumbent's own fitness was -0.2: -0.3 by the ratio of -0.1 that counted.
    climb = [reading(0, -0.4), reading(1, -0.1)]
    assert rung_readings(-0.3, climb) == pytest.approx((-0.6, -0.3))
    assert rung_readings(0.5, []) == ()


def test_only_the_first_of_equal_masks_is_read(tmp_path):
    with Study.create(tmp_path / "s.db", SETTINGS) as study:
        for number, mark in enumerate(["a", "b", "a", "c", None, None]):
            row = Candidate(
                step=number, key=str(number), status="evaluated", expression="W", size=1,
                recipe={"metric": f"W * {number}.5"}, origin="descent" if number else "zoo",
                fitness=float(number), fingerprint=mark,
            )  # fmt: skip
            study.add_candidate(row, [reading(0)])
    content = read_study(tmp_path / "s.db")
    assert [candidate.id for candidate in content.candidates] == [1, 2, 4, 5, 6]
    assert content.best.id == 1
    assert [candidate.id for candidate in content.untuned] == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pattern": "50%, 2:4"}, r"several patterns \(50%, 2:4\)"),
        ({"model": "a, b", "model_hash": "0, 1"}, r"several models \(a, b\)"),
        ({"compute": "cpu, float32, streamed"}, "streamed"),
    ],
)
def test_what_an_analysis_cannot_measure_is_refused(tmp_path, changes, message):
    Study.create(tmp_path / "s.db", SETTINGS | changes).close()
    with pytest.raises(InputError, match=message):
        read_study(tmp_path / "s.db")


def test_spread_from_best_to_worst():
    candidates = [
        Distinct(number, "zoo", Recipe.named("wanda"), fitness, ())
        for number, fitness in enumerate([5.0, 1.0, 4.0, 2.0, 3.0])
    ]
    assert [one.fitness for one in spread(candidates, 3)] == [1, 3, 5]
    assert [one.fitness for one in spread(candidates, 9)] == [1, 2, 3, 4, 5]
    assert [one.fitness for one in spread(candidates, 1)] == [1]
    assert spread(candidates, 0) == []


def test_readings_survive_and_depend_on_conditions(tmp_path):
    path = analysis_path(tmp_path / "s.db")
    assert path.name == "s.analysis.json"
    taken = Readings(path).under({"windows": 8, "model": "m"})
    assert taken["key"] == {}
    taken.add("key", "W", {"losses": [1.5], "tokens": 3})
    taken.add("key", "W", {"seconds": 2.0})
    again = Readings(path)
    assert again.under({"model": "m", "windows": 8})["key"] == {
        "expression": "W", "losses": [1.5], "tokens": 3, "seconds": 2.0,
    }  # fmt: skip
    assert again.under({"model": "m", "windows": 9})["key"] == {}


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 1}', "nonsense"])
def test_another_file_in_the_way(tmp_path, text):
    (tmp_path / "s.analysis.json").write_text(text)
    with pytest.raises(InputError, match=r"s\.analysis\.json"):
        Readings(tmp_path / "s.analysis.json")
    assert (tmp_path / "s.analysis.json").read_text() == text
