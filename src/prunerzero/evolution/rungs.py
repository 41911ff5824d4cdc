"""The rules of the fitness ladder: who climbs, who wins, and how far the cheapest rung is trusted.

All of it is pure: what is decided follows from measurements and from a count of candidates, so the
same study always gives the same decisions, and `prunerzero.analysis.agreement` can repeat them.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prunerzero.study.records import Measurement

# One-sided 95 %: how many standard errors a new incumbent must win by.
CONFIDENCE = 1.645

# A reading ends at the first glance if the candidate is worse than the incumbent by this many
# standard errors, and by this much, as two windows tell little of their own spread.
LOST_ERRORS = 1.0
LOST_RATIO = 0.02

# A challenge that is this many standard errors below 0 after half of its windows is won: one-sided
# 99.5 % for the eight windows of the usual plan (Student's t).
WON_ERRORS = 3.5

# What rung 0 must promise (log ratio) for a candidate to be worth the dearer rungs: a new incumbent
# that is no better in practice costs as much as ten other candidates.
WORTHWHILE = 0.005

# One candidate in so many is measured on every rung, whatever the cheaper ones say of it.
AUDIT_EVERY = 20
AUDIT_SEED = "prunerzero audit"

# The trust in rung 0 is reviewed after so many candidates that have both readings, if so many of
# them are audits: without some, only candidates that rung 0 liked would testify for it.
REVIEW_READINGS = 12
REVIEW_AUDITS = 2
# Simulated on the spread and the noise of real searches, tau is about 0.8 where rung 0 is sound,
# 0.3 where it is three times noisier than it was there, and 0 where it tells nothing.
LOWEST_TAU = 0.5
# Both in standard errors of rung 0's own log ratio.
SLACK_STEP = 0.5
MOST_SLACK = 2.0


@dataclass(frozen=True)
class RungPlan:
    """How many tokens each rung reads, and when windows change.

    Attributes:
        length: tokens in a window; many short windows cover more documents than a few long ones.
        glance: windows of a forward pass, and of the first look at a candidate.
        screening: windows of rung 0, which every candidate is measured on; at most ``challenge``.
        challenge: windows of rung 1, for candidates that may beat the incumbent.
        confirm: further windows, rung 2, for those that beat it on rung 1; 0 for no such rung.
        round_length: candidates after which windows are drawn afresh even without a new incumbent.
        guidance: windows for one measurement of derivatives; at most ``challenge``.
    """

    length: int = 128
    glance: int = 2
    screening: int = 4
    challenge: int = 16
    confirm: int = 0
    round_length: int = 40
    guidance: int = 8

    @property
    def top(self) -> int:
        """The dearest rung."""
        return 2 if self.confirm else 1

    @property
    def page(self) -> int:
        """Windows in one draw of the sampler: those of rungs 1 and 2 together."""
        return self.challenge + self.confirm


def log_ratio(candidate: Sequence[float], incumbent: Sequence[float]) -> tuple[float, float]:
    """Log of the ratio of two mean divergences on the same windows, and its standard error.

    Args:
        candidate: mean divergence of each window, nats a token.
        incumbent: the same windows' under the incumbent.

    Returns:
        ``log(mean(candidate) / mean(incumbent))`` and its standard error (delta method, paired).
    """
    above, below = math.fsum(candidate), math.fsum(incumbent)
    count = len(candidate)
    terms = [
        c * count / above - i * count / below for c, i in zip(candidate, incumbent, strict=True)
    ]
    error = statistics.stdev(terms) / math.sqrt(count) if count > 1 else math.inf
    return math.log(above / below), error


def loss_change(candidate: Sequence[float], incumbent: Sequence[float]) -> tuple[float, float]:
    """Log of the ratio of two perplexities on the same windows, and its standard error.

    Args:
        candidate: mean loss of each window, nats a token.
        incumbent: the same windows' under the incumbent.
    """
    changes = [c - i for c, i in zip(candidate, incumbent, strict=True)]
    count = len(changes)
    error = statistics.stdev(changes) / math.sqrt(count) if count > 1 else math.inf
    return math.fsum(changes) / count, error


def parts(windows: int, plan: RungPlan) -> list[int]:
    """Windows after which a reading of so many may end early: a glance, a screening, half, all."""
    stops = (plan.glance, plan.screening, plan.challenge // 2, windows)
    return sorted({min(part, windows) for part in stops if part})


def is_lost(ratio: float, error: float, slack: float, *, glance: bool, share: float) -> bool:
    """Whether a reading of part of a rung's windows is so bad that the rest is not worth its time.

    Args:
        ratio: log ratio to the incumbent on the windows read.
        error: its standard error.
        slack: what rung 0 grants, in standard errors.
        glance: only the first few windows are read, which tell little of their own spread.
        share: share of a challenge's windows that is read: of more than a glance, a ratio has lost
            that would not win if all windows went on like these, whose standard error shrinks with
            their root. On the other rungs 0: what is not better has lost.
    """
    if glance:
        return ratio > max((LOST_ERRORS + slack) * error, LOST_RATIO)
    return ratio > -CONFIDENCE * error * math.sqrt(share)


def is_won(ratio: float, error: float, share: float) -> bool:
    """Whether half of a challenge's windows leave no doubt that the candidate beats the incumbent.

    Args:
        ratio: log ratio to the incumbent on the windows read.
        error: its standard error.
        share: share of the challenge's windows that is read.
    """
    return share >= 0.5 and ratio < -WON_ERRORS * error


def is_drawn(judged: int) -> bool:
    """Whether the candidate that follows ``judged`` others is drawn for an audit (1 in 20)."""
    digest = hashlib.sha256(f"{AUDIT_SEED} {judged}".encode()).digest()
    return int.from_bytes(digest[:8]) % AUDIT_EVERY == 0


def is_audit(measurement: Measurement) -> bool:
    """Whether the candidate got to this rung by the draw alone."""
    return bool(measurement.data and measurement.data.get("audit"))


def sampling_weight(measurement: Measurement) -> int:
    """How many candidates a reading stands for: an audit speaks for those that were not drawn."""
    return AUDIT_EVERY if is_audit(measurement) else 1


def is_promoted(screening: Mapping[str, Any]) -> bool:
    """Whether rung 0 lets a candidate pass, from the data of its measurement there.

    It must be better than the incumbent by `WORTHWHILE`, give or take ``slack`` standard errors.
    """
    slack = screening["slack"]
    allowed = slack * screening["standard_error"] if slack else 0.0
    return bool(screening["log_ratio"] <= allowed - WORTHWHILE)


def join_targets(
    measurements: Mapping[str, Measurement], data: Mapping[str, Any], seconds: float
) -> Measurement:
    """One measurement of a rung, of those of several targets there.

    Args:
        measurements: by the target's name.
        data: what holds for all of them together.
        seconds: what all took.
    """
    read = list(measurements.values())
    targets = {name: {**one.data, "windows": one.windows} for name, one in measurements.items()}
    hashes = " ".join(one.windows for one in read)
    return Measurement(
        purpose="fitness",
        rung=read[0].rung,
        windows=hashlib.sha256(hashes.encode()).hexdigest()[:16],
        tokens=sum(one.tokens for one in read),
        loss=_mean([one.loss for one in read]),
        kl=_mean([one.kl for one in read]),
        data={"targets": targets, **data},
        seconds=seconds,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean of values that are known for all targets."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def data_of(measurement: Measurement, target: str) -> Mapping[str, Any]:
    """The data of a measurement that concern one target; all of it in a search for one."""
    data: Mapping[str, Any] = measurement.data
    found: Mapping[str, Any] = data["targets"][target] if "targets" in data else data
    return found


def decisive_data(
    measurements: Sequence[Measurement], target: str | None = None
) -> list[Mapping[str, Any]]:
    """The data that count for a candidate: of all targets together, or of one of them.

    Rung 0 only screens: it counts for candidates that were measured nowhere else.

    Args:
        measurements: the candidate's, from rung 0 upwards.
        target: the target's name.
    """
    counting = measurements[1:] or measurements
    return [m.data if target is None else data_of(m, target) for m in counting]


def pooled(readings: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Log ratio to the incumbent, and its standard error, each reading weighted by its windows."""
    if len(readings) == 1:
        return readings[0]["log_ratio"], readings[0]["standard_error"]
    counts = [_windows_read(data) for data in readings]
    shares = [count / sum(counts) for count in counts]
    ratio = math.fsum(s * data["log_ratio"] for s, data in zip(shares, readings, strict=True))
    error = math.hypot(
        *(s * data["standard_error"] for s, data in zip(shares, readings, strict=True))
    )
    return ratio, error


