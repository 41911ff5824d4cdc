"""Two minutes of `benchmarks/soak.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parent.parent / "benchmarks" / "soak.py"


@pytest.mark.slow
def test_two_minutes_under_fire_lose_nothing():
    command = [sys.executable, str(SOAK), "--minutes", "2", "--every", "8", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["losses"] == 0
    assert found["candidates"] > 10
    assert sum(found["faults"].values()) > 3
