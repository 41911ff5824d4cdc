"""Studies of older schemas: `study-schema-1.sqlite` was written when there was no other."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from prunerzero.errors import InputError
from prunerzero.study import Study, connection
from prunerzero.study.schema import MIGRATIONS, SCHEMA_VERSION

OLD = Path(__file__).parents[1] / "data" / "study-schema-1.sqlite"
SETTINGS = {"model": "m", "pattern": "50%", "seed": 0}


@pytest.fixture
def old(tmp_path):
    return Path(shutil.copy(OLD, tmp_path / "old.db"))


def version_of(path):
    with sqlite3.connect(path) as raw:
        (version,) = raw.execute("PRAGMA user_version").fetchone()
    raw.close()
    return version


def content(study):
    return study.candidates(), study.measurements(), study.events(), study.duplicates()


def test_reading_an_old_study_leaves_the_file_alone(old):
    before = old.read_bytes()
    with Study.open(old) as study:
        assert study.check() == []
        assert study.settings == SETTINGS
        assert [row.key.split(" | ")[0] for row in study.candidates()] == ["W", "W * A", "rowsum"]
        assert study.best.parents == (1,)
        assert study.duplicates() == {"sqr(W) | 50% | row": 1}
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            study.add_event("x")
    assert old.read_bytes() == before


def test_writing_migrates_and_keeps_everything(old):
    assert version_of(old) == 1 < SCHEMA_VERSION
    with Study.open(old) as study:
        before = content(study)
    with Study.open_or_create(old, SETTINGS) as study:
        assert content(study) == before
        assert study.check() == []
        study.add_event("session-start")
    assert version_of(old) == SCHEMA_VERSION
    with Study.open_or_create(old, SETTINGS) as study:
        assert content(study)[:2] == before[:2]
        assert study.check() == []


def test_a_failed_migration_leaves_the_old_study(old, monkeypatch):
    broken = (*MIGRATIONS[:1], "CREATE TABLE lease (x); CREATE TABLE lease (x)")
    monkeypatch.setattr(connection, "MIGRATIONS", broken)
    before = old.read_bytes()
    with pytest.raises(sqlite3.OperationalError):
        Study.open_or_create(old, SETTINGS)
    monkeypatch.undo()
    assert version_of(old) == 1
    with Study.open_or_create(old, SETTINGS) as study:
        assert study.check() == []
    assert old.read_bytes() != before


def test_foreign_keys_hold_after_a_migration(old):
    with (
        Study.open_or_create(old, SETTINGS) as study,
        pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"),
    ):
        study.add_duplicate("exp(W)", 99, 0)


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("UPDATE candidate SET fitness = fitness - 1e-9 WHERE id = 2", "candidate 2"),
        ("UPDATE measurement SET tokens = 9 WHERE id = 1", "measurement 1"),
        ("UPDATE settings SET value = '1' WHERE name = 'seed'", "settings 3"),
        ("UPDATE event SET data = '{}'", "event 1"),
        ("UPDATE duplicate SET step = 5", "duplicate 1"),
        ("UPDATE candidate SET digest = NULL WHERE id = 1", "candidate 1"),
        ("DELETE FROM event WHERE id = 1", "rows are missing before event 2"),
    ],
)
def test_altered_rows_are_found(old, statement, table):
    with Study.open_or_create(old, SETTINGS) as study:
        study.add_event("later")
    with sqlite3.connect(old) as raw:
        raw.execute(statement)
    raw.close()
    with Study.open(old) as study:
        (problem,) = study.check()
    assert table in problem
    if "missing" not in table:
        with pytest.raises(InputError, match=f"checksum differs: {table}"):
            Study.open_or_create(old, SETTINGS)
