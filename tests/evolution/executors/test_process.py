"""Real worker processes: killed, out of memory, without room, left alone."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from prunerzero.errors import InputError
from prunerzero.evolution import runner as module
from prunerzero.evolution.executors.process import ProcessExecutor
from prunerzero.evolution.executors.tasks import Fault, Look, Lost, Workplace
from prunerzero.evolution.runner import search
from prunerzero.evolution.settings import Budget
from prunerzero.recipe import Recipe
from prunerzero.study import Study

pytestmark = pytest.mark.usefixtures("own_cache")


class Obedient:
    """In place of maskers: does what a recipe's name says."""

    def sketch(self, recipe):
        if recipe.name == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if recipe.name == "memory":
            bytearray(1 << 62)
        if recipe.name == "bug":
            raise KeyError("ours")
        if recipe.name == "sleep":
            time.sleep(600)
        return os.getpid()


WORKPLACE = Workplace(None, Obedient(), (), None)


def look(name):
    return Look(Recipe.from_text("W").model_copy(update={"name": name}))


@pytest.fixture
def crew():
    with ProcessExecutor(2, threads=1) as made:
        made.start(WORKPLACE)
        wait(made, lambda: len(made.idle()) == 2)
        yield made


def wait(crew, done, answers=None):
    """Collects until something holds."""
    end = time.monotonic() + 120
    while not done():
        assert time.monotonic() < end
        found = crew.collect(1.0)
        if answers is not None:
            answers += found


def ask(crew, worker, name):
    answers = []
    crew.submit(worker, look(name))
    assert worker not in crew.idle()
    wait(crew, lambda: answers, answers)
    [(who, answer)] = answers
    assert who == worker
    return answer


@pytest.mark.slow
def test_what_can_happen_to_a_worker(crew):
    first, second = crew.idle()
    pids = crew.processes
    assert ask(crew, first, "well") == pids[first] != os.getpid()
    assert ask(crew, second, "well") == pids[second]
    # Out of memory: the candidate's fault, and the worker goes on.
    assert ask(crew, first, "memory").reason.startswith("MemoryError")
    assert ask(crew, first, "bug") == Fault("KeyError: 'ours'", candidates=False)
    # Killed: another takes its place.
    assert ask(crew, first, "kill") == Lost("ended by signal 9")
    assert first not in crew.processes
    wait(crew, lambda: len(crew.idle()) == 2)
    assert ask(crew, crew.idle()[-1], "well") not in pids.values()
    # Stuck: ended from outside, and nothing more is heard of it.
    crew.submit(second, look("sleep"))
    crew.dismiss(second)
    wait(crew, lambda: len(crew.idle()) == 2)
    assert second not in crew.processes
    left = list(crew.processes.values())
    crew.close()
    crew.close()
    assert not any(alive(pid) for pid in left)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_an_idle_worker_that_dies_is_replaced(crew):
    name, pid = next(iter(crew.processes.items()))
    os.kill(pid, signal.SIGKILL)
    wait(crew, lambda: name not in crew.processes)
    wait(crew, lambda: len(crew.idle()) == 2)


class Unopenable:
    """Travels, but cannot be put together."""

    def __reduce__(self):
        return os._exit, (3,)


@pytest.mark.slow
def test_workers_that_never_begin_end_the_search():
    with ProcessExecutor(2, threads=1) as crew:
        crew.start(Unopenable())
        with pytest.raises(InputError, match=r"workers: \d in a row ended .*exit code 3"):
            wait(crew, lambda: False)


def test_no_room_for_what_workers_share(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(InputError, match=r"MiB for them cannot be written .*No space left"):
        ProcessExecutor(1).start(WORKPLACE)


PARENT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_process import WORKPLACE, wait
from prunerzero.evolution.executors.process import ProcessExecutor

if __name__ == "__main__":
    crew = ProcessExecutor(2, threads=1)
    crew.start(WORKPLACE)
    wait(crew, lambda: len(crew.idle()) == 2)
    print(*crew.processes.values(), flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_workers_end_with_a_killed_coordinator(tmp_path, own_cache):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script), os.path.dirname(__file__)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    end = time.monotonic() + 30
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not list(own_cache.iterdir())  # what they shared never had a name


@pytest.fixture
def run(model_directory, text, tmp_path):
    def start(name="s.db", candidates=16, **more):
        return search(
            model_directory,
            "50%",
            study=tmp_path / name,
            budget=Budget(None, candidates),
            calibration=text,
            samples=4,
            sequence_length=32,
            **more,
        )

    return start


@pytest.mark.slow
def test_a_search_whose_workers_are_killed(run, tmp_path, monkeypatch):
    """Each is killed once, at some moment; every candidate is there in the end."""
    opened = []

    def watched(*arguments):
        opened.append(ProcessExecutor(arguments[1], threads=1))
        return opened[-1]

    monkeypatch.setattr(module, "open_executor", watched)
    killed, over = [], threading.Event()

    def assassin():
        while not over.wait(0.7):
            for pid in list(opened[0].processes.values() if opened else ())[:1]:
                if len(killed) < 4:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    thread = threading.Thread(target=assassin)
    thread.start()
    try:
        result = run(executor="process", workers=2, candidates=30)
    finally:
        over.set()
        thread.join()
    assert result.candidates == 30
    with Study.open(tmp_path / "s.db") as study:
        assert study.check() == []
        assert study.counts()["pending"] == 0
        rows = study.candidates("evaluated")
        assert len({row.key for row in rows}) == len(rows) > 20


def test_options_that_do_not_fit(run, tmp_path):
    for options, message in (
        ({"workers": 2}, "executor 'serial' has none"),
        ({"executor": "process", "workers": 0}, "give at least 1"),
        ({"executor": "process", "ray_address": "auto"}, "is for executor 'ray'"),
        ({"executor": "process", "stream": True}, "read by one process"),
    ):
        with pytest.raises(InputError, match=message):
            run(**options)
    assert not list(tmp_path.glob("s.db*"))
