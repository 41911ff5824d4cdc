import math

import pytest

from prunerzero.analysis.agreement import Agreement, describe_ladder, share_lost
from prunerzero.evolution.rungs import AUDIT_EVERY
from prunerzero.study import Candidate, Measurement


def reading(candidate, rung, ratio, **notes):
    data = {"kl": [0.5] * 8, "log_ratio": ratio, "standard_error": 0.01, **notes}
    return Measurement(
        purpose="fitness",
        windows="w",
        tokens=1,
        loss=1.0,
        rung=rung,
        data=data,
        candidate_id=candidate,
    )


def row(identifier, fitness=None, status="evaluated", skipped=0):
    return Candidate(
        id=identifier,
        step=identifier,
        key=str(identifier),
        status=status,
        recipe={},
        expression="W",
        size=1,
        origin="zoo",
        fitness=fitness,
        reason=None if status == "evaluated" else "why",
        skipped=skipped,
    )


FIRST = Measurement(
    purpose="fitness", windows="w", tokens=1, loss=1.0, data={"kl": [0.5]}, candidate_id=1
)
ROWS = [
    row(1, 0.0),
    row(2, 0.3, skipped=2),
    row(3, status="rejected"),
    row(4, -0.1),
    row(5, status="failed", skipped=1),
    row(6, 0.1),
    row(7, 0.0),
]
READINGS = [
    FIRST,
    reading(2, 0, 0.3, slack=0.0),
    reading(4, 0, -0.2, slack=0.0),
    reading(4, 1, -0.1),
    reading(6, 0, 0.2, slack=0.0),
    reading(6, 1, 0.2, audit=True),
    reading(7, 0, -0.1, slack=0.5),
    reading(7, 1, 0.1),
]


def test_the_funnel():
    ladder = describe_ladder(ROWS, READINGS)
    assert (ladder.proposals, ladder.duplicates) == (10, 3)
    assert (ladder.rejected, ladder.failed, ladder.screened) == (1, 1, 5)
    assert (ladder.promoted, ladder.audited, ladder.confirmed, ladder.won) == (2, 1, 0, 1)
    assert ladder.slack == 0.5
    assert ladder.agreement == (Agreement((0, 1), 1.0, 3, 1),)
    # In order of fitness: 4, 7, and the audited 6, which stands for all further places.
    assert ladder.top_lost == pytest.approx(8 / 10)


def test_a_third_rung():
    more = [reading(4, 2, -0.1), reading(7, 2, 0.2, audit=True)]
    ladder = describe_ladder(ROWS, READINGS + more)
    assert (ladder.promoted, ladder.confirmed, ladder.won) == (2, 1, 1)
    assert ladder.agreement[1] == Agreement((1, 2), 1.0, 2, 1)


def test_a_study_without_a_ladder():
    """As the paper's algorithm leaves it: one reading a candidate, and no data."""
    plain = Measurement(purpose="fitness", windows="w", tokens=1, loss=1.0, candidate_id=1)
    ladder = describe_ladder([row(1, 20.0)], [plain])
    assert (ladder.screened, ladder.promoted, ladder.audited, ladder.won) == (1, 0, 0, 0)
    assert (ladder.agreement, ladder.top_lost, ladder.slack) == ((), None, None)
    assert describe_ladder([], []).proposals == 0


def test_without_audits_nobody_knows_what_was_lost():
    promoted, audit = reading(1, 1, 0.0), reading(2, 1, 0.0, audit=True)
    assert share_lost([]) is None
    assert share_lost([(0.1, promoted)]) is None
    assert share_lost([(n, promoted) for n in range(10)] + [(10, audit)]) == 0.0
    assert share_lost([(n, promoted) for n in range(4)] + [(3.5, audit)]) == pytest.approx(0.6)
    assert share_lost([(0.1, audit)]) == 1.0


def test_the_share_lost_is_right_on_average():
    """Audits by lot, of candidates of which every third of the best is thrown away."""
    lost = [number % 3 == 0 for number in range(400)]
    expected = sum(lost[:100]) / 100
    shares = []
    for lot in range(AUDIT_EVERY):
        readings = [
            (float(number), reading(number, 1, 0.0, **({"audit": True} if gone else {})))
            for number, gone in enumerate(lost)
            if not gone or (number // 3) % AUDIT_EVERY == lot
        ]
        shares.append(share_lost(readings, top=100))
    assert math.fsum(shares) / len(shares) == pytest.approx(expected, abs=0.05)
