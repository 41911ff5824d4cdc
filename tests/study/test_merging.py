import json
import os

import pytest

from prunerzero.cli.app import main
from prunerzero.errors import InputError
from prunerzero.study import Candidate, Measurement, Study, merge

SETTINGS = {"model": "m", "seed": 0}


def reading(windows="w", **changes):
    values = {"purpose": "fitness", "windows": windows, "tokens": 8, "loss": 3.0}
    return Measurement(**{**values, **changes})


def add(study, key, fitness=None, parents=(), readings=None, reason=None):
    status = "evaluated" if fitness is not None else "failed" if reason else "pending"
    candidate = Candidate(
        step=0, key=key, status=status, recipe={"metric": key}, expression=key, size=1,
        origin="zoo", fitness=fitness, parents=parents, reason=reason,
    )  # fmt: skip
    if status == "pending":
        return study.lease(candidate, "a", 60)
    if readings is None:
        readings = [reading()] if status == "evaluated" else []
    return study.add_candidate(candidate, readings)


@pytest.fixture
def studies(tmp_path):
    paths = [tmp_path / "a.db", tmp_path / "b.db"]
    with Study.create(paths[0], SETTINGS) as study:
        first = add(study, "W", 0.5)
        add(study, "G", reason="raised")
        add(study, "W * A", 0.25, parents=(first,))
        add(study, "never", None)
        study.add_duplicate("sqr(W)", first, 7)
        study.add_measurement(reading("h", purpose="heldout", name="dense"))
        study.add_event("heldout", {"n": 1})
    with Study.create(paths[1], SETTINGS) as study:
        add(study, "A", 0.75)
        again = add(study, "W", 0.5, readings=[reading(), reading(rung=1)])
        add(study, "G", 0.1)
        add(study, "G * W", 0.2, parents=(again, 3))
        add(study, "sqr(W)", 0.9)
        study.add_measurement(reading("h", purpose="heldout", name="dense"))
        study.add_event("heldout", {"n": 2})
    return paths


def test_a_merged_study_has_every_candidate_once(studies, tmp_path):
    before = [path.read_bytes() for path in studies]
    assert merge(studies, tmp_path / "m.db") == (6, 2, 1)
    with Study.open(tmp_path / "m.db") as study:
        assert study.check() == []
        assert study.settings == SETTINGS
        rows = study.candidates()
        keys = {row.id: row.key for row in rows}
        assert list(keys.values()) == ["W", "W * A", "A", "G", "G * W", "sqr(W)"]
        assert {row.key: [keys[p] for p in row.parents] for row in rows if row.parents} == {
            "W * A": ["W"],
            "G * W": ["W", "G"],
        }
        assert {row.key: row.fitness for row in rows}["G"] == 0.1
        assert [m.rung for m in study.measurements(candidate_id=1)] == [0, 1]
        assert len(study.measurements("heldout")) == 1
        assert [event.data for event in study.events("heldout")] == [{"n": 1}, {"n": 2}]
        assert study.duplicates() == {}  # the other study evaluated that key
    assert [path.read_bytes() for path in studies] == before
    assert sorted(os.listdir(tmp_path)) == ["a.db", "b.db", "m.db"]


def test_rows_keep_when_they_were_made(studies, tmp_path):
    merge(studies, tmp_path / "m.db")
    made = {}
    for path in studies:
        with Study.open(path) as study:
            made |= {row.key: row.created for row in study.candidates() if row.key == "A"}
    with Study.open(tmp_path / "m.db") as study:
        assert {row.key: row.created for row in study.candidates() if row.key == "A"} == made


def test_other_settings_are_refused_with_the_difference(studies, tmp_path):
    Study.create(tmp_path / "c.db", {**SETTINGS, "seed": 1}).close()
    with pytest.raises(InputError, match="seed 0 there, 1 here"):
        merge([*studies, tmp_path / "c.db"], tmp_path / "m.db")
    assert not (tmp_path / "m.db").exists()


def test_what_cannot_be_merged(studies, tmp_path, capsys):
    with pytest.raises(InputError, match="exists already"):
        merge(studies, studies[0])
    with pytest.raises(InputError, match="at least two"):
        merge(studies[:1], tmp_path / "m.db")
    with Study.open_or_create(studies[1], SETTINGS) as study:
        study.add_duplicate("W", 1, 0)
    assert main(["study", "merge", *map(str, studies), "--output", str(tmp_path / "m.db")]) == 2
    assert "not sound (known as a duplicate" in capsys.readouterr().err
    assert not (tmp_path / "m.db").exists()


def test_the_command(studies, tmp_path, capsys):
    arguments = ["study", "merge", *map(str, studies), "--output"]
    assert main([*arguments, str(tmp_path / "m.db"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "study": str(tmp_path / "m.db"),
        "candidates": 6,
        "repeated": 2,
        "pending": 1,
    }
    assert main([*arguments, str(tmp_path / "n.db")]) == 0
    assert capsys.readouterr().out.endswith(
        "6 candidates; left out: 2 that were there already, 1 that nobody measured\n"
    )
