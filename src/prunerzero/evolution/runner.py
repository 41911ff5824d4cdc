"""`prunerzero.search`: one search from a model's name to its closing table."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from prunerzero.data.splits import Split
from prunerzero.errors import InputError
from prunerzero.evolution.closing import (
    FORMULA_REACH,
    FORMULAS,
    choose_finalists,
    close,
    single_formulas,
)
from prunerzero.evolution.controls import EvoPressStrategy, RandomStrategy
from prunerzero.evolution.default import DefaultStrategy
from prunerzero.evolution.executors.base import open_executor
from prunerzero.evolution.executors.own import own_names
from prunerzero.evolution.executors.tasks import Workplace
from prunerzero.evolution.grammar import DEFAULT, Grammar
from prunerzero.evolution.judging import IncumbentJudge, Judge, PerplexityJudge, RungPlan
from prunerzero.evolution.loop import ALIKE, Deadline, Loop, RecordedGuide
from prunerzero.evolution.population import best_per_size
from prunerzero.evolution.result import SearchResult, save_best, with_provenance
from prunerzero.evolution.session import Callback, Observer, Session
from prunerzero.evolution.settings import (
    STREAMED,
    Budget,
    ExecutorKind,
    FitnessKind,
    GenomeKind,
    Objective,
    Preset,
    SearchSettings,
    check_executor,
    check_preset,
    check_targets,
)
from prunerzero.evolution.steady import SteadyLoop
from prunerzero.evolution.strategies import PaperStrategy, Strategy
from prunerzero.evolution.targets import (
    Ground,
    Targets,
    are_mixtures,
    check_recipes,
    open_models,
)
from prunerzero.evolution.texts import Texts
from prunerzero.evolution.updating import check_update, plan_for, rival
from prunerzero.models.selection import EVERYTHING, Selection
from prunerzero.progress import Report, silent
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.streaming.statistics import StoredStatistics
from prunerzero.study import Study
from prunerzero.updates.names import STATISTICS, Update

PAPER_TERMINALS, TERMINALS = frozenset("WGX"), frozenset("WAFXG")
# Where the first candidate is Wanda, that is all it needs.
FIRST_TERMINALS = frozenset("WAX")
# What storing gradients in bfloat16 did to masks, where they are on disk.
ROUNDING_EVENT = "rounding"


def search(
    model: str | Sequence[str],
    pattern: Pattern | str | Sequence[Pattern | str],
    *,
    study: str | Path,
    budget: Budget | str = "10m",
    preset: Preset = "default",
    genome: GenomeKind = "recipe",
    objective: Objective = "mean",
    fitness: FitnessKind = "kl",
    guesses: Sequence[Recipe] = (),
    vocabulary: Sequence[str] = (),
    calibration: str | Sequence[str] = "wikipedia",
    samples: int = 16,
    sequence_length: int = 512,
    seed: int = 0,
    dtype: str | None = None,
    device: str | None = None,
    selection: Selection = EVERYTHING,
    update: Update = "none",
    stream: bool = False,
    executor: ExecutorKind = "serial",
    workers: int | None = None,
    ray_address: str | None = None,
    observe: Observer = silent,
    callbacks: Sequence[Callback] = (),
    report: Report = silent,
) -> SearchResult:
    """Evolves pruning recipes for a model, or goes on with a study.

    Several models, patterns or texts make one search for a recipe that does well on all of them:
    every pattern on every text for every model is a target, and a candidate is measured on all.

    Args:
        model: hub id, directory, GGUF file or demo alias; or several.
        pattern: what may be zero; or several.
        study: the study's file; begun if it does not exist.
        budget: search time of this call, such as ``10m``, or a `Budget` of candidates.
        preset: ``default``; ``paper`` for the published algorithm; ``random`` and ``evopress``
            (allocations under Wanda's formula) to compare with.
        genome: ``recipe``, or ``formula`` for one formula under uniform allocation.
        objective: of several targets, the ``mean`` or the ``worst`` gain counts.
        fitness: what a candidate is compared by: ``kl``, divergence from the dense model, or
            ``loss``, log perplexity.
        guesses: the user's own recipes, tried early and bred from.
        vocabulary: terminals and operators that random trees and mutations draw beside the usual
            ones, such as registered ones of the user's own.
        calibration: text source, or several; its four splits serve statistics, fitness, the choice
            of the winner and the closing table.
        samples: calibration windows.
        sequence_length: tokens in a calibration, validation and held-out window.
        seed: seed of everything random.
        dtype: precision of the passes; None takes bfloat16 where the hardware has it.
        device: where to run; None takes the first GPU, else the CPU.
        selection: which blocks and matrices are pruned.
        update: what happens to the kept weights of every candidate before its fitness is measured.
        stream: have one block in memory at a time (`docs/streaming.md`).
        executor: where candidates are measured: ``serial``, here; ``process``, by processes of this
            machine; ``ray``, by Ray's actors (`docs/cluster.md`).
        workers: how many; None for one a core, or as many as a Ray cluster has room for.
        ray_address: of a Ray cluster that runs, such as ``auto``; None starts one here.
        observe: called with a `Status` after each candidate.
        callbacks: called with the study and its new `Candidate` after each candidate, as Optuna's
            are; one that raises `StopSearch` ends the search as a spent budget does.
        report: called with a step's name, the parts done and their number.

    Raises:
        InputError: for unusable input, or a study of another search.
    """
    models = _listed(model)
    calibrations = _listed(calibration)
    patterns = [
        Pattern.parse(one) if isinstance(one, str) else one
        for one in ([pattern] if isinstance(pattern, (str, Pattern)) else pattern)
    ]
    if isinstance(budget, str):
        budget = Budget.parse(budget)
    check_targets(models, patterns, calibrations, objective, preset)
    vocabulary = _listed(vocabulary)
    check_preset(preset, patterns, genome, bool(guesses), fitness, vocabulary)
    grammar = DEFAULT.including(vocabulary)
    check_update(update, preset, stream=stream)
    check_executor(executor, workers, ray_address, stream=stream)
    own = own_names(vocabulary, guesses)
    workforce = open_executor(executor, workers, ray_address, own)
    timings: dict[str, float] = {}
    clock = _Clock(timings)
    benches = open_models(models, dtype, device, selection, stream, sequence_length)
    check_recipes(benches, patterns, [rival(update), *guesses])
    usual = RungPlan(length=min(RungPlan.length, sequence_length))
    plan = plan_for(update, benches[0].plan(usual))
    compute = benches[0].compute
    settings = SearchSettings(
        model=", ".join(models),
        model_hash=", ".join(bench.identity for bench in benches),
        pattern=", ".join(map(str, patterns)),
        preset=preset,
        genome=genome,
        seed=seed,
        guesses=[guess.to_json() for guess in guesses],
        calibration=", ".join(calibrations),
        samples=samples,
        sequence_length=sequence_length,
        compute=", ".join(
            [compute.device.type, str(compute.dtype).removeprefix("torch.")]
            + [STREAMED] * benches[0].streamed
        ),
        rungs=asdict(plan),
        selection=asdict(selection),
        objective=objective,
        fitness=fitness,
        asynchronous=executor != "serial",
        update=update,
        vocabulary=vocabulary,
    )
    grounds = [
        Ground(name, bench, Texts(source, bench.tokenizer, settings, plan))
        for name, bench in zip(models, benches, strict=True)
        for source in calibrations
    ]
    mixture = are_mixtures(benches)
    asked = frozenset("R" if mixture else "").union(*(guess.terminals for guess in guesses))
    if update != "none":
        asked |= STATISTICS[update] | rival(update).terminals
    wanted = (PAPER_TERMINALS if preset == "paper" else TERMINALS) | asked
    wanted |= frozenset(vocabulary) & frozenset(grammar.terminals)
    if not os.path.exists(study):  # else these very weights have been checked
        for ground in grounds:
            ground.check(wanted, report)
    clock.lap("loading")
    with (
        Study.open_or_create(study, settings.to_json()) as store,
        workforce or nullcontext() as crew,
    ):
        # Reading all weights twice for an early first row would not be worth it.
        early = preset != "paper" and not stream
        targets = Targets(grounds, patterns, FIRST_TERMINALS | asked if early else wanted, report)
        _note_rounding(store, grounds)
        deadline = Deadline()
        judge, strategy = _players(settings, guesses, grammar, targets, plan, store, deadline)
        # The published algorithm measures what is nearly alike, too.
        alike = 0.0 if preset == "paper" else ALIKE
        kind = SteadyLoop if crew else Loop
        loop = kind(store, strategy, judge, targets.maskers, alike)
        loop.replay()
        session = Session(loop, store, judge, budget, observe, callbacks)
        if preset != "paper":
            if not loop.proposals:
                session.note(loop.advance())  # in the study before the long pass for gradients
            targets.maskers.restore()
            if early:
                targets.gather(wanted)
        clock.lap("statistics")
        if crew and isinstance(loop, SteadyLoop):
            arenas = judge.arenas if isinstance(judge, IncumbentJudge) else []
            measure = benches[0].measure_guidance
            crew.start(Workplace(judge, targets.maskers, arenas, measure))
            loop.crew = crew
        session.run(deadline)
        if crew:
            crew.close()
        targets.maskers.restore()
        clock.lap("search")
        if loop.incumbent is None:
            raise InputError(f"study {store.path}: no candidate could be measured")
        individuals = list(loop.individuals.values())
        finalists = choose_finalists(individuals, loop.incumbent, targets.maskers, judge.log_ratio)
        formulas = choose_finalists(
            single_formulas(individuals, targets.maskers.key),
            None,
            targets.maskers,
            judge.log_ratio,
            FORMULAS,
            FORMULA_REACH,
        )
        found = close(store, targets.closers(store), finalists, formulas, objective)
        closings = dict(zip([target.name for target in targets.all], found, strict=True))
        best = with_provenance(closings, settings, store, targets)
        recipe_path, nm_recipe_path = save_best(best, store.path, patterns)
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
            nm_recipe_path=nm_recipe_path,
            closings=closings,
            candidates=sum(store.counts().values()),
            seconds=timings["search"],
            timings=timings,
            front=front,
            heldout_readings=len(store.events("heldout")),
        )


def _listed(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


class _Clock:
    def __init__(self, timings: dict[str, float]) -> None:
        self._timings = timings
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._timings[name] = now - self._last
        self._last = now


def _note_rounding(store: Study, grounds: Sequence[Ground]) -> None:
    if store.events(ROUNDING_EVENT):
        return
    for ground in grounds:
        if isinstance(ground.statistics, StoredStatistics):
            store.add_event(ROUNDING_EVENT, ground.statistics.rounding)


def _players(
    settings: SearchSettings,
    guesses: Sequence[Recipe],
    grammar: Grammar,
    targets: Targets,
    plan: RungPlan,
    store: Study,
    deadline: Deadline,
) -> tuple[Judge, Strategy]:
    first = targets.all[0]
    if settings.preset == "paper":
        windows = first.ground.texts.paper_selection
        windows.require(Split.SELECTION)
        judge = PerplexityJudge(first.masker, windows, first.ground.bench.compute)
        return judge, PaperStrategy(settings.seed)
    arenas = [target.arena(settings, plan) for target in targets.all]
    seed = settings.seed
    # Curves over depth fit any number of blocks, so one model's shapes stand for all.
    matrices = first.masker.matrices
    shapes = [matrix.shape for matrix in matrices]
    families = {matrix.kind: matrix.family for matrix in matrices}
    # Sparsity is spread if a pattern leaves it free.
    pattern = min((target.pattern for target in targets.all), key=lambda pattern: pattern.is_nm)
    strategy: Strategy
    if settings.preset == "random":
        strategy = RandomStrategy(
            seed,
            shapes,
            allocate=not pattern.is_nm and settings.genome == "recipe",
            grammar=grammar,
        )
    elif settings.preset == "evopress":
        strategy = EvoPressStrategy(seed, shapes, families)
    else:
        measure = first.ground.bench.measure_guidance
        strategy = DefaultStrategy(
            seed,
            guesses,
            shapes,
            families,
            RecordedGuide(store, arenas, measure, deadline),
            pattern,
            formula_only=settings.genome == "formula",
            mixture=are_mixtures([ground.bench for ground in targets.grounds]),
            update=settings.update,
            grammar=grammar,
        )
    return IncumbentJudge(arenas, settings.objective), strategy
