"""What the page shows of a study: one typed JSON document.

`prunerzero.report.data` makes it, the report holds it, the dashboard serves it. Chart data come in
columns, one entry a candidate, so that 20,000 candidates are a megabyte before compression.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

State = Literal["running", "interrupted", "finished"]
STATUSES = ("evaluated", "rejected", "failed", "pending")


class Part(BaseModel):
    """A part of the document."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Overview(Part):
    """What was searched, where, and how it stands.

    Attributes:
        name: the study's file name.
        state: a process writes to it; nobody does and it was not closed; or it was closed.
        settings: the study's settings.
        versions: of prunerzero and Python that closed the search; empty before that.
        began: UTC time of the first candidate, ISO 8601.
        seconds: search time of all sessions, without statistics and closing measurements.
        sessions: how often the search was started.
        counts: candidates by status.
        command: begins or goes on with the same search.
    """

    name: str
    state: State
    settings: dict[str, JsonValue]
    versions: dict[str, JsonValue]
    began: str | None
    seconds: float
    sessions: int
    counts: dict[str, int]
    command: str


class Measure(Part):
    """What ``value`` is in this document; lower is better.

    Attributes:
        name: title of the axis.
        explanation: one sentence.
        dense: the dense model's value; None where it was not measured.
    """

    name: str
    explanation: str
    dense: float | None


class Columns(Part):
    """All candidates, one entry each, in order of insertion.

    Attributes:
        id: number in the study.
        status: index in ``STATUSES``.
        origin: index in ``origins``.
        origins: how candidates came about.
        size: nodes of the formulas.
        value: the measure; None unless evaluated.
        at: search seconds until it was measured, over all sessions.
        family: mask family found by ``prunerzero analyze``; None where that did not look.
    """

    id: list[int]
    status: list[int]
    origin: list[int]
    origins: list[str]
    size: list[int]
    value: list[float | None]
    at: list[float]
    family: list[int | None]


class Reference(Part):
    """A published recipe that the search measured too: a line in the charts."""

    name: str
    candidate: int
    value: float


class RandomSearch(Part):
    """Best so far of a random search on the same model: the control.

    Attributes:
        study: its file name.
        index: number of candidates proposed, at each improvement and at the end.
        at: search seconds there.
        value: the best value there, on this study's scale.
    """

    study: str
    index: list[int]
    at: list[float]
    value: list[float]


class FrontMember(Part):
    """A candidate that is better than every shorter one."""

    id: int
    size: int
    value: float
    expression: str


class HeldoutRow(Part):
    """A model's perplexity on held-out text.

    Attributes:
        name: ``dense``, a zoo name, ``candidate 7``, ...
        role: what it is in the table.
        candidate: the candidate, if it is one.
        perplexity: None where it was not finite.
        change: of the winner's perplexity against this one, as a share; None for the winner.
        low: lower end of its 95 % interval (paired bootstrap over windows).
        high: upper end.
    """

    name: str
    role: Literal["dense", "winner", "formula", "baseline", "control"]
    candidate: int | None
    perplexity: float | None
    change: float | None = None
    low: float | None = None
    high: float | None = None


class Heldout(Part):
    """The closing table.

    Attributes:
        winner: the candidate that validation text chose.
        verdict: one sentence.
        rows: the lowest perplexity first.
        windows: number of token windows.
        tokens: tokens predicted in them.
        readings: how often the study's held-out text has been read.
    """

    winner: int
    verdict: str
    rows: list[HeldoutRow]
    windows: int
    tokens: int
    readings: int


class Stage(Part):
    """A stage of the funnel."""

    name: str
    count: int


class RungAgreement(Part):
    """How far two neighbouring rungs order candidates alike (Kendall's tau)."""

    rungs: tuple[int, int]
    tau: float | None
    readings: int
    audits: int


class Failure(Part):
    """Candidates that failed or were rejected for one reason."""

    status: str
    reason: str
    count: int


class Funnel(Part):
    """From proposals to winners."""

    stages: list[Stage]
    agreement: list[RungAgreement]
    top_lost: float | None
    failures: list[Failure]


class Element(Part):
    """An operator or terminal among the best tenth and among all evaluated candidates."""

    kind: Literal["operator", "terminal"]
    name: str
    best: int
    all: int


class Elements(Part):
    """Operators and terminals.

    Attributes:
        best: how many candidates the best tenth are.
        all: how many candidates were evaluated.
        rows: counts of candidates that have it.
    """

    best: int
    all: int
    rows: list[Element]


