"""Tables of ``prunerzero evaluate --deep``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prunerzero.cli.common import note, print_table

if TYPE_CHECKING:
    from prunerzero.evaluation.deep import DeepEvaluation, Divergences
    from prunerzero.evaluation.frequency import FrequencyBand
    from prunerzero.evaluation.generation import Continuation
    from prunerzero.evaluation.perplexity import Estimate, Interval


def print_deep(found: DeepEvaluation) -> None:
    """Prints everything but the perplexities by text."""
    print()
    rows = (
        [*found.texts.items(), ("all", found.overall)]
        if len(found.texts) > 1
        else (list(found.texts.items()))
    )
    print_table(
        ("text", "KL(dense || model), nats a token", "same likeliest token"),
        [(name, *_divergences(each)) for name, each in rows],
        title="Predictions against the dense model's, means over tokens (95 %)",
    )
    print()
    print_table(
        ("tokens", "kinds", "occurrences of each", "scored", "dense", "perplexity", "change"),
        [_band(band) for band in found.frequency],
        title=f"By frequency in {found.evaluation.settings['frequencies']}, a quarter of it each",
    )
    print()
    _print_blocks(found)
    for continuation in found.continuations:
        print()
        _print_continuation(continuation)


def change(interval: Interval | None) -> str:
    """A relative change with its interval, for tables."""
    if interval is None:
        return ""
    return f"{interval.change:+.1%} ({interval.low:+.1%} to {interval.high:+.1%})"


def _divergences(found: Divergences) -> tuple[str, str]:
    def shown(estimate: Estimate, form: str) -> str:
        mean, low, high = (
            format(value, form) for value in (estimate.mean, estimate.low, estimate.high)
        )
        return f"{mean} ({low} to {high})"

    return shown(found.kl, ".4f"), shown(found.agreement, ".1%")


def _band(band: FrequencyBand) -> tuple[object, ...]:
    perplexities = (
        "" if value is None else f"{value:.2f}"
        for value in (band.dense_perplexity, band.perplexity)
    )
    occurrences = f"{band.least:,} to {band.most:,}" if band.kinds else ""
    return (band.name, band.kinds, occurrences, band.tokens, *perplexities, change(band.change))


def _print_blocks(found: DeepEvaluation) -> None:
    if found.blocks is None:
        note(f"errors by block are left out: {found.blocks_left_out}")
        return
    print_table(
        ("block", "alone", "with those before"),
        [(each.block, f"{each.local:.4f}", f"{each.cumulative:.4f}") for each in found.blocks],
        title="Relative output error, mean over tokens",
    )


def _print_continuation(found: Continuation) -> None:
    print_table(
        ("", ""),
        [
            ("prompt", _line(found.prompt)),
            ("text", _line(found.text)),
            ("dense", _line(found.dense)),
            ("model", _line(found.model)),
        ],
        title=f"{found.source}: greedy, the first {found.same_tokens} tokens the same",
    )


def _line(text: str) -> str:
    return text.replace("\n", "\\n")
