"""`prunerzero.search`: one search from a model's name to its closing table."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prunerzero import __version__
from prunerzero.data.sources import load_documents
from prunerzero.data.splits import Split, documents_of
from prunerzero.data.windows import Windows, WindowSampler, check_length, sample_windows
from prunerzero.errors import InputError
from prunerzero.evolution.closing import (
    Closer,
    Closing,
    best_formula,
    choose_finalists,
    closing_json,
)
from prunerzero.evolution.controls import EvoPressStrategy, RandomStrategy
from prunerzero.evolution.default import DefaultStrategy
from prunerzero.evolution.judging import Judge, PerplexityJudge, RungPlan
from prunerzero.evolution.loop import Deadline, Exhausted, Loop, OutOfTime, RecordedGuide
from prunerzero.evolution.masking import Masker
from prunerzero.evolution.population import best_per_size
from prunerzero.evolution.settings import (
    STREAMED,
    Budget,
    GenomeKind,
    Preset,
    SearchSettings,
    check_preset,
)
from prunerzero.evolution.strategies import PaperStrategy, Strategy
from prunerzero.evolution.workbench import StreamedModel, WholeModel, Workbench
from prunerzero.models.matrices import is_mixture
from prunerzero.models.selection import EVERYTHING, Selection
from prunerzero.progress import Report, silent
from prunerzero.pruning.calibration import describe
from prunerzero.pruning.pattern import Pattern
from prunerzero.pruning.pruner import DenseStatistics, plan_sparsities
from prunerzero.recipe import Recipe
from prunerzero.study import Study

VALIDATION_WINDOWS = 8
HELDOUT_WINDOWS = 24
PAPER_WINDOWS = 4
PAPER_TERMINALS, TERMINALS = frozenset("WGX"), frozenset("WAFXG")
# Where the first candidate is Wanda, that is all it needs.
FIRST_TERMINALS = frozenset("WAX")
# What storing gradients in bfloat16 did to masks, where they are on disk.
ROUNDING_EVENT = "rounding"


@dataclass(frozen=True)
class Status:
    """How a search is doing, after each candidate.

    Attributes:
        candidates: rows of the study.
        duplicates: proposals avoided because an equivalent had been measured.
        best: the incumbent.
        gain: its fitness below Wanda's, as a share of Wanda's.
        gain_over_published: the same against the published Pruner-Zero metric.
        seconds: search time of this invocation.
        budget: what it may take.
        recent: candidates measured by this invocation.
        candidate_seconds: what a candidate takes on this model, the mean so far.
    """

    candidates: int
    duplicates: int
    best: Recipe | None
    gain: float | None
    gain_over_published: float | None
    seconds: float
    budget: Budget
    recent: int
    candidate_seconds: float


Observer = Callable[[Status], None]


@dataclass(frozen=True)
class SearchResult:
    """A finished search.

    Attributes:
        best: the winner's recipe, with its provenance.
        recipe_path: where it is saved.
        closing: the closing measurements.
        candidates: rows of the study.
        seconds: search time of this invocation; ``timings`` tells the rest.
        timings: seconds of each stage.
        front: the best candidate of each size: ``{size, expression, fitness, candidate}``.
        heldout_readings: how often the study's held-out text has been read.
    """

    best: Recipe
    recipe_path: Path
    closing: Closing
    candidates: int
    seconds: float
    timings: dict[str, float]
    front: list[dict[str, Any]]
    heldout_readings: int

    def to_json(self) -> dict[str, Any]:
        """The result as `prunerzero search --json` prints it."""
        return {
            "best": {
                "expression": self.best.expression,
                "group": self.best.group,
                "allocation": self.best.allocation.model_dump(),
                "recipe": str(self.recipe_path),
                "heldout_perplexity": self.closing.best.loss.perplexity,
                "candidate": self.closing.winner.id,
            },
            **closing_json(self.closing),
            "front": self.front,
            "candidates": self.candidates,
            "seconds": self.seconds,
            "timings": self.timings,
            "heldout_readings": self.heldout_readings,
        }


def search(
    model: str,
    pattern: Pattern | str,
    *,
    study: str | Path,
    budget: Budget | str = "10m",
    preset: Preset = "default",
    genome: GenomeKind = "recipe",
    guesses: Sequence[Recipe] = (),
    calibration: str = "wikipedia",
    samples: int = 16,
    sequence_length: int = 512,
    seed: int = 0,
    dtype: str | None = None,
    device: str | None = None,
    selection: Selection = EVERYTHING,
    stream: bool = False,
    observe: Observer = silent,
    report: Report = silent,
) -> SearchResult:
    """Evolves pruning recipes for a model, or goes on with a study.

    Args:
        model: hub id, directory, GGUF file or demo alias.
        pattern: what may be zero.
        study: the study's file; begun if it does not exist.
        budget: search time of this call, such as ``10m``, or a `Budget` of candidates.
        preset: ``default``; ``paper`` for the published algorithm; ``random`` and ``evopress``
            (allocations under Wanda's formula) to compare with.
        genome: ``recipe``, or ``formula`` for one formula under uniform allocation.
        guesses: the user's own recipes, tried early and bred from.
        calibration: text source; its four splits serve statistics, fitness, the choice of the
            winner and the closing table.
        samples: calibration windows.
        sequence_length: tokens in a calibration, validation and held-out window.
        seed: seed of everything random.
        dtype: precision of the passes; None takes bfloat16 where the hardware has it.
        device: where to run; None takes the first GPU, else the CPU.
        selection: which blocks and matrices are pruned.
        stream: have one block in memory at a time (`docs/streaming.md`).
        observe: called after each candidate.
        report: called with a step's name, the parts done and their number.

    Raises:
        InputError: for unusable input, or a study of another search.
    """
    if isinstance(pattern, str):
        pattern = Pattern.parse(pattern)
    if isinstance(budget, str):
        budget = Budget.parse(budget)
    check_preset(preset, pattern, genome, bool(guesses))
    timings: dict[str, float] = {}
    clock = _Clock(timings)
    bench = (StreamedModel if stream else WholeModel)(model, dtype, device, selection)
    if bench.tokenizer is None:
        raise InputError(f"model '{model}': searching on text needs its tokenizer, it has none")
    check_length(sequence_length, bench.context)
    compute = bench.compute
    for recipe in (Recipe.named("wanda"), *guesses):
        plan_sparsities(bench.blocks, recipe, pattern)
    plan = bench.plan(RungPlan(length=min(RungPlan.length, sequence_length)))
    settings = SearchSettings(
        model=model,
        model_hash=bench.identity,
        pattern=str(pattern),
        preset=preset,
        genome=genome,
        seed=seed,
        guesses=[guess.to_json() for guess in guesses],
        calibration=calibration,
        samples=samples,
        sequence_length=sequence_length,
        compute=", ".join(
            [compute.device.type, str(compute.dtype).removeprefix("torch.")]
            + [STREAMED] * bench.streamed
        ),
        rungs=asdict(plan),
        selection=asdict(selection),
    )
    texts = _Texts(calibration, bench.tokenizer, settings, plan)
    clock.lap("loading")
    with Study.open_or_create(study, settings.model_dump(mode="json")) as store:
        asked = frozenset("R" if is_mixture(bench.matrices) else "").union(
            *(guess.terminals for guess in guesses)
        )

        def gather(terminals: frozenset[str]) -> DenseStatistics:
            return bench.gather(texts.calibration.tokens, terminals | asked, report)

        wanted = PAPER_TERMINALS if preset == "paper" else TERMINALS
        # Reading all weights twice for an early first row would not be worth it.
        early = preset != "paper" and not stream
        masker = bench.masker(
            texts.calibration.tokens, gather(FIRST_TERMINALS if early else wanted), pattern
        )
        if isinstance(bench, StreamedModel) and not store.events(ROUNDING_EVENT):
            store.add_event(ROUNDING_EVENT, bench.rounding)
        deadline = Deadline()
        judge, strategy = _players(
            preset, settings, guesses, masker, texts, bench, plan, store, deadline
        )
        loop = Loop(store, strategy, judge, masker, pattern)
        loop.replay()
        if preset != "paper":
            if not loop.proposals:
                loop.advance()  # in the study before the long pass for gradients
                observe(_status(loop, judge, budget, 0.0, 1, 1))
            masker.restore()
            if early:
                masker.use(gather(wanted))
        clock.lap("statistics")
        _run(loop, store, judge, budget, deadline, observe)
        masker.restore()
        clock.lap("search")
        if loop.incumbent is None:
            raise InputError(f"study {store.path}: no candidate could be measured")
        individuals = list(loop.individuals.values())
        finalists = choose_finalists(individuals, loop.incumbent, masker, judge.log_ratio)
        comparison = bench.comparison(texts.calibration.tokens, report)
        closing = Closer(store, comparison, pattern, texts.validation, texts.heldout).close(
            finalists, best_formula(individuals, pattern)
        )
        best = _with_provenance(closing, settings, store, texts)
        recipe_path = store.path.with_name(store.path.name.removesuffix(".db") + ".best.json")
        best.save(recipe_path)
        clock.lap("closing")
        front = [
            {
                "size": member.size,
                "candidate": member.id,
                "expression": member.recipe.expression,
                "fitness": member.fitness,
            }
            for member in best_per_size(individuals)
        ]
        return SearchResult(
            best=best,
            recipe_path=recipe_path,
            closing=closing,
            candidates=sum(store.counts().values()),
            seconds=timings["search"],
            timings=timings,
            front=front,
            heldout_readings=len(store.events("heldout")),
        )


class _Clock:
    def __init__(self, timings: dict[str, float]) -> None:
        self._timings = timings
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._timings[name] = now - self._last
        self._last = now


class _Texts:
    """The windows of all four splits."""

    def __init__(
        self, source: str, tokenizer: Any, settings: SearchSettings, plan: RungPlan
    ) -> None:
        documents = load_documents(source)

        def draw(split: Split, count: int) -> Windows:
            length = settings.sequence_length
            return sample_windows(documents, tokenizer, split, count, length, settings.seed)

        self.calibration = draw(Split.CALIBRATION, settings.samples)
        self.validation = draw(Split.VALIDATION, VALIDATION_WINDOWS)
        # The held-out windows are the same for every seed, so that searches can be compared.
        self.heldout = sample_windows(
            documents, tokenizer, Split.HELDOUT, HELDOUT_WINDOWS, settings.sequence_length, 0
        )
        self.selection = WindowSampler(
            documents, tokenizer, Split.SELECTION, plan.length, settings.seed
        )
        self.selection.draw(0, plan.page)  # a text that is too short is found here
        self.paper_selection = draw(Split.SELECTION, PAPER_WINDOWS)
        self.selected_on = [document.hash for document in documents_of(documents, Split.SELECTION)]


def _players(
    preset: Preset,
    settings: SearchSettings,
    guesses: Sequence[Recipe],
    masker: Masker,
    texts: _Texts,
    bench: Workbench,
    plan: RungPlan,
    store: Study,
    deadline: Deadline,
) -> tuple[Judge, Strategy]:
    if preset == "paper":
        texts.paper_selection.require(Split.SELECTION)
        judge = PerplexityJudge(masker, texts.paper_selection, bench.compute)
        return judge, PaperStrategy(settings.seed)
    uniform = masker.pattern.is_nm or settings.genome == "formula"
    incumbent_judge = bench.judge(masker, texts.selection, plan, uniform)
    seed = settings.seed
    shapes = [matrix.shape for matrix in masker.matrices]
    families = {matrix.kind: matrix.family for matrix in masker.matrices}
    strategy: Strategy
    if preset == "random":
        strategy = RandomStrategy(
            seed, shapes, allocate=not masker.pattern.is_nm and settings.genome == "recipe"
        )
    elif preset == "evopress":
        strategy = EvoPressStrategy(seed, shapes, families)
    else:
        strategy = DefaultStrategy(
            seed,
            guesses,
            shapes,
            families,
            RecordedGuide(store, masker, incumbent_judge, bench.measure_guidance, deadline),
            masker.pattern,
            formula_only=settings.genome == "formula",
            mixture=is_mixture(masker.matrices),
        )
    return incumbent_judge, strategy


def _run(
    loop: Loop, store: Study, judge: Judge, budget: Budget, deadline: Deadline, observe: Observer
) -> None:
    """Advances until the budget is spent; every new row is in the study when it is observed."""
    began = time.perf_counter()
    if budget.seconds is not None:
        deadline.at = began + budget.seconds
    before = sum(store.counts().values())
    rows = before
    store.add_event("session-start", {"budget": str(budget), "candidates": before})
    while not budget.spent(time.perf_counter() - began, rows, loop.proposals):
        try:
            loop.advance()
        except Exhausted:
            store.add_event("exhausted", {"candidates": rows})
            break
        except OutOfTime:
            break
        rows += 1
        observe(_status(loop, judge, budget, time.perf_counter() - began, rows, rows - before))
    seconds = time.perf_counter() - began
    store.add_event("session-end", {"seconds": seconds, "candidates": rows})


def _status(
    loop: Loop, judge: Judge, budget: Budget, seconds: float, rows: int, recent: int
) -> Status:
    best = loop.incumbent

    def gain(name: str) -> float | None:
        other = loop.uniform.get(Recipe.named(name).expression)
        if other is None or best is None:
            return None
        return 1 - math.exp(judge.log_ratio(best.fitness, other))

    return Status(
        candidates=rows,
        duplicates=loop.duplicates,
        best=best.recipe if best else None,
        gain=gain("wanda"),
        gain_over_published=gain("pruner-zero"),
        seconds=seconds,
        budget=budget,
        recent=recent,
        candidate_seconds=loop.seconds / max(1, len(loop.individuals)),
    )


def _with_provenance(
    closing: Closing, settings: SearchSettings, store: Study, texts: _Texts
) -> Recipe:
    used = [describe(texts.calibration), describe(texts.validation)]
    used.append({"split": str(Split.SELECTION), "documents": texts.selected_on})
    provenance = {
        "study": str(store.path),
        "candidate": closing.winner.id,
        "date": datetime.now(UTC).date().isoformat(),
        "settings": settings.model_dump(mode="json"),
        "heldout_perplexity": closing.best.loss.perplexity,
        "texts": used,
        "versions": {"prunerzero": __version__, "python": platform.python_version()},
    }
    update = {
        "name": f"found in {store.path.name}",
        "source": f"prunerzero search {settings.model} --pattern {settings.pattern}",
        "provenance": provenance,
    }
    return Recipe.from_json(closing.winner.recipe.to_json() | update)
