"""What the dashboard costs: answers to the page's requests, and an update.

    python tests/made_study.py 20000 big.db
    python benchmarks/dashboard.py big.db --json

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
import time
import urllib.request
from pathlib import Path
from typing import Any

REQUESTS = {
    "page": "/",
    "document": "/api/document",
    "candidate": "/api/candidates/1",
    "library": "/static/echarts.js",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = measure(arguments.study, arguments.repeats)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name}: {value}")
    return 0


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
