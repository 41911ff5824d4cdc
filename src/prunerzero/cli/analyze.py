"""``prunerzero analyze``: what a study teaches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prunerzero.cli import inputs
from prunerzero.cli.common import Device, Dtype, Json, Progress, emit, note, print_table, split_list
from prunerzero.cli.study import StudyFile
from prunerzero.errors import InputError

if TYPE_CHECKING:
    from prunerzero.analysis.analyze import Analysis

SHOWN = 10  # rows of the long tables; --json has all

EXAMPLES = (
    "prunerzero analyze s.db",
    "prunerzero analyze s.db --candidates 30 --transfer-pattern 2:4 --figures figures",
)


def command(
    study: StudyFile,
    candidates: Annotated[
        int, typer.Option("--candidates", min=4, help="Candidates to measure, best to worst.")
    ] = 20,
    windows: Annotated[
        int, typer.Option("--windows", min=1, help="Validation windows of the perplexity.")
    ] = 8,
    samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, help="Calibration windows; default: the study's."),
    ] = None,
    sequence_length: Annotated[
        int | None,
        typer.Option("--sequence-length", min=2, help="Tokens a window; default: the study's."),
    ] = None,
    sequential: Annotated[
        bool, typer.Option("--sequential/--one-shot", help="How the perplexity is pruned for.")
    ] = False,
    pairs: Annotated[
        int,
        typer.Option(
            "--pairs", min=0, help="Candidates to measure with and without claimed parts."
        ),
    ] = 12,
    ablations: Annotated[
        int, typer.Option("--ablations", min=0, help="Edits of the best recipe to measure.")
    ] = 12,
    sensitivity_samples: Annotated[
        str, typer.Option("--sensitivity-samples", metavar="N,N,...", help="Numbers of windows.")
    ] = "",
    sensitivity_lengths: Annotated[
        str, typer.Option("--sensitivity-lengths", metavar="L,L,...", help="Tokens a window.")
    ] = "",
    transfer_pattern: Annotated[
        list[str], typer.Option("--transfer-pattern", help="Another pattern; repeatable.")
    ] = [],  # noqa: B006  typer copies it
    transfer_text: Annotated[
        list[str], typer.Option("--transfer-text", help="Another text; repeatable.")
    ] = [],  # noqa: B006
    transfer_model: Annotated[
        list[str], typer.Option("--transfer-model", help="Another model; repeatable.")
    ] = [],  # noqa: B006
    random: Annotated[
        Path | None,
        typer.Option("--random", metavar="STUDY2", help="A search with --preset random."),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", metavar="DIR", help="Draw figures into it.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Of windows and draws; default: study's.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    json: Json = False,
) -> None:
    """Analyse a study: proxies, mask families, what good recipes share, principles."""
    from prunerzero.analysis.inference import require_scipy
    from prunerzero.analysis.sample import read_study
    from prunerzero.models.names import check_model_name
    from prunerzero.pruning.pattern import Pattern

    sample_counts = _numbers(sensitivity_samples, "--sensitivity-samples", 1)
    lengths = _numbers(sensitivity_lengths, "--sensitivity-lengths", 2)
    require_scipy()
    for pattern in transfer_pattern:
        Pattern.parse(pattern)
    for text in transfer_text:
        inputs.check_calibration(text)
    for model in transfer_model:
        check_model_name(model)
    if figures is not None:
        from prunerzero.report.drawing import require_matplotlib

        require_matplotlib()
    content = read_study(study)
    if random is not None:
        from prunerzero.analysis.sample import require_random

        require_random(read_study(random), content)
    check_model_name(content.settings.model)
    inputs.announce(content.settings.model)
    from prunerzero.analysis.analyze import Options, analyze

    options = Options(
        candidates=candidates,
        windows=windows,
        samples=samples,
        sequence_length=sequence_length,
        sequential=sequential,
        pairs=pairs,
        ablations=ablations,
        sensitivity_samples=sample_counts,
        sensitivity_lengths=lengths,
        patterns=tuple(str(Pattern.parse(pattern)) for pattern in transfer_pattern),
        texts=tuple(transfer_text),
        models=tuple(transfer_model),
        random=random,
        seed=seed,
        device=device,
        dtype=dtype,
    )
    with Progress() as progress:
        analysis = analyze(study, options, progress)
    if figures is not None:
        from prunerzero.report.analysis import draw_figures

        for path in draw_figures(analysis, figures):
            note(f"figure {path}")
    if json:
        emit(analysis.to_json())
    else:
        _print(analysis)


def _numbers(text: str, option: str, least: int) -> tuple[int, ...]:
    """The numbers of ``4,8,16``; none for an empty text."""
    entries = split_list(text) if text else []
    if not all(entry.isdecimal() and int(entry) >= least for entry in entries):
        raise InputError(f"{option} '{text}': give whole numbers of {least} or more, as in 4,8,16")
    return tuple(dict.fromkeys(map(int, entries)))


def _print(analysis: Analysis) -> None:
    from prunerzero.analysis.principles import shown

    setting = analysis.setting
    print(
        f"{analysis.study}: {analysis.distinct} distinct candidates, {len(analysis.measured)} "
        f"measured ({'sequential' if setting.sequential else 'one-shot'}) at {setting.pattern} on "
        f"{setting.windows} validation windows of {setting.window_length} tokens of "
        f"{setting.text}, statistics from {setting.samples} x {setting.sequence_length} tokens; "
        f"seed {setting.seed}\n"
    )
    _table(
        "Cheap readings against the log perplexity after pruning",
        ("pattern", "reading", "recipes", "Kendall", "Spearman", "n"),
        [
            (
                row.pattern,
                row.proxy,
                row.among,
                row.agreement.kendall,
                row.agreement.spearman,
                row.agreement.n,
            )
            for row in analysis.correlations
        ],
    )
    test = analysis.likeness.mantel
    _table(
        f"Best of each mask family (mask distance against perplexity: Mantel rho {test.rho:+.2f}, "
        f"p {test.p:.2g})",
        ("family", "recipes", "best", "perplexity", "below Wanda", "expression"),
        [
            (
                row.family,
                row.size,
                row.name,
                f"{row.perplexity:.3f}",
                "yes" if row.beats_wanda else "no",
                _short(row.expression),
            )
            for row in analysis.diverse[:SHOWN]
        ],
    )
    _table(
        "What the best candidates have",
        ("kind", "feature", "of the best", "of all", "odds ratio", "p", "q"),
        [
            (
                row.kind,
                _short(" = ".join((row.name, *row.also))),
                f"{row.best_with}/{row.best}",
                f"{row.all_with}/{row.all}",
                f"{row.odds_ratio:.2f}",
                f"{row.p:.3g}",
                f"{row.q:.3g}",
            )
            for row in analysis.enrichment[:SHOWN]
        ],
    )
    _table(
        "Edits of the best recipe",
        ("edit", "kinds", "perplexity", "change"),
        [
            (
                _short(row.edit),
                ", ".join(filter(None, row.kinds)) if len(row.kinds) < 4 else len(row.kinds),
                f"{row.perplexity:.3f}",
                shown(row.change),
            )
            for row in analysis.ablation
        ],
    )
    if analysis.factorial is not None:
        table = analysis.factorial
        _table(
            f"Formula against allocation, {table.name} (both {shown(table.both)}, interaction "
            f"{shown(table.interaction)})",
            ("formula", "uniform allocation", "found allocation"),
            [
                (formula, f"{cells['uniform']:.3f}", f"{cells['found']:.3f}")
                for formula, cells in table.perplexity.items()
            ],
        )
    _table(
        "Other calibrations",
        ("recipe", "windows", "tokens", "perplexity", "change"),
        [
            (r.recipe, r.samples, r.sequence_length, f"{r.perplexity:.3f}", shown(r.change))
            for r in analysis.sensitivity
        ],
    )
    _table(
        "The order of recipes elsewhere",
        ("what", "name", "Kendall", "best here is", "recipes"),
        [
            (
                row.what,
                row.name,
                "" if row.agreement is None else row.agreement.kendall,
                f"number {row.best_here_rank_there}",
                row.recipes,
            )
            for row in analysis.transfer
        ],
    )
    print("Principles")
    for number, row in enumerate(analysis.principles, 1):
        source = "paper's claim, " if row.source == "paper" else ""
        print(f"{number}. {row.statement}. [{source}{row.verdict}; confidence {row.confidence}]")
        for line in row.evidence:
            print(f"   - {line}")
    print(f"\nreadings and results: {analysis.file}")


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    if rows:
        print_table(columns, rows, title)
        print()


def _short(text: str, width: int = 72) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