def _windows_read(data: Mapping[str, Any]) -> int:
    """Windows of a reading; the same number on every target."""
    one = next(iter(data["targets"].values())) if "targets" in data else data
    return len(one["kl"] if "kl" in one else one["losses"])


def decisive(measurements: Sequence[Measurement]) -> tuple[float, float]:
    """Log ratio to the incumbent, and its standard error, that count for a candidate.

    Args:
        measurements: the candidate's, from rung 0 upwards.
    """
    return pooled(decisive_data(measurements))


def beats_incumbent(measurements: Sequence[Measurement]) -> bool:
    """Whether a candidate wins above rung 0 by more than noise.

    One that does climbs as long as there are rungs; so if these are all of its measurements, it is
    the new incumbent.
    """
    if len(measurements) < 2:
        return False
    ratio, error = decisive(measurements)
    return ratio < -CONFIDENCE * error


def weighted_tau(
    first: Sequence[float], second: Sequence[float], weights: Sequence[float]
) -> float | None:
    """Kendall's tau-a where each pair counts by the product of its members' weights.

    With weights of one over the probability of being observed, it estimates the tau of all
    candidates from those that have both readings. A tie in either reading counts as no agreement.

    Args:
        first: one reading of each candidate.
        second: the other reading of each.
        weights: positive weights of the candidates.

    Returns:
        In [-1, 1]; None for fewer than two candidates.
    """
    one, other, weight = (np.asarray(values, float) for values in (first, second, weights))
    agreement = total = 0.0
    for index in range(len(one) - 1):
        later = slice(index + 1, None)
        product = (one[index] - one[later]) * (other[index] - other[later])
        signs = (product > 0).astype(float) - (product < 0)
        agreement += float(weight[index] * (weight[later] @ signs))
        total += float(weight[index] * weight[later].sum())
    return agreement / total if total else None


