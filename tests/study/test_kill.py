import random
import subprocess
import sys
import time

from prunerzero.study import Study

WRITER = """
import sys
from prunerzero.study import Candidate, Measurement, Study

reading = Measurement(purpose="fitness", windows="w", tokens=1, loss=1.0, data=list(range(500)))
with Study.open_or_create(sys.argv[1], {"seed": 0}) as study:
    first = sum(study.counts().values()) + 1
    print("open", flush=True)
    for number in range(first, 1_000_000):
        study.add_candidate(
            Candidate(step=number, key=f"key {number}", status="evaluated", recipe={},
                      expression="W", size=1, origin="random", fitness=float(number)),
            [reading, reading],
        )
        print(number, flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_a_sound_prefix(tmp_path):
    path = tmp_path / "s.db"
    moments = random.Random(0)
    for _ in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout.readline() == "open\n"
            time.sleep(moments.uniform(0, 0.1))
            writer.kill()
            told = [int(line) for line in writer.stdout.read().split("\n")[:-1]]
        with Study.open(path) as study:
            assert study.check() == []
            steps = [candidate.step for candidate in study.candidates()]
            assert steps == list(range(1, len(steps) + 1))
            assert len(study.measurements()) == 2 * len(steps)
        # What was reported as stored is there; at most one more was stored and not yet reported.
        assert len(steps) - max(told, default=len(steps)) in (0, 1)
    assert len(steps) > 10
