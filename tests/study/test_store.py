import math
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.errors import InputError
from prunerzero.study import Candidate, Measurement, Study

SETTINGS = {"model": "abc", "pattern": "50%", "seed": 0, "windows": [8, 512]}
READING = Measurement(purpose="fitness", windows="w0", tokens=4096, loss=3.25, kl=0.5)


def make(key="W", **changes):
    values = {
        "step": 0,
        "status": "evaluated",
        "recipe": {"metric": key},
        "expression": key,
        "size": 1,
        "origin": "zoo",
        "fitness": 1.0,
    }
    return Candidate(key=key, **{**values, **changes})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.db"


@pytest.fixture
def study(path):
    with Study.create(path, SETTINGS) as study:
        yield study


def refused(action, *arguments):
    with pytest.raises(InputError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rows_come_back_as_they_went_in(study, path):
    rejected = make(
        "tanh(G)", status="rejected", fitness=None, reason="row shape", step=3, skipped=2
    )
    child = make(
        "W * A",
        origin="crossover",
        parents=(1, 2),
        fingerprint="ff",
        seconds=1.25,
        recipe={"metric": {"attention": "W", "mlp": "W * A"}, "exponent": 0.1},
    )
    readings = [READING, replace(READING, rung=1, data={"losses": [3.0, 3.5]}, seconds=0.125)]
    ids = [study.add_candidate(make(), [READING]), study.add_candidate(rejected)]
    ids.append(study.add_candidate(child, readings))
    assert ids == [1, 2, 3]
    study.add_measurement(Measurement(purpose="heldout", windows="h", tokens=9, loss=2.0, name="d"))
    study.add_event("heldout", {"readings": 1})

    with Study.open(path) as reader:
        assert reader.settings == SETTINGS
        got = reader.candidates()
        for index, (inserted, row) in enumerate(zip((make(), rejected, child), got, strict=True)):
            assert row.created is not None
            assert replace(row, id=None, created=None) == inserted
            assert row.id == ids[index]
        assert reader.candidate(3) == got[2]
        assert reader.candidates("rejected") == [got[1]]
        assert reader.counts() == {"pending": 0, "evaluated": 2, "rejected": 1, "failed": 0}
        assert reader.skipped() == 2
        stored = reader.measurements(candidate_id=3)
        assert [
            replace(row, id=None, created=None, candidate_id=None) for row in stored
        ] == readings
        assert [row.candidate_id for row in stored] == [3, 3]
        assert [row.name for row in reader.measurements("heldout")] == ["d"]
        assert len(reader.measurements()) == 4
        assert [event.data for event in reader.events("heldout")] == [{"readings": 1}]
        assert reader.events("other") == []
        assert reader.check() == []
        assert "no candidate 9" in refused(reader.candidate, 9)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_round_trip_exactly(value):
    with sqlite3.connect(":memory:") as connection:
        # The property that lets a resumed search repeat an undisturbed one bit for bit.
        (back,) = connection.execute("SELECT CAST(? AS REAL)", (value,)).fetchone()
    assert back == value


def test_fitness_is_stored_exactly_and_best_is_the_lowest_and_earliest(study):
    assert study.best is None
    for key, fitness in (("a", 0.1 + 0.2), ("b", -1 / 3), ("c", -1 / 3)):
        study.add_candidate(make(key, fitness=fitness), [READING])
    assert [row.fitness for row in study.candidates()] == [0.1 + 0.2, -1 / 3, -1 / 3]
    assert study.best.key == "b"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_numbers_become_null(study, value):
    study.add_candidate(make(status="failed", fitness=value, reason="diverged"))
    assert study.candidates()[0].fitness is None
    study.add_measurement(replace(READING, name="dense", loss=value, data=[value]))
    (row,) = study.measurements()
    assert row.loss is None
    assert row.data == [None]
    with pytest.raises(sqlite3.IntegrityError):
        study.add_candidate(make(fitness=value), [READING])


def test_a_key_is_evaluated_once_and_a_refused_insertion_leaves_nothing(study):
    study.add_candidate(make("W"), [READING])
    with pytest.raises(sqlite3.IntegrityError):
        study.add_candidate(make("W", fitness=0.5), [READING])
    with pytest.raises(sqlite3.IntegrityError):
        study.add_candidate(make("V"), [READING, replace(READING, purpose="other")])
    study.add_candidate(make("W", status="failed", fitness=None, reason="out of memory"))
    assert [row.status for row in study.candidates()] == ["evaluated", "failed"]
    assert len(study.measurements()) == 1


def test_duplicates(study):
    first = study.add_candidate(make("W"), [READING])
    study.add_duplicate("sqr(W)", first, 4)
    study.add_duplicate("sqr(W)", first, 9)
    assert study.duplicates() == {"sqr(W)": first}
    with pytest.raises(sqlite3.IntegrityError):
        study.add_duplicate("exp(W)", 77, 5)


def test_going_on_with_the_same_settings(path):
    with Study.open_or_create(path, SETTINGS) as study:
        study.add_candidate(make(), [READING])
    # Tuples and lists are the same to JSON, and the order of names does not matter.
    again = dict(reversed({**SETTINGS, "windows": (8, 512)}.items()))
    with Study.open_or_create(path, again) as study:
        assert study.add_candidate(make("A"), [READING]) == 2
    assert os.listdir(path.parent) == ["s.db"]


def test_other_settings_are_refused_with_the_difference(path):
    Study.create(path, SETTINGS).close()
    other = {**SETTINGS, "seed": 1, "preset": "paper"}
    del other["model"]
    message = refused(Study.open_or_create, path, other)
    assert "seed 0 there, 1 here" in message
    assert 'model "abc" there, absent here' in message
    assert 'preset absent there, "paper" here' in message
    assert "pattern" not in message
    Study.open_or_create(path, SETTINGS).close()  # The refusal gave the lock back.


def test_create_refuses_an_existing_file(path):
    Study.create(path, SETTINGS).close()
    assert "exists already" in refused(Study.create, path, SETTINGS)


@pytest.mark.parametrize("opener", [Study.open, lambda p: Study.open_or_create(p, SETTINGS)])
class TestBadFiles:
    @pytest.mark.parametrize("content", [b"", b"not a database, not at all " * 50, b"\0" * 5000])
    def test_not_a_database(self, path, opener, content):
        path.write_bytes(content)
        assert str(path) in refused(opener, path)
        assert path.read_bytes() == content

    def test_other_application(self, path, opener):
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE t (x)")
        connection.close()
        assert "not one of prunerzero's" in refused(opener, path)

    def test_newer_schema(self, path, opener):
        Study.create(path, SETTINGS).close()
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
        assert "schema 99" in refused(opener, path)

    def test_damaged_pages(self, path, opener):
        with Study.create(path, SETTINGS) as study:
            for index in range(200):
                study.add_candidate(make(f"W{index}"), [READING])
        content = bytearray(path.read_bytes())
        content[8192:16384] = b"\xa5" * 8192
        path.write_bytes(content)
        assert "corrupt" in refused(opener, path)

    def test_truncated(self, path, opener):
        with Study.create(path, SETTINGS) as study:
            for index in range(200):
                study.add_candidate(make(f"W{index}"), [READING])
        path.write_bytes(path.read_bytes()[:20_000])
        assert "corrupt" in refused(opener, path)

    def test_directory(self, tmp_path, opener):
        assert "a directory" in refused(opener, tmp_path)


def test_missing_file_and_unwritable_parent(tmp_path):
    assert "does not exist" in refused(Study.open, tmp_path / "none.db")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(Study.create, tmp_path / "file" / "s.db", SETTINGS)
    assert os.listdir(tmp_path) == ["file"]


def test_side_files_of_a_deleted_study_do_not_leak_into_a_new_one(path):
    study = Study.create(path, SETTINGS)
    study.add_candidate(make(), [READING])
    leftover = path.with_name("s.db-wal").read_bytes()
    study.close()
    path.unlink()
    path.with_name("s.db-wal").write_bytes(leftover)
    with Study.create(path, SETTINGS) as study:
        assert study.candidates() == []
        assert study.check() == []


def test_a_second_writer_is_refused_and_readers_are_not(path):
    with Study.create(path, SETTINGS) as study:
        study.add_candidate(make(), [READING])
        assert f"process {os.getpid()}" in refused(Study.open_or_create, path, SETTINGS)
        with Study.open(path) as reader:
            assert len(reader.candidates()) == 1
            study.add_candidate(make("A"), [READING])
            assert len(reader.candidates()) == 2
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                reader.add_candidate(make("B"), [READING])


def test_another_process_is_refused_until_the_writer_is_killed(path):
    code = (
        "import sys, time; from prunerzero.study import Study;"
        f"s = Study.create({str(path)!r}, {SETTINGS!r}); print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        try:
            assert f"process {writer.pid}" in refused(Study.open_or_create, path, SETTINGS)
        finally:
            writer.kill()
    Study.open_or_create(path, SETTINGS).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_does_not_keep_the_lock(path):
    study = Study.create(path, SETTINGS)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    try:
        study.close()
        Study.open_or_create(path, SETTINGS).close()
    finally:
        os.close(write_end)
        os.waitpid(child, 0)


def test_reading_where_nothing_can_be_written(path):
    with Study.create(path, SETTINGS) as study:
        study.add_candidate(make(), [READING])
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        with Study.open(path) as reader:
            assert len(reader.candidates()) == 1
    finally:
        path.parent.chmod(0o755)


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM measurement", "without a fitness measurement: candidate 1"),
        ("UPDATE candidate SET parents = '[5]' WHERE id = 2", "did not precede it: candidate 2"),
        ("UPDATE measurement SET candidate_id = 88 WHERE id = 1", "measurement 1 refers to"),
        ("INSERT INTO duplicate VALUES ('W', 1, 0, NULL)", "yet evaluated: key W"),
        ("INSERT INTO duplicate VALUES ('V', 2, 0, NULL)", "was not evaluated: key V"),
        ("UPDATE candidate SET recipe = '{' WHERE id = 1", "CHECK constraint failed in candidate"),
    ],
)
def test_check_finds_broken_rules(path, statement, problem):
    with Study.create(path, SETTINGS) as study:
        study.add_candidate(make(), [READING])
        study.add_candidate(make("A", status="failed", fitness=None, reason="raised", parents=(1,)))
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(statement)
    connection.close()
    try:
        with Study.open(path) as study:
            problems = "; ".join(study.check())
    except InputError as error:  # What SQLite can see already stops the opening.
        problems = str(error)
    assert problem in problems


