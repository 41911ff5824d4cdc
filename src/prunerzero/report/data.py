"""From the rows of a study to the document that the page shows."""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from prunerzero import zoo
from prunerzero.analysis.agreement import describe_ladder
from prunerzero.errors import InputError
from prunerzero.metric.operators import OPERATORS
from prunerzero.metric.terminals import TERMINALS
from prunerzero.pruning.allocation import UniformAllocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.report.costs import with_costs
from prunerzero.report.detail import describe
from prunerzero.report.document import (
    STATUSES,
    Columns,
    Document,
    Element,
    Elements,
    Evaluation,
    Failure,
    FrontMember,
    Funnel,
    Masks,
    Measure,
    Overview,
    RandomSearch,
    Reference,
    RungAgreement,
    Stage,
    State,
)
from prunerzero.report.files import FoundAnalysis
from prunerzero.report.heldout import closing_table, closing_winner
from prunerzero.report.rows import Rows, SearchClock
from prunerzero.study import Candidate, Study
from prunerzero.study.progress import improvements, pareto_front

BEST_SHARE = 0.1
LINES = ("wanda", "pruner-zero")  # published recipes that the charts show as lines
# Of the command line; a setting at its default need not be in the command.
_OPTIONS = {"preset": "default", "genome": "recipe", "calibration": "wikipedia", "samples": 16,
            "sequence_length": 512, "seed": 0}  # fmt: skip

# A name, or an operator between its blanks, or the minus of a negation, as formulas are written.
_WORD = re.compile(r"[A-Za-z_]\w*|(?<= )(?:\*\*|[*/+-])(?= )|-(?=[A-Za-z(])")
_SYMBOLS = {
    spec.symbol: name for name, spec in OPERATORS.items() if spec.symbol and spec.arity == 2
}
_DOTTED = re.compile(r"\b\w+(?:\.\w+)+")


@dataclass(frozen=True)
class Extras:
    """What the page shows that is not in the study.

    Attributes:
        analysis: of ``prunerzero analyze``.
        evaluations: of ``prunerzero evaluate --json``.
        random: the rows of a random search.
        masks: made with the model.
        notes: what could not be shown, one sentence each.
    """

    analysis: FoundAnalysis | None = None
    evaluations: tuple[Evaluation, ...] = ()
    random: Rows | None = None
    masks: Masks | None = None
    notes: tuple[str, ...] = field(default=())


def build_document(rows: Rows, extras: Extras | None = None) -> Document:
    """The document of a study, or of as much of it as has been read.

    Args:
        rows: what the study holds.
        extras: what there is beside it.

    Raises:
        InputError: the random search cannot be compared with the study.
    """
    extras = extras or Extras()
    scale = Scale(rows)
    clock = SearchClock(rows)
    found = list(rows.candidates.values())
    evaluated = [row for row in found if row.fitness is not None]
    best = list(improvements(evaluated))
    closed = closing_winner(rows)
    winner = closed if closed is not None else best[-1].id if best else None
    shown = None if winner is None else describe(rows, winner, scale.value)
    if shown is not None and extras.masks is not None and extras.masks.candidate == winner:
        shown = shown.model_copy(update={"allocation": extras.masks.allocation})
    if shown is not None and extras.analysis is not None:
        ablation = extras.analysis.shown.ablation
        formulas = [with_costs(formula, ablation) for formula in shown.formulas]
        shown = shown.model_copy(update={"formulas": formulas})
    return Document(
        overview=_overview(rows, clock, closed),
        measure=scale.measure,
        candidates=_columns(found, scale, clock, extras.analysis),
        best=[row.id for row in best if row.id is not None],
        references=scale.references(rows),
        random=None if extras.random is None else random_search(rows, extras.random),
        front=[
            FrontMember(
                id=row.id or 0,
                size=row.size,
                value=scale.value(row.fitness or 0.0),
                expression=row.expression,
            )
            for row in pareto_front(evaluated)
        ],
        heldout=closing_table(rows),
        winner=shown,
        funnel=funnel(rows),
        elements=elements(evaluated),
        analysis=None if extras.analysis is None else extras.analysis.shown,
        evaluations=list(extras.evaluations),
        masks=extras.masks,
        notes=list(extras.notes),
    )