def rung_tau(pairs: Sequence[tuple[Measurement, Measurement]]) -> float | None:
    """Agreement of two neighbouring rungs: the weighted tau of their log ratios.

    Log ratios and not fitness: the incumbent's level is in the fitness of both rungs, and would
    pass for agreement. Candidates reach the dearer rung by the cheaper one's favour (all of them)
    or by the draw (1 in 20 of the others), so an audit counts 20 times: without that, only the
    range that the cheaper rung let pass would be compared.

    Args:
        pairs: the measurements of each candidate on the cheaper and on the dearer rung.
    """
    return weighted_tau(
        [cheap.data["log_ratio"] for cheap, _ in pairs],
        [dear.data["log_ratio"] for _, dear in pairs],
        [sampling_weight(dear) for _, dear in pairs],
    )


class Trust:
    """How far rung 0 is trusted, as the slack that it grants.

    Every `REVIEW_READINGS` candidates with both readings (and at least `REVIEW_AUDITS` audits
    among them) tau is reviewed: below `LOWEST_TAU` the slack grows by a step, else it shrinks by
    one. An audited candidate that beats the incumbent is a winner that rung 0 would have thrown
    away, and it stands for twenty: the slack grows at once. Each change starts a new review.

    Attributes:
        slack: standard errors by which a candidate may be worse than the incumbent on rung 0.
    """

    def __init__(self) -> None:
        self.slack = 0.0
        self._pairs: list[tuple[Measurement, Measurement]] = []

    def learn(self, measurements: Sequence[Measurement]) -> None:
        """Takes note of a candidate's measurements, from rung 0 upwards."""
        if len(measurements) < 2:
            return
        self._pairs.append((measurements[0], measurements[1]))
        audits = sum(is_audit(challenge) for _, challenge in self._pairs)
        if is_audit(measurements[1]) and beats_incumbent(measurements):
            self._change(SLACK_STEP)
        elif len(self._pairs) >= REVIEW_READINGS and audits >= REVIEW_AUDITS:
            tau = rung_tau(self._pairs)
            assert tau is not None
            self._change(SLACK_STEP if tau < LOWEST_TAU else -SLACK_STEP)

    def _change(self, step: float) -> None:
        self.slack = min(MOST_SLACK, max(0.0, self.slack + step))
        self._pairs.clear()
