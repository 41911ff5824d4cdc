"""From sections to files: CSV tables, figures with their data, and one page of Markdown."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prunerzero.analysis.records import Principle, as_json
from prunerzero.evaluation.perplexity import Estimate, Interval
from prunerzero.evaluation.zeroshot.results import Difference
from prunerzero.files import atomic_path, write_json
from prunerzero.report.drawing import draw, paint
from prunerzero.reproduction.names import FIGURES, PAGE, TABLES
from prunerzero.reproduction.sections import Section


def write_sections(sections: Sequence[Section], head: str, directory: Path) -> None:
    """Writes tables, figures and the page; what an earlier run wrote is replaced.

    Args:
        sections: the experiments' results so far.
        head: the page's first lines.
        directory: where to.
    """
    parts = [head]
    for section in sections:
        parts.append(f"## {section.title}\n")
        for name, rows in section.tables.items():
            if rows:
                _write_csv(rows, directory / TABLES / f"{name}.csv")
                parts.append(markdown_table(rows))
        for figure in section.figures:
            if figure.lines:
                write_json(directory / FIGURES / f"{figure.name}.json", as_json(figure))
                draw(directory / FIGURES / f"{figure.name}.svg", partial(paint, figure))
                parts.append(f"![{section.title}]({FIGURES}/{figure.name}.svg)\n")
        if not any(section.tables.values()):
            parts.append("Nothing is finished yet.\n")
        parts += [_claim_text(claim) for claim in section.claims]
    with atomic_path(directory / PAGE) as path:
        path.write_text("\n".join(parts), encoding="utf-8")


def columns_of(rows: Sequence[Any]) -> tuple[str, ...]:
    """The columns worth showing: those that hold something in some row."""
    empty = (None, "", ())
    return tuple(
        name for name in rows[0]._fields if any(getattr(row, name) not in empty for row in rows)
    )


def shown(value: Any) -> str:
    """A cell of a table, for readers."""
    if value is None:
        return ""
    if isinstance(value, Interval):
        return f"{value.change:+.1%} ({value.low:+.1%} to {value.high:+.1%})"
    if isinstance(value, Difference):
        return f"{value.change:+.3f} ({value.low:+.3f} to {value.high:+.3f})"
    if isinstance(value, Estimate):
        return f"{value.mean:+.3f} ({value.low:+.3f} to {value.high:+.3f})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(f"{one:+.1%}" for one in value)
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 100 else f"{value:.1f}"
    return str(value)


def markdown_table(rows: Sequence[Any]) -> str:
    """Rows as a table in Markdown."""
    columns = columns_of(rows)
    lines = [
        "| " + " | ".join(name.replace("_", " ") for name in columns) + " |",
        "| " + " | ".join("---" for _ in columns) + " |",
    ]
    for row in rows:
        cells = [shown(getattr(row, name)).replace("|", "\\|") for name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _claim_text(claim: Principle) -> str:
    verdict = claim.verdict + (
        f", confidence {claim.confidence}" * (claim.verdict != "not decided")
    )
    return "\n".join(
        [f"**{claim.statement}**: {verdict}.", *(f"- {line}" for line in claim.evidence), ""]
    )


def _write_csv(rows: Sequence[Any], path: Path) -> None:
    """Rows in full precision; an interval becomes three columns."""
    flat = [_flat(row._asdict()) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(flat)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, (Interval, Difference, Estimate)):
            flat |= {f"{name}_{key}": number for key, number in value.to_json().items()}
        elif isinstance(value, tuple):
            flat[name] = " ".join(map(repr, value))
        else:
            flat[name] = value
    return flat
