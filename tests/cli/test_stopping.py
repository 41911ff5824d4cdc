"""Signals: a command stops, says how to go on, and goes on."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from prunerzero.cli import stopping
from prunerzero.cli.app import main
from prunerzero.study import Study


def rows(path):
    if not path.exists():
        return 0
    with Study.open(path) as study:
        return sum(study.counts().values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_search_stops_and_the_printed_command_goes_on(model, texts, tmp_path, number):
    study = tmp_path / "my search.db"
    arguments = [
        "search", model, "--pattern", "50%", "--study", str(study), "--samples", "4",
        "--calibration", str(texts / "calibration.jsonl"), "--sequence-length", "16",
        "--candidates",
    ]  # fmt: skip
    environment = os.environ | {"PRUNERZERO_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "prunerzero", *arguments, "100000"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and rows(study) < 3:
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    told = err.splitlines()[-1].partition("go on with: ")[2]
    assert shlex.split(told) == ["prunerzero", *arguments, "100000"]
    assert sorted(os.listdir(tmp_path)) == ["cache", "my search.db"]
    with Study.open(study) as opened:
        assert opened.check() == []
    if number == signal.SIGINT:
        return  # going on takes a while, and does not depend on how it was stopped
    there = rows(study)
    again = [*command[:-1], str(there + 1), "--json"]
    done = subprocess.run(again, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["candidates"] == there + 1


STUCK = """
import signal, sys, time
from prunerzero.cli import stopping
stopping.GRACE = float(sys.argv[1])
with stopping.stoppable("prunerzero", ["prune", "a b"]):
    while True:
        try:
            print("ready", flush=True)
            time.sleep(600)
        except KeyboardInterrupt:
            pass  # a library that swallows it
"""


@pytest.mark.parametrize(("grace", "signals"), [(0.3, 1), (600, 2)])
def test_what_does_not_stop_is_ended(grace, signals):
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, str(grace)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        for _ in range(signals):
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("go on with: prunerzero prune 'a b'\n")


def test_an_interrupt_that_a_library_wraps_is_one():
    def wrap():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ValueError("as pydantic does") from error

    with pytest.raises(KeyboardInterrupt), stopping.stoppable("prunerzero", []):
        wrap()
    with pytest.raises(ValueError, match="no signal"), stopping.stoppable("prunerzero", []):
        raise ValueError("no signal")


def test_handlers_are_given_back(capsys):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert main(["metrics"]) == 0
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    capsys.readouterr()


def test_elsewhere_than_in_the_main_thread_signals_are_left_alone():
    ended = []

    def work():
        with stopping.stoppable("prunerzero", []):
            ended.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [signal.getsignal(signal.SIGTERM)]


def test_the_time_to_stop_is_short():
    assert stopping.GRACE < 5