class Formula(Part):
    """One formula of a recipe.

    Attributes:
        kind: the kind or family of matrices that it scores; empty for all.
        text: its text form.
        tree: its JSON tree; a node whose removal has been measured has ``cost``, the relative
            change of perplexity without it.
    """

    kind: str
    text: str
    tree: dict[str, Any]


class AllocationMap(Part):
    """Sparsity over depth and kind of matrix.

    Attributes:
        exact: the matrices' sparsities; else the curves' offsets from the pattern, in shares of 1,
            before they are shifted to spend the same total.
        kinds: kinds of matrices.
        values: for each kind, one value a block (or point of the curve); None where there is no
            such matrix.
    """

    exact: bool
    kinds: list[str]
    values: list[list[float | None]]


class Relative(Part):
    """A candidate that another descends from."""

    id: int
    value: float | None


class CandidateReading(Part):
    """One measurement of a candidate."""

    purpose: str
    rung: int
    tokens: int
    perplexity: float | None
    kl: float | None
    log_ratio: float | None
    standard_error: float | None
    audit: bool
    seconds: float


class Detail(Part):
    """All about one candidate."""

    id: int
    status: str
    origin: str
    step: int
    size: int
    created: str
    seconds: float
    reason: str | None
    value: float | None
    group: str
    update: str
    formulas: list[Formula]
    allocation: AllocationMap | None
    parents: list[Relative]
    readings: list[CandidateReading]


class Principle(Part):
    """A statement of ``prunerzero analyze``, with its evidence."""

    statement: str
    source: str
    verdict: str
    confidence: str
    evidence: list[str]


class Edit(Part):
    """What the perplexity does when a part of the best recipe is edited."""

    edit: str
    kinds: list[str]
    change: float
    low: float
    high: float


class Enriched(Part):
    """A feature that is more or less frequent among the best candidates, with its test."""

    kind: str
    name: str
    best_with: int
    best: int
    all_with: int
    all: int
    q: float


class Analysis(Part):
    """What ``prunerzero analyze`` found.

    Attributes:
        measured: recipes that it measured.
        principles: its statements.
        ablation: edits of the best recipe, the most useful part first.
        enrichment: features, the smallest q first.
    """

    measured: int
    principles: list[Principle]
    ablation: list[Edit]
    enrichment: list[Enriched]


class Continuation(Part):
    """What the dense and the pruned model write after the same prompt."""

    source: str
    prompt: str
    text: str
    dense: str
    model: str
    same_tokens: int


class Accuracy(Part):
    """Zero-shot accuracy on one task."""

    task: str
    metric: str
    value: float


class Evaluation(Part):
    """One file of ``prunerzero evaluate --json``."""

    file: str
    model: str
    against: str | None
    perplexity: dict[str, float | None]
    accuracies: list[Accuracy]
    continuations: list[Continuation]


class MaskPicture(Part):
    """A crop of one matrix.

    Attributes:
        matrix: its name.
        rows: output features shown, of ``of_rows``.
        columns: input features shown, of ``of_columns``.
        weights: |W| as a share of the crop's largest, a list a row.
        winner: 1 where the winner keeps the weight.
        wanda: 1 where Wanda keeps it.
    """

    matrix: str
    rows: int
    of_rows: int
    columns: int
    of_columns: int
    weights: list[list[float]]
    winner: list[list[int]]
    wanda: list[list[int]]


class Overlap(Part):
    """Share of weights that a candidate and Wanda treat alike, by kind and block."""

    candidate: int
    kinds: list[str]
    values: list[list[float | None]]


class Masks(Part):
    """What the masks look like; needs the model.

    Attributes:
        candidate: the candidate shown.
        picture: a crop of one matrix.
        overlap: of the Pareto front's candidates and the winner.
        allocation: the winner's sparsities.
    """

    candidate: int
    picture: MaskPicture
    overlap: list[Overlap]
    allocation: AllocationMap


class Document(Part):
    """All that the page shows, but for the details of most candidates."""

    format: Literal[1] = 1
    overview: Overview
    measure: Measure
    candidates: Columns
    best: list[int]
    references: list[Reference]
    random: RandomSearch | None
    front: list[FrontMember]
    heldout: Heldout | None
    winner: Detail | None
    funnel: Funnel
    elements: Elements
    analysis: Analysis | None
    evaluations: list[Evaluation]
    masks: Masks | None
    notes: list[str]
