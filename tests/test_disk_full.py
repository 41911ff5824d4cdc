"""A disk that is full at any byte: one clear line, and nothing half-written.

The limit of a process on the size of a file stands for the disk: writes beyond it fail as on a full
one, at whatever byte that is.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager

import pytest
import torch
from tiny_models import make_model, make_tokenizer, make_tokens

from prunerzero.errors import InputError, StorageError
from prunerzero.files import atomic_path, write_json
from prunerzero.metric import Metric
from prunerzero.models.blocks import prunable_matrices
from prunerzero.models.compute import compute_for
from prunerzero.packing.pack import pack
from prunerzero.packing.unpack import unpack
from prunerzero.pruning.checkpoint import save_checkpoint
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import prune
from prunerzero.statistics.cache import gather_statistics
from prunerzero.study import Candidate, Measurement, Study, merge

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.usefixtures("own_cache")

READING = Measurement(purpose="fitness", windows="w", tokens=1, loss=1.0, data=list(range(500)))


@contextmanager
def full_after(size):
    """No file grows beyond ``size`` bytes while the context lasts."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refused(action, *arguments, error=InputError):
    with pytest.raises(error) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    assert "cannot be written" in str(caught.value)


def candidate(number):
    return Candidate(step=number, key=f"key {number}", status="evaluated", recipe={},
                     expression="W", size=1, origin="random", fitness=float(number))  # fmt: skip


def fill(study, first):
    for number in range(first, first + 1000):
        study.add_candidate(candidate(number), [READING])


@pytest.mark.parametrize("size", [200_000, 203_000, 250_001])
def test_a_study_keeps_what_it_has_and_goes_on(tmp_path, size):
    path = tmp_path / "s.db"
    with Study.create(path, {"seed": 0}) as study:
        with full_after(size):
            refused(fill, study, 0, error=StorageError)
        written = len(study.candidates())
        assert written > 2
        assert study.check() == []
        study.add_candidate(candidate(written), [READING])  # room again
    with Study.open_or_create(path, {"seed": 0}) as study:
        assert [row.step for row in study.candidates()] == list(range(written + 1))
        assert len(study.measurements()) == written + 1
        assert study.check() == []


def test_a_worker_cannot_take_the_disks_fault_for_a_candidates():
    assert not issubclass(StorageError, (InputError, ValueError, RuntimeError, ArithmeticError))


@pytest.mark.parametrize("size", [0, 4096, 20_000])
def test_a_new_study_is_complete_or_not_there(tmp_path, size):
    with full_after(size), pytest.raises((InputError, StorageError), match="cannot be"):
        Study.create(tmp_path / "s.db", {"seed": 0})
    assert os.listdir(tmp_path) == []


def test_a_merged_study_is_complete_or_not_there(tmp_path):
    for name in "ab":
        with Study.create(tmp_path / name, {}) as study:
            for number in range(50):
                study.add_candidate(candidate(number), [READING])
    with full_after(100_000), pytest.raises(StorageError, match="cannot be written"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m.db")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_statement_that_is_wrong_is_no_fault_of_the_disk(tmp_path):
    with (
        Study.create(tmp_path / "s.db", {}) as study,
        pytest.raises(sqlite3.OperationalError, match="no such table"),
        study._transaction() as connection,
    ):
        connection.execute("INSERT INTO nowhere VALUES (1)")


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_json(tmp_path, size):
    write_json(tmp_path / "x.json", "before")
    with full_after(size):
        refused(write_json, tmp_path / "x.json", ["x" * 100] * 100)
    assert (tmp_path / "x.json").read_text() == '"before"\n'
    assert os.listdir(tmp_path) == ["x.json"]


def test_another_error_in_the_body_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x"):
        (tmp_path / "none").read_text()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [100, 4000])
def test_statistics_cost_no_run(own_cache, size):
    model, tokens = make_model(), make_tokens(2)
    matrices = prunable_matrices(model)
    arguments = (model, matrices, tokens, frozenset("AG"), compute_for(model, "float32"))
    with full_after(size):
        gather_statistics(*arguments)
    left = [path for path in own_cache.rglob("*") if path.is_file()]
    assert all(path.stat().st_size < size for path in left)  # one of them fits
    assert len(left) <= 1
    assert not list(own_cache.rglob(".partial-*"))


@pytest.mark.parametrize("size", [0, 100, 1000, 3000, 30_000, 100_000])
def test_a_pruned_checkpoint_is_complete_or_not_there(tmp_path, size):
    model = make_model()
    result = prune(model, None, Metric.parse("W"), Pattern.parse("50%"), calibration=make_tokens())
    with full_after(size):
        refused(save_checkpoint, model, make_tokenizer(), result, tmp_path / "out", "toy")
    assert os.listdir(tmp_path) == []
    save_checkpoint(model, make_tokenizer(), result, tmp_path / "out", "toy")


@pytest.mark.parametrize("size", [0, 1000, 30_000])
def test_an_export_is_complete_or_not_there(tmp_path, size):
    make_model(dtype=torch.bfloat16).save_pretrained(tmp_path / "dense")
    pack(tmp_path / "dense", tmp_path / "packed")
    with full_after(size):
        refused(pack, tmp_path / "dense", tmp_path / "again")
        refused(unpack, tmp_path / "packed", tmp_path / "unpacked")
    assert sorted(os.listdir(tmp_path)) == ["dense", "packed"]
