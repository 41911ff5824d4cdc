"""A search under fire: workers and coordinators killed, a full disk, a damaged cache, at random.

    python benchmarks/soak.py --minutes 30 --json

A random model of a few blocks is searched by the command line with two worker processes. After
every fault the study must hold all that it held before, unchanged, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import psutil
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from prunerzero.study import Study

FAULTS = ("worker killed", "coordinator killed", "disk full", "cache damaged")
WEIGHTS = (6, 2, 2, 1)  # how often each
SETTLING = 20.0  # seconds of a session before its memory counts: workers still start
LEAST = 20.0  # seconds of a session's memory that tell of growth
ROOM = 64 << 10  # bytes that a file may have on a disk that is nearly full
NOTICED = 300.0  # seconds within which a search must have written so much


class Soak:
    """One search and what is done to it.

    Args:
        folder: for everything.
        seed: of the faults.
        every: seconds between faults, on average.
    """

    def __init__(self, folder: Path, seed: int, every: float) -> None:
        self.faults: Counter[str] = Counter()
        self.problems: list[str] = []
        self.growths: list[float] = []
        self.resident: list[int] = []
        self.files: list[int] = []
        self.sessions = 0
        self.settled: dict[int, Any] = {}
        self._folder = folder
        self._random = Random(seed)
        self._every = every
        self._process: psutil.Popen | None = None
        self._samples: list[tuple[float, int]] = []  # of this session: time, bytes
        self._began = 0.0
        make_model(folder / "model")
        random = Random(0)
        text = ["".join(random.choice("abcdefgh ") for _ in range(4000)) for _ in range(12)]
        (folder / "text.jsonl").write_text("\n".join(json.dumps({"text": one}) for one in text))

    @property
    def study(self) -> Path:
        """The study's file."""
        return self._folder / "s.db"

    def run(self, seconds: float) -> None:
        """Searches and breaks things for so long; then lets it end in peace."""
        end = time.monotonic() + seconds
        due = self._next()
        while time.monotonic() < end:
            if self._process is None:
                self._start()
            time.sleep(0.5)
            self._look()
            if self._process is not None and time.monotonic() > due:
                self._break(self._random.choices(FAULTS, WEIGHTS)[0])
                due = self._next()
        self._stop()
        self.check()
        done = subprocess.run(
            self._command("--candidates", str(len(self.settled) + 2)),
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            self.problems.append(f"does not end: {done.stderr.strip().splitlines()[-1:]}")
        self.check()
        with Study.open(self.study) as study:
            if study.counts()["pending"]:
                self.problems.append(f"{study.counts()['pending']} candidates are pending still")

    def check(self) -> None:
        """Compares the study with what it held when it was looked at last."""
        if not self.study.exists():
            return
        with Study.open(self.study) as study:
            self.problems += study.check()
            rows = {row.id: row for row in study.candidates() if row.status != "pending"}
        lost = [number for number, row in self.settled.items() if rows.get(number) != row]
        if lost:
            self.problems.append(f"lost or changed: candidates {lost[:10]}")
        keys = Counter(row.key for row in rows.values())
        twice = [key for key, count in keys.items() if count > 1]
        if twice:
            self.problems.append(f"measured twice: {twice[:3]}")
        self.settled = {number: row for number, row in rows.items() if number is not None}

    def _next(self) -> float:
        return time.monotonic() + self._random.uniform(0.5, 1.5) * self._every

    def _command(self, *more: str) -> list[str]:
        folder = self._folder
        return [
            sys.executable, "-m", "prunerzero", "search", str(folder / "model"), "--pattern", "50%",
            "--study", str(self.study), "--calibration", str(folder / "text.jsonl"), "--samples",
            "4", "--sequence-length", "64", "--executor", "process", "--workers", "2", *more,
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        return os.environ | {"PRUNERZERO_CACHE": str(self._folder / "cache")}

    def _start(self) -> None:
        self.sessions += 1
        self._samples, self._began = [], time.monotonic()
        self._log = (self._folder / "log").open("w+")
        self._process = psutil.Popen(
            self._command("--budget", "100h"), env=self._environment(),
            stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._ended()

    def _ended(self, expected: tuple[int, ...] = (-9,)) -> None:
        assert self._process is not None
        code = self._process.wait()
        self._process = None
        self._log.seek(0)
        text = self._log.read().strip()
        self._log.close()
        if code not in expected or "Traceback" in text:
            self.problems.append(f"exit code {code}: {text[-500:]}")
        samples = [size for at, size in self._samples if at > SETTLING]
        if samples and self._samples[-1][0] > SETTLING + LEAST:
            fifth = max(1, len(samples) // 5)
            first, last = samples[:fifth], samples[-fifth:]
            self.growths.append(statistics.mean(last) / statistics.mean(first) - 1)

    def _look(self) -> None:
        """Samples memory and files of the coordinator, and notices its end."""
        assert self._process is not None
        try:
            size = self._process.memory_info().rss
            files = self._process.num_fds()
        except psutil.Error:
            size = files = 0
        if self._process.poll() is not None:
            self._ended(())  # nobody did anything to it
            self.check()
        elif size:
            at = time.monotonic() - self._began
            self._samples.append((at, size))
            if at > SETTLING:
                self.resident.append(size)
                self.files.append(files)

    def _break(self, fault: str) -> None:
        assert self._process is not None
        if fault == "worker killed":
            workers = self._workers()
            if not workers:
                return
            with suppress(psutil.Error):
                self._random.choice(workers).kill()
        elif fault == "coordinator killed":
            self._stop()
        elif fault == "disk full":
            # Less than the study has: SQLite writes its log from the beginning time and again.
            limit = os.fstat(self._log.fileno()).st_size + self._random.randrange(4096, ROOM)
            self._process.rlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                self._process.wait(NOTICED)
            except psutil.TimeoutExpired:
                self._process.kill()
                self.problems.append("a full disk was not noticed")
            self._ended((2, -9))
        else:
            caches = list((self._folder / "cache").rglob("*.safetensors"))
            if not caches:
                return
            self._stop()  # who runs has read it already
            damage(self._random.choice(caches), self._random)
        self.faults[fault] += 1
        self.check()

    def _workers(self) -> list[psutil.Process]:
        assert self._process is not None
        with suppress(psutil.Error):
            found = self._process.children()
            return [one for one in found if "spawn_main" in " ".join(one.cmdline())]
        return []


def damage(path: Path, random: Random) -> None:
    """Flips one byte."""
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 0xFF
    path.write_bytes(content)


def make_model(directory: Path) -> None:
    """A random Llama that takes a few tenths of a second a candidate; one token a byte."""
    set_seed(0)
    config = LlamaConfig(
        vocab_size=256, hidden_size=256, intermediate_size=512, num_hidden_layers=8,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        initializer_range=0.1, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={s: n for n, s in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128).save_pretrained(
        directory
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between faults")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), options.seed, options.every)
        began = time.monotonic()
        soak.run(60 * options.minutes)
        seconds = time.monotonic() - began
    found = {
        "seconds": seconds,
        "candidates": len(soak.settled),
        "sessions": soak.sessions,
        "faults": dict(soak.faults),
        "losses": len(soak.problems),
        "problems": soak.problems,
        "memory_growth": max(soak.growths, default=None),
        "sessions_that_tell_of_growth": len(soak.growths),
        "rss_bytes": {"median": int(statistics.median(soak.resident or [0])),
                      "most": max(soak.resident, default=0)},
        "open_files": {"least": min(soak.files, default=0), "most": max(soak.files, default=0)},
    }  # fmt: skip
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for name, value in found.items():
            print(f"{name:<30} {value}")
    return bool(soak.problems)


if __name__ == "__main__":
    sys.exit(main())
