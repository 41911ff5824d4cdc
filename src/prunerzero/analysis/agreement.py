"""What the fitness ladder did in a study, and how far its rungs agree.

Candidates reach a dearer rung because the cheaper one liked them, or because they were drawn for an
audit. Estimates over all candidates therefore count each audit as the twenty rejected candidates
of which it is one (`prunerzero.evolution.rungs.sampling_weight`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from prunerzero.evolution.rungs import beats_incumbent, is_audit, rung_tau, sampling_weight
from prunerzero.study.records import Candidate, Measurement

TOP = 10


@dataclass(frozen=True)
class Agreement:
    """How far two neighbouring rungs order candidates alike.

    Attributes:
        rungs: the cheaper rung and the dearer one.
        tau: weighted Kendall tau of the two log ratios (`rung_tau`); None without two candidates.
        readings: candidates that were measured on both.
        audits: those of them that the cheaper rung had rejected.
    """

    rungs: tuple[int, int]
    tau: float | None
    readings: int
    audits: int


@dataclass(frozen=True)
class Ladder:
    """The funnel of a study, and what it lets slip.

    Attributes:
        proposals: all that was proposed and is accounted for.
        duplicates: known ones, not measured again.
        rejected: refused before any forward pass.
        failed: raised, or gave predictions that are not finite.
        screened: measured on rung 0.
        promoted: measured on rung 1 because rung 0 let them pass.
        audited: measured on rung 1 although rung 0 had rejected them.
        confirmed: measured on rung 2 because they won on rung 1.
        won: became the incumbent, the first candidate not counted.
        agreement: of each two neighbouring rungs that have common candidates.
        top_lost: share of the best ten candidates that rung 0 would have thrown away; None without
            audits.
        slack: standard errors by which a candidate may be worse than the incumbent on rung 0, at
            the last candidate; None before the second.
    """

    proposals: int
    duplicates: int
    rejected: int
    failed: int
    screened: int
    promoted: int
    audited: int
    confirmed: int
    won: int
    agreement: tuple[Agreement, ...]
    top_lost: float | None
    slack: float | None


def describe_ladder(candidates: Sequence[Candidate], measurements: Iterable[Measurement]) -> Ladder:
    """Describes the ladder of a study.

    Args:
        candidates: all rows of the study.
        measurements: their fitness measurements, in order of insertion.
    """
    climbs = _climbs(measurements)
    challenges = [climb[1] for climb in climbs.values() if len(climb) > 1]
    confirmations = [climb[2] for climb in climbs.values() if len(climb) > 2]
    audited = sum(map(is_audit, challenges))
    duplicates = sum(candidate.skipped for candidate in candidates)
    statuses = [candidate.status for candidate in candidates]
    fitness = {row.id: row.fitness for row in candidates if row.fitness is not None}
    slacks = [climb[0].data["slack"] for climb in climbs.values() if _has(climb[0], "slack")]
    return Ladder(
        proposals=len(candidates) + duplicates,
        duplicates=duplicates,
        rejected=statuses.count("rejected"),
        failed=statuses.count("failed"),
        screened=len(climbs),
        promoted=len(challenges) - audited,
        audited=audited,
        confirmed=len(confirmations) - sum(map(is_audit, confirmations)),
        won=sum(map(beats_incumbent, climbs.values())),
        agreement=tuple(_agreements(climbs.values())),
        top_lost=share_lost(
            [(fitness[id], climb[1]) for id, climb in climbs.items() if len(climb) > 1]
        ),
        slack=slacks[-1] if slacks else None,
    )


def share_lost(readings: Iterable[tuple[float, Measurement]], top: int = TOP) -> float | None:
    """Share of the best candidates that rung 0 would have thrown away.

    Ranked are the candidates that were measured above rung 0. An audited one takes as many of the
    ``top`` places as it stands for, as far as there are places left; so with few audits the share
    is coarse.

    Args:
        readings: fitness (lower is better) and measurement on rung 1 of each candidate.
        top: how many candidates count as the best.

    Returns:
        In [0, 1]; None without audits, which alone can tell.
    """
    ranked = sorted(readings, key=lambda reading: reading[0])
    if not any(is_audit(challenge) for _, challenge in ranked):
        return None
    left, lost = top, 0
    for _, challenge in ranked:
        taken = min(left, sampling_weight(challenge))
        left -= taken
        lost += taken * is_audit(challenge)
    return lost / (top - left)


def _climbs(measurements: Iterable[Measurement]) -> dict[int, list[Measurement]]:
    """The measurements of each candidate that was, from rung 0 upwards."""
    climbs: dict[int, list[Measurement]] = {}
    for measurement in measurements:
        if measurement.candidate_id is not None:
            climbs.setdefault(measurement.candidate_id, []).append(measurement)
    return {
        candidate: sorted(climb, key=lambda measurement: measurement.rung)
        for candidate, climb in climbs.items()
    }


def _agreements(climbs: Iterable[Sequence[Measurement]]) -> list[Agreement]:
    pairs: dict[int, list[tuple[Measurement, Measurement]]] = {}
    for climb in climbs:
        for lower, pair in enumerate(pairwise(climb)):
            pairs.setdefault(lower, []).append(pair)
    return [
        Agreement((rung, rung + 1), rung_tau(both), len(both), sum(is_audit(d) for _, d in both))
        for rung, both in sorted(pairs.items())
    ]


def _has(measurement: Measurement, name: str) -> bool:
    return bool(measurement.data) and name in measurement.data