class Scale:
    """What a study's fitness means, and the scale that the page shows it on.

    The published algorithm's fitness is a perplexity, shown as it is. All others' is the logarithm
    of a ratio of divergences from the dense model; the ratio is shown, where the dense model is 0.
    """

    def __init__(self, rows: Rows) -> None:
        self._logarithm = rows.settings.get("preset") != "paper"
        if self._logarithm:
            self.measure = Measure(
                name="KL divergence from the dense model, relative to the first candidate",
                explanation="Measured on selection text; 1 is the first candidate (Wanda, as a "
                "rule), 0 the dense model.",
                dense=0.0,
            )
        else:
            self.measure = Measure(
                name="perplexity on selection text",
                explanation="The dense model was not measured on these windows.",
                dense=None,
            )

    def value(self, fitness: float) -> float:
        """The value shown for a fitness."""
        return math.exp(min(fitness, 700.0)) if self._logarithm else fitness

    def references(self, rows: Rows) -> list[Reference]:
        """The published recipes that the study measured, under the uniform allocation."""
        pattern = rows.settings.get("pattern")
        if not isinstance(pattern, str):
            return []
        keys = {_bare_key(name, pattern): name for name in LINES}
        return [
            Reference(name=keys[row.key], candidate=row.id or 0, value=self.value(row.fitness))
            for row in rows.candidates.values()
            if row.key in keys and row.fitness is not None
        ]


@lru_cache
def _bare_key(name: str, pattern: str) -> str:
    recipe = zoo.load(name).model_copy(update={"allocation": UniformAllocation()})
    return recipe.key(Pattern.parse(pattern))


def elements(evaluated: Sequence[Candidate]) -> Elements:
    """How many of the best tenth and of all have each operator and terminal, as written."""
    ranked = sorted(evaluated, key=lambda row: (row.fitness or 0.0, row.id))
    best = math.ceil(BEST_SHARE * len(ranked))
    among_best: Counter[str] = Counter()
    among_all: Counter[str] = Counter()
    for place, row in enumerate(ranked):
        names = names_in(row.recipe)
        among_all.update(names)
        if place < best:
            among_best.update(names)
    return Elements(
        best=best,
        all=len(ranked),
        rows=[
            Element(
                kind="terminal" if name in TERMINALS else "operator",
                name=name,
                best=among_best[name],
                all=count,
            )
            for name, count in sorted(among_all.items(), key=lambda item: (-item[1], item[0]))
        ],
    )


def names_in(recipe: Any) -> frozenset[str]:
    """Operators and terminals of a recipe's formulas, from their text.

    Parsing would tell the same but take a minute for a study of 20,000 recipes.
    """
    formulas = recipe["metric"]
    texts = [formulas] if isinstance(formulas, str) else list(formulas.values())
    return frozenset(name for text in texts for name in names_in_text(str(text)))


@lru_cache(maxsize=1 << 16)
def names_in_text(text: str) -> frozenset[str]:
    """Operators and terminals of one formula, as `str` writes it."""
    found = set()
    for match in _WORD.finditer(text):
        word = match[0]
        if word == "-" and text[match.end() : match.end() + 1] != " ":
            word = "neg"
        name = _SYMBOLS.get(word, word)
        if name in OPERATORS or name in TERMINALS:
            found.add(name)
    return frozenset(found)


def funnel(rows: Rows) -> Funnel:
    """The ladder's funnel, and why candidates failed."""
    ladder = describe_ladder(
        list(rows.candidates.values()), [m for m in rows.measurements if m.purpose == "fitness"]
    )
    stages = [
        ("proposed", ladder.proposals),
        ("not a duplicate", ladder.proposals - ladder.duplicates),
        ("measured on rung 0", ladder.screened),
        ("measured on rung 1", ladder.promoted + ladder.audited),
    ]
    if any(agreement.rungs == (1, 2) for agreement in ladder.agreement):
        stages.append(("measured on rung 2", ladder.confirmed))
    stages.append(("became the one to beat", ladder.won))
    failures = Counter(
        (row.status, _DOTTED.sub("a matrix", row.reason))
        for row in rows.candidates.values()
        if row.reason is not None
    )
    return Funnel(
        stages=[Stage(name=name, count=count) for name, count in stages],
        agreement=[
            RungAgreement(
                rungs=each.rungs, tau=each.tau, readings=each.readings, audits=each.audits
            )
            for each in ladder.agreement
        ],
        top_lost=ladder.top_lost,
        failures=[
            Failure(status=status, reason=reason, count=count)
            for (status, reason), count in failures.most_common()
        ],
    )


