"""What the dashboard costs: answers to the page's requests, and an update.

    python benchmarks/dashboard.py --json           # a made-up study of 20,000 candidates
    python benchmarks/dashboard.py s.db --json      # one of your own

The server runs in a process of its own, as `prunerzero dashboard` starts it. Each request is
repeated; the median and the slowest are given. `open_seconds` is from the start to the first
answer, Python's imports included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

CANDIDATES = 20_000
REQUESTS = {
    "page": "/",
    "document": "/api/document",
    "candidate": "/api/candidates/1",
    "library": "/static/echarts.js",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", type=Path, nargs="?", help="default: one is made up")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        study = arguments.study or made_up(Path(folder) / "big.db")
        found = measure(study, arguments.repeats)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name}: {value}")
    return 0


def made_up(path: Path) -> Path:
    """A study of as many candidates as the aim is for, from the tests' maker."""
    maker = Path(__file__).parent.parent / "tests" / "made_study.py"
    subprocess.run([sys.executable, str(maker), str(CANDIDATES), str(path)], check=True)
    return path


def measure(study: Path, repeats: int) -> dict[str, Any]:
    began = time.perf_counter()
    command = [sys.executable, "-m", "prunerzero", "dashboard", str(study), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            address = server.stderr.readline().split()[-1].rstrip("/")
            document = ask(address + "/api/document")
            opened = time.perf_counter() - began
            answers = {name: times(address + path, repeats) for name, path in REQUESTS.items()}
        finally:
            server.terminate()
    return {
        "document_bytes_compressed": len(document),
        "open_seconds": opened,
        **{
            f"{name}_{which}_ms": 1000 * pick(seconds)
            for name, seconds in answers.items()
            for which, pick in (("median", statistics.median), ("slowest", max))
        },
    }


def times(address: str, repeats: int) -> list[float]:
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        ask(address)
        found.append(time.perf_counter() - began)
    return found


def ask(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        body: bytes = answer.read()
    return body


if __name__ == "__main__":
    sys.exit(main())
