"""``prunerzero search``: evolves pruning recipes for a model."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from prunerzero.cli import inputs
from prunerzero.cli.common import Json, Progress, emit, note, print_table
from prunerzero.cli.options import RunOptions, SelectionOptions, WindowOptions, with_options
from prunerzero.errors import InputError

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from prunerzero.evolution import SearchResult, Status
    from prunerzero.pruning.pattern import Pattern
    from prunerzero.recipe import Recipe

PLAIN_INTERVAL = 15.0  # seconds between two plain lines without news

EXAMPLES = (
    "prunerzero search smollm2 --pattern 50% --budget 10m --study s.db",
    'prunerzero search smollm2 --pattern 2:4 --guess "W * sqrt(A * F)" --budget 1h --study s.db',
    "prunerzero search smollm2 --pattern 50% --pattern 2:4 --objective worst --study both.db",
)


@with_options
def command(
    *,
    model: inputs.Model,
    pattern: Annotated[
        list[str], typer.Option("--pattern", help="50%, 2:4, ...; repeatable: all at once.")
    ],
    study: Annotated[Path, typer.Option("--study", help="File of the search; goes on if there.")],
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Search time of this call: 90s, 10m, 2h. Default 10m."),
    ] = None,
    candidates: Annotated[
        int | None, typer.Option("--candidates", min=1, help="Candidates of the whole study.")
    ] = None,
    preset: Annotated[
        Literal["default", "paper", "random", "evopress"],
        typer.Option(
            "--preset",
            help="paper: the search as published, 350 proposals. To compare with: random; "
            "evopress, allocations under Wanda's formula.",
        ),
    ] = "default",
    genome: Annotated[
        Literal["recipe", "formula"],
        typer.Option("--genome", help="formula: one formula for all, uniform allocation."),
    ] = "recipe",
    guess: Annotated[
        list[str] | None,
        typer.Option("--guess", help="A metric or recipe of your own to start from; repeatable."),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="MODEL", help="A model to search for too; repeatable."),
    ] = None,
    objective: Annotated[
        Literal["mean", "worst"],
        typer.Option("--objective", help="Of several models, patterns or texts: what counts."),
    ] = "mean",
    fitness: Annotated[
        Literal["kl", "loss"],
        typer.Option(
            "--fitness", help="Divergence from the dense model, or log perplexity on the text."
        ),
    ] = "kl",
    update: Annotated[
        str,
        typer.Option(
            "--update", help="Of the kept weights, before fitness: sparsegpt, sparsegpt-adaptive."
        ),
    ] = "none",
    calibration: Annotated[
        list[str],
        typer.Option(
            "--calibration",
            metavar="SOURCE",
            help="Text, name or file, cut into four splits; repeatable: all at once.",
        ),
    ] = ["wikipedia"],  # noqa: B006  typer copies it
    amount: WindowOptions,
    run: RunOptions,
    selected: SelectionOptions,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream",
            help="One block in memory at a time; default: if memory is short.",
            show_default=False,
        ),
    ] = None,
    executor: Annotated[
        Literal["serial", "process", "ray"],
        typer.Option(
            "--executor", help="Where candidates are measured: here, by processes, by Ray's actors."
        ),
    ] = "serial",
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="How many; default: one a core.", show_default=False),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", help="A running Ray cluster: auto, or HOST:PORT."),
    ] = None,
    json: Json = False,
) -> None:
    """Search for a pruning recipe; the same command goes on with an interrupted search."""
    from prunerzero.evolution.settings import (
        PAPER_ITERATIONS,
        PAPER_POPULATION,
        Budget,
        check_executor,
        check_preset,
        check_targets,
    )
    from prunerzero.evolution.updating import check_update
    from prunerzero.models.names import check_model_name
    from prunerzero.pruning.checkpoint import seen_documents
    from prunerzero.pruning.pattern import Pattern
    from prunerzero.recipe import Recipe

    models = [model, *(also or ())]
    patterns = [Pattern.parse(text) for text in pattern]
    guesses = [Recipe.from_text(text) for text in guess or ()]
    limits = Budget.parse(budget, candidates)
    if budget is None and candidates is None:
        published = Budget(proposals=PAPER_POPULATION + PAPER_ITERATIONS)
        limits = published if preset == "paper" else Budget.parse("10m")
    check_preset(preset, patterns, genome, bool(guesses), fitness)
    updated = Recipe.named("wanda").with_update(update).update
    check_update(updated, preset, stream=bool(stream))
    for name in models:
        check_model_name(name)
        if seen_documents(name):
            raise InputError(f"model '{name}': is pruned already; search on the dense model")
    check_targets(models, patterns, calibration, objective, preset)
    check_executor(executor, workers, ray_address, stream=bool(stream))
    _check_study(study)
    models = [run.source(name) for name in models]
    if stream is None and update == "none" and (reason := _reason_to_stream(models, study)):
        note(reason)
        stream = True

    for name in models:
        inputs.announce(name)
    from prunerzero.evolution.runner import search

    with _Console() as console:
        try:
            result = search(
                models,
                patterns,
                study=study,
                budget=limits,
                preset=preset,
                genome=genome,
                objective=objective,
                fitness=fitness,
                update=updated,
                guesses=guesses,
                calibration=calibration,
                samples=amount.samples,
                sequence_length=amount.sequence_length,
                seed=run.seed,
                dtype=run.dtype,
                device=run.device,
                selection=selected.selection(),
                stream=bool(stream),
                executor=executor,
                workers=workers,
                ray_address=ray_address,
                observe=console.observe,
                report=console.report,
            )
        except KeyboardInterrupt:
            console.stop()
            note(f"everything measured is in {study}: the same command goes on")
            raise
    if json:
        emit(result.to_json())
    else:
        _print(result, models, patterns, amount, calibration, run.seed)


def _reason_to_stream(models: Sequence[str], study: Path) -> str | None:
    """Why to stream, in one line: one model that must be has all streamed."""
    from prunerzero.streaming.decision import reason_to_search_streamed

    reasons = (reason_to_search_streamed(name, study) for name in models)
    return next((reason for reason in reasons if reason), None)


def _check_study(path: Path) -> None:
    """Finds an unusable study file before the model is loaded."""
    from prunerzero.study import Study

    if os.path.lexists(path):  # `Path` raises for names that are too long
        Study.open(path).close()


class _Console:
    """A live table while searching and bars for other steps, or plain lines off a terminal."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._live: Live | None = None
        self._progress: Progress | None = None
        self._best: Recipe | None = None  # as of the last plain line
        self._printed = 0.0
        self._priced = False

    def __enter__(self) -> _Console:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends whatever is being drawn."""
        if self._live is not None:
            self._live.stop()
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
        self._live = self._progress = None

    def report(self, step: str, done: int, total: int) -> None:
        """Shows how far a step is."""
        if self._progress is None:
            self.stop()
            self._progress = Progress().__enter__()
        self._progress(step, done, total)

    def observe(self, status: Status) -> None:
        """Shows how the search is doing, and first of all what a candidate costs."""
        if not self._priced:
            self._priced = True
            note(_price(status))
        if not self._terminal:
            news = status.best is not self._best
            if news or time.monotonic() - self._printed > PLAIN_INTERVAL:
                self._best, self._printed = status.best, time.monotonic()
                note("; ".join(f"{name} {value}" for name, value in _facts(status)))
            return
        if self._live is None:
            from rich.console import Console
            from rich.live import Live

            self.stop()
            self._live = Live(console=Console(stderr=True))
            self._live.start()
        self._live.update(_table(status))


def _price(status: Status) -> str:
    """What a candidate costs on this model, and what the budget buys."""
    price = f"a candidate takes about {status.candidate_seconds:.1f} s here"
    if status.budget.seconds is None:
        return price
    bought = max(1, round(status.budget.seconds / status.candidate_seconds))
    return f"{price}; {status.budget.seconds:.0f} s buy {bought}, or fewer and some descents"


def _facts(status: Status) -> list[tuple[str, str]]:
    """What a watcher wants to know, as names and values."""
    from prunerzero.pruning.allocation import UniformAllocation

    facts = [("candidates", str(status.candidates))]
    if status.best is not None:
        allocated = not isinstance(status.best.allocation, UniformAllocation)
        facts.append(("best", status.best.expression + (" + allocation" if allocated else "")))
    if status.gain is not None:
        facts.append((f"below {status.start}", f"{status.gain:.1%}"))
    if status.gain_over_published is not None:
        facts.append(("below Pruner-Zero", f"{status.gain_over_published:.1%}"))
    if status.seconds:
        facts.append(("a minute", f"{60 * status.recent / status.seconds:.0f}"))
    facts.append(("duplicates avoided", str(status.duplicates)))
    if status.budget.seconds is not None:
        facts.append(("left", f"{max(0.0, status.budget.seconds - status.seconds):.0f} s"))
    if status.budget.candidates is not None:
        facts.append(("left", f"{max(0, status.budget.candidates - status.candidates)} candidates"))
    return facts


def _table(status: Status) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _facts(status):
        table.add_row(f"[bold]{name}[/bold]", escape(value))
    return table


def _allocation(recipe: Recipe) -> list[tuple[str, str]]:
    """How the sparsity is spread, a line for each kind of matrix."""
    from prunerzero.pruning.allocation import CurvesAllocation

    allocation = recipe.allocation
    if not isinstance(allocation, CurvesAllocation):
        return [("allocation", allocation.key())]
    return [
        (
            f"{kind}",
            f"sparsity {sum(curve) / len(curve):+.3f} on average over the blocks "
            f"({min(curve):+.3f} to {max(curve):+.3f})",
        )
        for kind, curve in allocation.curves.items()
    ]


def _print(
    result: SearchResult,
    models: Sequence[str],
    patterns: Sequence[Pattern],
    amount: WindowOptions,
    calibrations: Sequence[str],
    seed: int,
) -> None:
    from prunerzero.evolution.closing import closing_json

    print(
        f"\n{', '.join(models)} at {', '.join(map(str, patterns))}, held-out "
        f"{', '.join(calibrations)}, context {amount.sequence_length}; sequential "
        f"pruning calibrated on {amount.samples} windows for every method; seed {seed}\n"
    )
    nm = all(pattern.is_nm for pattern in patterns)
    for name, closing in result.closings.items():
        if name:
            print(f"{name}:\n")
        best = {
            "group": result.best.group,
            "heldout_perplexity": closing.best.loss.perplexity,
        }
        _print_table(closing_json(closing), best, nm)
        print()
    timings = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.timings.items())
    readings = result.heldout_readings
    for name, text in [*result.best.formulas.items(), *_allocation(result.best)]:
        print(f"{name or 'formula':<12} {text}")
    print(f"recipe       {result.recipe_path}")
    if result.nm_recipe_path is not None:
        print(f"for N:M      {result.nm_recipe_path}")
    print(
        f"{result.candidates} candidates; {timings}"
        + (f"\nheld-out text has been read {readings} times in this study" if readings > 1 else "")
    )


def _print_table(document: dict[str, Any], best: dict[str, Any], nm: bool) -> None:
    """The closing table of one target; comparison groups mean nothing if all patterns are N:M."""
    rows: list[tuple[object, ...]] = []

    def add(name: str, entry: dict[str, Any]) -> None:
        change = entry.get("best_against_it")
        against = (
            f"{change['change']:+.1%} ({change['low']:+.1%} to {change['high']:+.1%})"
            if change
            else ""
        )
        group = "-" if nm else entry.get("group", "")
        rows.append((name, group, f"{entry['heldout_perplexity']:.2f}", against))

    add("dense", document["dense"] | {"group": ""})
    baselines = document["baselines"].items()
    for name, entry in sorted(baselines, key=lambda item: -item[1]["heldout_perplexity"]):
        add(name, entry)
    for rival in ("wanda", "sparsegpt"):
        if entry := document.get(f"{rival}_under_found_allocation"):
            add(f"{rival}, found allocation", entry)
    if document["formula_alone"]:
        add("best single formula", document["formula_alone"])
    add("best found", best)
    print_table(("recipe", "group", "perplexity", "best found against it (95 %)"), rows)
