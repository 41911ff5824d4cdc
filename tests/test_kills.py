"""SIGKILL at thirty random moments: of a search, its statistics, of pruning and of exporting.

Whatever was killed is begun again by the same command, and what it leaves in the end is what an
undisturbed run leaves, byte for byte.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors import safe_open
from tiny_models import make_text, save_model

from prunerzero.study import Study

CANDIDATES = 40
COMMON = ["--samples", "4", "--sequence-length", "32"]


class Shell:
    """Commands in a folder with a model, a text, and a cache."""

    def __init__(self, folder: Path, cache: str) -> None:
        self.folder = folder
        self.cache = folder / cache
        self.kills = 0

    def start(self, *arguments: object) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "prunerzero", *map(str, arguments), "--json"],
            env=os.environ | {"PRUNERZERO_CACHE": str(self.cache)},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: object) -> tuple[dict, float]:
        """Its document, and the seconds it took."""
        began = time.monotonic()
        with self.start(*arguments) as process:
            out, err = process.communicate()
        assert process.returncode == 0, err
        return json.loads(out), time.monotonic() - began

    def kill(self, moment, *arguments: object) -> bool:
        """Starts it and kills it at some moment; whether it ran still."""
        with self.start(*arguments) as process:
            moment(process)
            running = process.poll() is None
            process.kill()
        self.kills += running
        # No file in the cache is half-written under its own name.
        for path in self.cache.rglob("*.safetensors"):
            if not path.name.startswith("."):
                with safe_open(path, "pt") as file:
                    assert file.keys()
        return running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("kills")
    save_model(made / "model")
    texts = [json.dumps({"text": make_text(n, 1200)}) for n in range(12)]
    (made / "text.jsonl").write_text("\n".join(texts))
    return made


def count(path: Path) -> int:
    if not path.exists():
        return 0
    with Study.open(path) as study:
        assert study.check() == []
        return sum(study.counts().values())


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def lasting(document):
    """A document without times and places."""
    if isinstance(document, dict):
        gone = {"seconds", "timings", "recipe", "heldout_readings", "peak_rss_bytes", "output"}
        return {name: lasting(value) for name, value in document.items() if name not in gone}
    return [lasting(one) for one in document] if isinstance(document, list) else document


@pytest.mark.slow
def test_a_search_and_its_statistics(folder):
    moments = random.Random(1)
    search = ["search", "model", "--pattern", "50%", "--calibration", "text.jsonl", *COMMON,
              "--candidates", CANDIDATES, "--study"]  # fmt: skip
    whole, seconds = Shell(folder, "cache-whole").run(*search, "whole.db")
    shell = Shell(folder, "cache-parts")
    study = folder / "parts.db"
    for attempt in range(60):
        if shell.kills == 14:
            break
        before = count(study)

        def moment(process, before=before, early=attempt % 3 == 0):
            if early:  # while it loads, gathers statistics, or replays
                time.sleep(moments.uniform(0.2, 0.5) * seconds)
                return
            more = moments.randint(1, 4)
            while process.poll() is None and count(study) < before + more:
                time.sleep(0.02)
            time.sleep(moments.uniform(0, 0.2))

        shell.kill(moment, *search, "parts.db")
        assert count(study) >= before
    assert shell.kills == 14
    parts, _ = shell.run(*search, "parts.db")
    assert lasting(parts) == lasting(whole)
    rows = []
    for name in ("whole.db", "parts.db"):
        with Study.open(folder / name) as opened:
            rows.append([(r.key, r.status, r.fitness, r.parents) for r in opened.candidates()])
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_pruning_with_its_statistics_and_exporting(folder):
    moments = random.Random(2)
    prune = ["prune", "model", "--metric", "W * A * F ** 0.25", "--pattern", "2:4",
             "--calibration", "text.jsonl", *COMMON, "--output"]  # fmt: skip
    export = ["export", "pruned-whole", "--output"]
    for name, command, kills in (("pruned", prune, 8), ("packed", export, 8)):
        document, seconds = Shell(folder, f"cache-{name}-whole").run(*command, f"{name}-whole")
        shell = Shell(folder, f"cache-{name}-parts")
        output = folder / f"{name}-parts"
        for _ in range(4 * kills):
            if shell.kills == kills:
                break
            late = moments.uniform(0.4, 1.0) * seconds
            shell.kill(lambda _, late=late: time.sleep(late), *command, output)
            if output.exists():  # it ended, or was killed on its way out: then it is whole
                assert content(output).keys() == content(folder / f"{name}-whole").keys()
                for path in output.iterdir():
                    path.unlink()
                output.rmdir()
        assert shell.kills == kills
        again, _ = shell.run(*command, output)
        assert lasting(again) == lasting(document)
        expected, found = content(folder / f"{name}-whole"), content(output)
        assert expected.keys() == found.keys()
        for file in expected:
            if file.endswith(".safetensors"):
                assert found[file] == expected[file]