def test_best_is_the_winner_once_the_search_is_closed(tmp_path):
    with Study.create(tmp_path / "s.db", {"seed": 0}) as study:
        with pytest.raises(InputError, match="nothing has been measured yet"):
            _ = study.best_recipe
        recipe = {"metric": "W * A", "group": "row"}
        study.add_event("session-start", {})
        first = study.add_candidate(make("a", fitness=0.2, recipe=recipe), [])
        study.add_candidate(make("b", fitness=0.1, recipe=recipe), [])
        assert study.best.key == "b"
        study.add_event("heldout", {"winner": first})
        assert study.best.key == "a"
        assert study.best_recipe.expression == "W * A"
        study.add_event("session-start", {})  # it goes on: nothing is won yet
        assert study.best.key == "b"


def test_a_data_frame_and_what_a_notebook_shows(tmp_path):
    with Study.create(tmp_path / "s.db", {"model": "<m>", "pattern": "50%"}) as study:
        study.add_candidate(make("a", fitness=0.2), [])
        study.add_candidate(make("b", status="rejected", reason="flat", fitness=None), [])
        frame = study.to_frame()
        assert list(frame.index) == [1, 2]
        assert list(frame["status"]) == ["evaluated", "rejected"]
        assert frame.loc[1, "fitness"] == 0.2
        html = study._repr_html_()
        assert "&lt;m&gt;" in html
        assert "rejected" in html
