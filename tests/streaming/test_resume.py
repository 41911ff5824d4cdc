"""A run that was killed goes on, and ends with the same bytes."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_models
from streaming.helpers import HALF, save
from tiny_models import make_tokens

from prunerzero import Metric, Pattern
from prunerzero.errors import InputError
from prunerzero.pruning.pruner import UnusableScores
from prunerzero.streaming import prune_streamed
from prunerzero.streaming.journal import Journal, work_directory

pytestmark = pytest.mark.usefixtures("own_cache")

PRUNE = """
import sys, time
sys.path[:0] = sys.argv[3:4]
import torch
from tiny_models import make_tokens
from prunerzero import Metric, Pattern
from prunerzero.streaming import prune_streamed
from prunerzero.streaming.journal import Journal

torch.set_num_threads(1)
commit = Journal.commit
Journal.commit = lambda self, **done: (commit(self, **done), time.sleep(0.1))
print("ready", flush=True)
prune_streamed(sys.argv[1], sys.argv[2], Metric.parse("W * A * F"), Pattern.parse("50%"),
               calibration=make_tokens(), device="cpu")
"""


def content(directory):
    """All files but what says how long a run took."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.name == "pruning.json":
            record = json.loads(path.read_text())
            del record["seconds"], record["peak_rss_bytes"], record["sha256"]
            found[path.name] = record
        elif path.name != "README.md" and path.is_file():
            found[path.name] = path.read_bytes()
    return found


class Stopped(BaseException):
    """Stands for the end of the process: nothing handles it."""


def run(source, output, metric="W * A * F", pattern=HALF, **options):
    options = {"calibration": make_tokens(), "device": "cpu"} | options
    return prune_streamed(source, output, Metric.parse(metric), pattern, **options)


@pytest.mark.parametrize(
    ("metric", "sequential"),
    [("W * A * F", True), ("W * A * F", False), ("W * A", True), ("W * A", False), ("W", True)],
)
def test_stopped_at_every_step(metric, sequential, tmp_path, monkeypatch):
    source = save(tmp_path / "source", shard="30KB")
    options = {"metric": metric, "sequential": sequential}
    expected = run(source, tmp_path / "whole", **options)
    commit, steps = Journal.commit, []
    monkeypatch.setattr(
        Journal, "commit", lambda self, **done: (commit(self, **done), steps.append(1))
    )
    run(source, tmp_path / "counted", **options)
    total = len(steps)
    assert total > 3

    def stop(self, **done):
        stop.left -= 1
        if stop.left >= 0 or stop.recorded:
            commit(self, **done)
        if stop.left < 0:
            raise Stopped

    for step in range(total):
        output = tmp_path / f"out-{step}"
        # Otherwise the step's files lie there without being recorded.
        stop.left, stop.recorded = step, step % 2
        monkeypatch.setattr(Journal, "commit", stop)
        with pytest.raises(Stopped):
            run(source, output, **options)
        assert not output.exists()
        monkeypatch.setattr(Journal, "commit", commit)
        result = run(source, output, **options)
        assert content(output) == content(tmp_path / "whole")
        assert result.matrices == expected.matrices
        assert not work_directory(output).exists()


def test_finished_blocks_are_not_done_again(tmp_path, monkeypatch):
    source = save(tmp_path / "source")
    commit = Journal.commit

    def stop(self, **done):
        commit(self, **done)
        if done.get("pruned") == 2:
            raise Stopped

    monkeypatch.setattr(Journal, "commit", stop)
    with pytest.raises(Stopped):
        run(source, tmp_path / "out")
    monkeypatch.setattr(Journal, "commit", commit)
    seen = []
    run(source, tmp_path / "out", report=lambda *step: seen.append(step))
    assert seen == [("pruning", 3, 3)]


def test_ended_just_before_the_work_directory_was_deleted(tmp_path, monkeypatch):
    source = save(tmp_path / "source")
    discard = Journal.discard

    def stop(self):
        raise Stopped

    monkeypatch.setattr(Journal, "discard", stop)
    with pytest.raises(Stopped):
        run(source, tmp_path / "out")
    monkeypatch.setattr(Journal, "discard", discard)
    before = content(tmp_path / "out")
    assert run(source, tmp_path / "out").sparsity == 0.5
    assert content(tmp_path / "out") == before
    assert not work_directory(tmp_path / "out").exists()


def test_killed_at_random_moments(tmp_path):
    source = save(tmp_path / "source")
    run(source, tmp_path / "whole")
    tests = str(Path(tiny_models.__file__).parent)
    command = [sys.executable, "-c", PRUNE, str(source), str(tmp_path / "out"), tests]
    moments, killed = random.Random(0), 0
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(moments.uniform(0.1, 1.1))  # it takes more than 1.2 s in its pauses alone
            process.send_signal(signal.SIGKILL)
        killed += process.returncode != 0
        if process.returncode == 0 or (tmp_path / "out").exists():
            break
    assert killed
    if not (tmp_path / "out").exists():
        run(source, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"pattern": Pattern.parse("2:4")}, "pattern"),
        ({"metric": "W * A"}, "recipe"),
        ({"sequential": False}, "sequential"),
        ({"calibration": make_tokens(3)}, "calibration"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_lost(options, named, tmp_path, monkeypatch):
    source = save(tmp_path / "source")
    commit = Journal.commit

    def stop(self, **done):
        commit(self, **done)
        if done.get("pruned") == 1:
            raise Stopped

    monkeypatch.setattr(Journal, "commit", stop)
    with pytest.raises(Stopped):
        run(source, tmp_path / "out")
    monkeypatch.setattr(Journal, "commit", commit)
    before = content(work_directory(tmp_path / "out"))
    with pytest.raises(InputError, match=rf"other settings \({named}\); repeat those"):
        run(source, tmp_path / "out", **options)
    assert content(work_directory(tmp_path / "out")) == before


def test_a_changed_source_is_refused(tmp_path, monkeypatch):
    source = save(tmp_path / "source")
    commit = Journal.commit

    def stop(self, **done):
        commit(self, **done)
        raise Stopped

    monkeypatch.setattr(Journal, "commit", stop)
    with pytest.raises(Stopped):
        run(source, tmp_path / "out")
    monkeypatch.setattr(Journal, "commit", commit)
    save(source, seed=1)
    with pytest.raises(InputError, match=r"other settings \(model\)"):
        run(source, tmp_path / "out")


def test_only_one_process_works_in_a_directory(tmp_path):
    with Journal(tmp_path / "out.partial") as first:
        first.open({})
        second = Journal(tmp_path / "out.partial")
        with pytest.raises(InputError, match="another process is at work"), second:
            second.open({})
        assert (tmp_path / "out.partial/lock").exists()


def test_a_metric_that_fails_leaves_nothing_to_go_on_with(tmp_path):
    source = save(tmp_path / "source")
    with pytest.raises(UnusableScores):
        run(source, tmp_path / "out", metric="mms(W - W)")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