def random_search(rows: Rows, control: Rows) -> RandomSearch:
    """Best so far of a random search, on the study's scale.

    Raises:
        InputError: it is no random search, or of another model, pattern or text, or one of the two
            has not measured Wanda, which ties the scales together.
    """
    where = f"random search {control.path}"
    if control.settings.get("preset") != "random":
        raise InputError(f"{where}: was not made with --preset random")
    for name in ("model_hash", "pattern", "calibration"):
        if rows.settings.get(name) != control.settings.get(name):
            raise InputError(
                f"{where}: its {name} differs from the study's, so the two cannot be compared"
            )
    scale, other = Scale(rows), Scale(control)
    own = {line.name: line.value for line in scale.references(rows)}.get("wanda")
    theirs = {line.name: line.value for line in other.references(control)}.get("wanda")
    if own is None or theirs is None or scale.measure != other.measure:
        raise InputError(f"{where}: not both searches measured Wanda, so their scales differ")
    clock = SearchClock(control)
    found = list(control.candidates.values())
    steps = list(improvements([row for row in found if row.fitness is not None]))
    places = {row.id: place for place, row in enumerate(found, 1)}
    index = [places[row.id] for row in steps]
    at = [clock.at(row.created) for row in steps]
    value = [other.value(row.fitness or 0.0) / theirs * own for row in steps]
    return RandomSearch(
        study=control.path.name,
        index=[*index, len(found)],
        at=[*at, clock.at(found[-1].created)],
        value=[*value, value[-1]],
    )


def _columns(
    found: Sequence[Candidate], scale: Scale, clock: SearchClock, analysis: FoundAnalysis | None
) -> Columns:
    origins = list(dict.fromkeys(row.origin for row in found))
    places = {origin: place for place, origin in enumerate(origins)}
    families = analysis.families if analysis else {}
    return Columns(
        id=[row.id or 0 for row in found],
        status=[STATUSES.index(row.status) for row in found],
        origin=[places[row.origin] for row in found],
        origins=origins,
        size=[row.size for row in found],
        value=[None if row.fitness is None else scale.value(row.fitness) for row in found],
        at=[round(clock.at(row.created), 3) for row in found],
        family=[families.get(row.id or 0) for row in found],
    )


def _overview(rows: Rows, clock: SearchClock, closed: int | None) -> Overview:
    state: State = "finished" if closed is not None else "interrupted"
    if Study.is_being_written(rows.path):
        state = "running"
    starts = rows.of_kind("session-start")
    counts: Counter[str] = Counter(row.status for row in rows.candidates.values())
    first = next(iter(rows.candidates.values()), None)
    return Overview(
        name=rows.path.name,
        state=state,
        settings=rows.settings,
        versions=_versions(rows),
        began=first.created if first else None,
        seconds=clock.total,
        sessions=len(starts),
        counts={status: counts[status] for status in STATUSES},
        command=command(rows),
    )


def command(rows: Rows) -> str:
    """The command that makes such a study, for a POSIX shell."""
    settings = rows.settings
    parts = ["prunerzero", "search", str(settings.get("model", "")), "--pattern"]
    parts.append(str(settings.get("pattern", "")))
    for name, default in _OPTIONS.items():
        if settings.get(name, default) != default:
            parts += ["--" + name.replace("_", "-"), str(settings[name])]
    for guess in settings.get("guesses", ()):
        formula = guess.get("metric")
        parts += ["--guess", formula if isinstance(formula, str) else f"{guess.get('name')}.json"]
    selection = settings.get("selection", {})
    if selection.get("blocks"):
        parts += ["--blocks", str(selection["blocks"])]
    for name in ("include", "exclude"):
        for pattern in selection.get(name, ()):
            parts += [f"--{name}", str(pattern)]
    precision = str(settings.get("compute", "")).split(", ")[1:2]
    parts += [word for word in ("--dtype", *precision) if precision]
    for start in rows.of_kind("session-start")[-1:]:
        parts += _budget(str(start.data.get("budget", "")))
    return shlex.join([*parts, "--study", rows.path.name])


def _budget(text: str) -> list[str]:
    """The options of a budget as `Budget.__str__` writes it; the paper's proposals need none."""
    words = []
    for part in text.split(" or "):
        number, _, unit = part.partition(" ")
        if unit == "s":
            words += ["--budget", f"{number}s"]
        elif unit == "candidates":
            words += ["--candidates", number]
    return words


def _versions(rows: Rows) -> dict[str, Any]:
    """What closed the search, from the recipe that it left beside the study."""
    path = rows.path.with_name(rows.path.name.removesuffix(".db") + ".best.json")
    try:
        versions = Recipe.load(path).provenance.get("versions")
    except InputError:
        return {}
    return dict(versions) if isinstance(versions, dict) else {}
