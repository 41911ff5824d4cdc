"""The document, the table and the files of ``prunerzero compare``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunerzero.cli import inputs
from prunerzero.cli.common import print_table

if TYPE_CHECKING:
    from prunerzero.evaluation.published import PublishedValue
    from prunerzero.evaluation.ranking import Row


def comparison_document(
    rows: Sequence[Row], size: int, published: Sequence[PublishedValue], seed: int
) -> dict[str, Any]:
    """The rows for JSON, and what the calibration text does to them.

    Args:
        rows: the measurements.
        size: bytes of the evaluated text.
        published: what papers report for this model and text.
        seed: of the intervals.
    """
    from prunerzero.evaluation.ranking import change, data_effects, ties

    first: dict[tuple[str, str], Row] = {}
    listed = []
    for row, tied in zip(rows, ties(rows, seed), strict=True):
        trial = row.trial
        place = str(trial.pattern), trial.calibration
        leader = None if row.error else first.setdefault(place, row)
        interval = change(row, leader, seed) if leader and leader is not row else None
        listed.append(
            {
                "metric": trial.method,
                "expression": trial.recipe.expression,
                "group": inputs.shown_group(trial.recipe, trial.pattern),
                "allocation": trial.allocation,
                "permuted": trial.permuted,
                "update": trial.recipe.update,
                "pattern": str(trial.pattern),
                "calibration": trial.calibration,
                "sparsity": row.measurements[0].sparsity,
                "perplexity": row.perplexity,
                "perplexities": row.perplexities,
                "spread": row.spread,
                "best_or_tied": tied,
                "bits_per_byte": row.bits_per_byte(size),
                "published": [
                    each.to_json()
                    for each in published
                    if (each.method, each.pattern) == (trial.method.lower(), str(trial.pattern))
                ],
                "change_vs_first": interval.to_json() if interval else None,
                "seconds": row.seconds,
                "statistics_seconds": row.statistics_seconds,
                "peak_rss_bytes": row.peak_bytes,
                "error": row.error or None,
                **row.measurements[0].more,
            }
        )
    return {"rows": listed, "data_effects": [one.to_json() for one in data_effects(rows)]}


def print_comparison(document: dict[str, Any], calibration: str) -> None:
    """Prints the table, and what the calibration text does to it."""
    from prunerzero.evaluation.protocol import Protocol

    settings = document["settings"]
    texts = list(dict.fromkeys(row["calibration"] for row in document["rows"]))
    seeds = settings["seeds"]
    if len(texts) > 1:
        calibration += f", and of {', '.join(texts[1:])}"
    print(
        f"{document['model']}: calibrated on {calibration} "
        f"({'sequential' if settings['sequential'] else 'one-shot'}); evaluated on "
        f"{settings['windows']} windows of {settings['sequence_length']} tokens of "
        f"{settings['text']}; "
        + (f"seeds {settings['seed']} to {settings['seed'] + seeds - 1}" if seeds > 1 else "")
        + (f"seed {settings['seed']}" if seeds == 1 else "")
        + f"; {settings['compute']}\n"
    )
    print_table(*table_of(document))
    print(f"\n{settings['text']}: {Protocol(**settings['protocol'])}")
    if len(document["rows"]) > 1:
        print("* the best of its pattern and text, or no worse by a paired bootstrap (95 %)")
    for effect in document["data_effects"]:
        print("\n" + described_effect(effect))


def table_of(document: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Columns and rows of the table; columns that would say the same everywhere are left out."""
    listed = document["rows"]
    several = {
        "allocation": any(row["allocation"] != "uniform" for row in listed),
        "calibration": len({row["calibration"] for row in listed}) > 1,
        "spread": any(row["spread"] is not None for row in listed),
        "shared": any(row["statistics_seconds"] >= 0.5 for row in listed),
        "published": any(row["published"] for row in [document["dense"], *listed]),
    }
    shown: list[dict[str, object]] = []
    for row in [document["dense"], *listed]:
        dense = row is document["dense"]
        change = row.get("change_vs_first")
        shown.append(
            {
                "metric": "dense" if dense else _method(row),
                "group": row.get("group", ""),
                "allocation": row.get("allocation", ""),
                "update": row.get("update", ""),
                "pattern": row.get("pattern", ""),
                "calibration": row.get("calibration", ""),
                "sparsity": "" if dense or row["error"] else f"{row['sparsity']:.2%}",
                "perplexity": "not finite"
                if row.get("error")
                else f"{row['perplexity']:.3f}{'*' if row.get('best_or_tied') else ''}",
                "spread": f"± {row['spread']:.3f}" if row.get("spread") is not None else "",
                "bits a byte": f"{row['bits_per_byte']:.4f}" if not row.get("error") else "",
                f"vs {listed[0]['metric']}": f"{change['change']:+.1%} ({change['low']:+.1%} to "
                f"{change['high']:+.1%})"
                if change
                else "",
                "seconds": "" if dense else f"{row['seconds']:.1f}",
                "shared": f"+ {row['statistics_seconds']:.0f}"
                if row.get("statistics_seconds")
                else "",
                "MiB": "" if dense else f"{row['peak_rss_bytes'] / 2**20:.0f}",
                "published": _published(row),
            }
        )
    columns = tuple(name for name in shown[0] if several.get(name, True))
    return columns, [tuple(row[name] for name in columns) for row in shown]


def _method(row: dict[str, Any]) -> str:
    return f"{row['metric']}{', permuted' if row['permuted'] else ''}"


def described_effect(effect: dict[str, Any]) -> str:
    """An analysis of variance (`DataEffect`) in words."""
    return (
        f"{effect['pattern']}, {len(effect['methods'])} methods ({', '.join(effect['methods'])}), "
        f"{len(effect['texts'])} calibration texts: of the variance of log perplexity "
        f"{effect['method']:.0%} is between methods, {effect['text']:.0%} between texts, "
        f"{effect['interaction']:.0%} in which text suits which method, {effect['seed']:.0%} "
        f"between seeds; the methods' order agrees between texts by Kendall's tau "
        f"{effect['agreement']:.2f}; the text alone changes a method's perplexity by up to "
        f"{math.expm1(effect['gap']):.1%}"
    )


def write_files(document: dict[str, Any], directory: Path) -> None:
    """Writes ``comparison.json``, ``.csv``, ``.tex`` and, with matplotlib, ``.svg``."""
    from prunerzero.cli.comparison_files import write_all

    write_all(document, table_of(document), directory)


def _published(row: dict[str, Any]) -> str:
    """Published values, each with the first word of its source: its first author."""
    return ", ".join(
        f"{each['value']:.2f} ({each['source'].partition(' ')[0]}"
        f"{'' if each['checked'] else ', unchecked'})"
        for each in row["published"]
    )
