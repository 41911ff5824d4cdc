"""The closing table of a study, and what it says in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from prunerzero import zoo
from prunerzero.report.document import Heldout, HeldoutRow
from prunerzero.report.rows import Rows
from prunerzero.study import Measurement, progress


def closing_winner(rows: Rows) -> int | None:
    """The candidate that won on validation text, if the search was closed last of all."""
    winner = progress.closing_winner(rows.of_kind("session-start"), rows.of_kind("heldout"))
    return winner if winner in rows.candidates else None


def closing_table(rows: Rows) -> Heldout | None:
    """The held-out readings, with the winner's change against each; None before the end."""
    winner = closing_winner(rows)
    read = {m.name: m for m in rows.measurements if m.purpose == "heldout"}
    best = read.get(f"candidate {winner}")
    if winner is None or best is None:
        return None
    same = [reading for reading in read.values() if reading.windows == best.windows]
    formula = next((m for m in reversed(same) if m.candidate_id not in (None, winner)), None)
    table = [
        _row(reading, best, formula)
        for reading in same
        if reading.candidate_id is None or reading in (best, formula)
        if not _of_another(reading.name or "", winner)
    ]
    table.sort(key=lambda row: math.inf if row.perplexity is None else row.perplexity)
    return Heldout(
        winner=winner,
        verdict=verdict(table),
        rows=table,
        windows=len(_losses(best)),
        tokens=best.tokens,
        readings=len(rows.of_kind("heldout")),
    )


def verdict(table: Sequence[HeldoutRow]) -> str:
    """What the table says about the winner, in one sentence."""
    best = next((row for row in table if row.role == "winner"), None)
    if best is None or best.perplexity is None:
        return "The found recipe ruins the model."
    sentence = f"The found recipe ({best.name}) has a held-out perplexity of {best.perplexity:.2f}"
    rivals = [row for row in table if row.role == "baseline" and row.perplexity is not None]
    if not rivals:
        return sentence + "."
    rival = min(rivals, key=lambda row: row.perplexity or math.inf)
    title = "Wanda, the best published recipe"
    if rival.name != "wanda":
        title = f"the best published recipe, {rival.name}"
    sentence += f", {_against(rival, title)}"
    wanda = next((row for row in rivals if row.name == "wanda"), None)
    if wanda is not None and wanda is not rival:
        sentence += f", and {_against(wanda, 'Wanda')}"
    dense = next((row for row in table if row.role == "dense"), None)
    if dense is not None and dense.perplexity is not None:
        sentence += f"; the dense model has {dense.perplexity:.2f}"
    return sentence + "."


def _against(row: HeldoutRow, title: str) -> str:
    there = f"{title} ({row.perplexity:.2f})"
    if row.change is None or row.low is None or row.high is None:
        return f"not to be compared with {there}"
    interval = f"95 % interval {_percent(row.low)} to {_percent(row.high)}"
    if row.low <= 0 <= row.high:
        return f"not distinguishable from {there}: {_percent(row.change)} ({interval})"
    word = "lower" if row.change < 0 else "higher"
    return f"{100 * abs(row.change):.1f} % {word} than {there}: {interval}"


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %".replace("-", "−")


def _row(reading: Measurement, best: Measurement, formula: Measurement | None) -> HeldoutRow:
    name = reading.name or f"candidate {reading.candidate_id}"
    change: tuple[float | None, ...] = (None, None, None)
    if reading is not best and len(_losses(reading)) == len(_losses(best)):
        change = _interval(_losses(best), _losses(reading))
    return HeldoutRow(
        name=name,
        role="winner"
        if reading is best
        else "formula"
        if reading is formula
        else "dense"
        if name == "dense"
        else "baseline"
        if name in zoo.names()
        else "control",
        candidate=reading.candidate_id,
        perplexity=None if reading.loss is None or reading.loss > 700 else math.exp(reading.loss),
        change=change[0],
        low=change[1],
        high=change[2],
    )


def _losses(reading: Measurement) -> tuple[float, ...]:
    data = reading.data if isinstance(reading.data, dict) else {}
    losses = tuple(data.get("losses", ()))
    return losses if None not in losses else ()


@lru_cache
def _interval(
    losses: tuple[float, ...], baseline: tuple[float, ...]
) -> tuple[float | None, float | None, float | None]:
    """As the search's own closing table has it; remembered, for a dashboard asks again."""
    if not losses:
        return None, None, None
    from prunerzero.evaluation.perplexity import paired_interval

    found = paired_interval(losses, baseline)
    return _finite(found.change), _finite(found.low), _finite(found.high)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _of_another(name: str, winner: int) -> bool:
    """Whether it is the control of an earlier closing's winner."""
    return " of candidate " in name and not name.endswith(f" of candidate {winner}")
