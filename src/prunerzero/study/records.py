"""The rows of a study. What is inserted and what is read back has the same type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["pending", "evaluated", "rejected", "failed"]
Purpose = Literal["fitness", "validation", "heldout"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One recipe that the search proposed.

    Attributes:
        step: Step of the search that proposed it; the initial population is step 0 upwards.
        key: Canonical formulas + pattern + group + allocation + update (design 3.4).
        status: ``evaluated``: it has a fitness. ``rejected``: refused before any forward pass.
            ``failed``: it raised, took too long, or predicted what is not finite. ``pending``: a
            worker has it.
        recipe: The recipe's JSON object.
        expression: Its formulas as text.
        size: Nodes of its formulas.
        origin: ``zoo``, ``guess``, ``random``, ``crossover``, ``mutation``, ``allocation``, ...
        parents: Ids of the candidates that it descends from.
        fitness: Lower is better; None unless evaluated.
        fingerprint: Hash of its masks on the probe matrices.
        reason: Why it was rejected or failed, in one line.
        seconds: What it cost, wall clock.
        skipped: Duplicates that were proposed and avoided just before it.
        id: 1, 2, ... in order of insertion; given by the study.
        created: UTC time of insertion, ISO 8601; given by the study.
    """

    step: int
    key: str
    status: Status
    recipe: Mapping[str, Any]
    expression: str
    size: int
    origin: str
    parents: tuple[int, ...] = ()
    fitness: float | None = None
    fingerprint: str | None = None
    reason: str | None = None
    seconds: float = 0.0
    skipped: int = 0
    id: int | None = None
    created: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """One reading of a candidate, of a baseline, or of the dense model, on some windows.

    Attributes:
        purpose: What the reading is for: ``fitness``, ``validation`` or ``heldout``.
        windows: Content hash of the token windows.
        tokens: How many tokens were predicted.
        loss: Mean negative log likelihood, nats a token; None when it was not finite.
        kl: Mean KL divergence from the dense model, nats a token.
        rung: Level of the fitness ladder, 0 the cheapest.
        name: What was measured when it is no candidate: ``dense``, ``wanda``, ...
        data: Anything more, as JSON (losses a window, intervals).
        seconds: What it cost, wall clock.
        candidate_id: The candidate; None for baselines and the dense model.
        id: Given by the study.
        created: UTC time of insertion, ISO 8601; given by the study.
    """

    purpose: Purpose
    windows: str
    tokens: int
    loss: float | None
    kl: float | None = None
    rung: int = 0
    name: str | None = None
    data: Any = None
    seconds: float = 0.0
    candidate_id: int | None = None
    id: int | None = None
    created: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened to the study: a session's start or end, a held-out reading, ...

    Attributes:
        kind: ``session-start``, ``session-end``, ``incumbent``, ``heldout``, ...
        data: Anything more, as JSON.
        id: Given by the study.
        created: UTC time of insertion, ISO 8601; given by the study.
    """

    kind: str
    data: Any
    id: int
    created: str
