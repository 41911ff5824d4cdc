"""What a study's numbers show, in sentences: each written from data, with its confidence."""

from __future__ import annotations

from collections.abc import Sequence

from prunerzero.analysis.enrichment import Enrichment
from prunerzero.analysis.inference import Mantel
from prunerzero.analysis.records import (
    AblatedNode,
    Factorial,
    Principle,
    ProxyAgreement,
    SensitivityReading,
    Transfer,
)
from prunerzero.evaluation.perplexity import Interval

SIGNIFICANT, CLEAR = 0.05, 0.01
USEFUL, STRONG = 0.3, 0.6  # lower ends of Kendall's interval
MANY = 12  # recipes below which nothing is said with high confidence
SHOWN = 3


def _found(statement: str, confidence: str, *evidence: str, q: float | None = None) -> Principle:
    return Principle(statement, "study", "found", confidence, evidence, q=q)


def from_proxies(correlations: Sequence[ProxyAgreement]) -> list[Principle]:
    """Which cheap reading can stand in for the perplexity, and which cannot, a pattern at a time.

    A reading's use is the size of its tau: one that falls as the perplexity rises serves as well.
    """
    principles = []
    for pattern in dict.fromkeys(row.pattern for row in correlations):
        rows = [row for row in correlations if (row.pattern, row.among) == (pattern, "all")]
        rows.sort(key=_least_tau, reverse=True)
        halves = [
            row
            for row in correlations
            if (row.pattern, row.among, row.proxy) == (pattern, "better half", rows[0].proxy)
        ]
        lines = [
            f"{row.proxy}{', better half of the recipes' if row in halves else ''}: tau "
            f"{row.agreement.kendall}, n {row.agreement.n}"
            for row in [*rows, *halves]
        ]
        least = _least_tau(rows[0])
        if least <= 0:
            statement = f"At {pattern} no cheap reading orders recipes as the perplexity does"
        else:
            statement = (
                f"At {pattern} the {rows[0].proxy} orders recipes most like the perplexity after "
                "pruning"
            )
        confidence = _confidence(least, rows[0].agreement.n)
        principles.append(_found(statement, confidence, *lines))
    return principles


def _confidence(least: float, n: int) -> str:
    """Of a rank correlation, from the end of its interval that is nearer to 0."""
    if least >= STRONG and n >= MANY:
        return "high"
    return "moderate" if least >= USEFUL else "low"


def _least_tau(row: ProxyAgreement) -> float:
    """The end of the interval of |tau| that is nearer to 0; negative if 0 is inside."""
    kendall = row.agreement.kendall
    return kendall.low if kendall.value >= 0 else -kendall.high


def from_masks(everything: Mantel, better_half: Mantel | None) -> list[Principle]:
    """Whether a similar mask means a similar perplexity, also where all recipes are good ones."""
    lines = [
        f"{among}: Mantel rho {test.rho:+.2f}, p {test.p:.2g}, {test.n} recipes"
        for among, test in (("all", everything), ("better half", better_half))
        if test is not None
    ]
    if everything.p >= SIGNIFICANT:
        return [_found("Similar masks are not seen to mean similar perplexities", "low", *lines)]
    if better_half is None or better_half.p >= SIGNIFICANT:
        statement = (
            "Similar masks mean similar perplexities over the whole sample; among its better half "
            "that is not seen"
        )
        return [_found(statement, "moderate", *lines)]
    sure = everything.p < CLEAR and everything.rho >= USEFUL and everything.n >= MANY
    return [
        _found("Similar masks mean similar perplexities", "high" if sure else "moderate", *lines)
    ]


def from_enrichment(rows: Sequence[Enrichment]) -> list[Principle]:
    """What the best candidates have more, or less, often."""
    if not rows:
        return []
    significant = [row for row in rows if row.q < SIGNIFICANT]
    if not significant:
        return [
            _found(
                f"Nothing that recipes are made of is significantly more common among the best "
                f"{rows[0].best} of {rows[0].all}",
                "low",
                *map(_enriched, rows[:SHOWN]),
                q=rows[0].q,
            )
        ]
    return [
        _found(
            f"The best candidates have the {row.kind} {row.name} "
            f"{'more' if row.odds_ratio > 1 else 'less'} often",
            "moderate",  # candidates descend from one another, so they are no independent draws
            _enriched(row),
            q=row.q,
        )
        for row in significant[:SHOWN]
    ]


def _enriched(row: Enrichment) -> str:
    return (
        f"{row.kind} {row.name}{_also(row)}: {row.best_with} of the best {row.best}, "
        f"{row.all_with} of all {row.all}, odds ratio {row.odds_ratio:.2g}, q {row.q:.2g}"
    )


def _also(row: Enrichment) -> str:
    return f" (the same candidates as {', '.join(row.also[:SHOWN])})" if row.also else ""


def from_ablation(nodes: Sequence[AblatedNode]) -> list[Principle]:
    """Which parts of the best recipe earn their place."""
    if not nodes:
        return []
    useful = sorted((n for n in nodes if n.change.low > 0), key=lambda n: -n.change.change)
    harmful = [node for node in nodes if node.change.high < 0]
    return [
        _found(
            f"{len(useful)} of {len(nodes)} single edits of the best recipe make it worse by more "
            f"than noise, {len(harmful)} better",
            "moderate",  # each interval is over windows; they are not corrected for their number
            *(f"{node.edit}: {shown(node.change)}" for node in [*useful[:SHOWN], *harmful[:1]]),
        )
    ]


def from_factorial(table: Factorial | None) -> list[Principle]:
    """Whether formula or allocation brings the gain."""
    if table is None:
        return []
    larger, smaller = ("formula", "allocation")
    if table.allocation.change < table.formula.change:
        larger, smaller = smaller, larger
    first, second = getattr(table, larger), getattr(table, smaller)
    apart = first.high < second.low
    return [
        _found(
            f"The found {larger} lowers the perplexity more than the found {smaller}"
            if first.change < 0
            else "Neither the found formula nor the found allocation alone lowers the perplexity",
            "moderate" if apart and first.change < 0 else "low",
            f"{larger} alone {shown(first)}, {smaller} alone {shown(second)}",
            f"both {shown(table.both)}, interaction {shown(table.interaction)}",
        )
    ]


def from_sensitivity(rows: Sequence[SensitivityReading]) -> list[Principle]:
    """How far the calibration's size and shape matter, a recipe at a time."""
    principles = []
    for name in dict.fromkeys(row.recipe for row in rows):
        mine = [row for row in rows if row.recipe == name]
        worst = max(mine, key=lambda row: abs(row.change.change))
        principles.append(
            _found(
                f"Over the calibrations tried, the perplexity of {name} changes by at most "
                f"{abs(worst.change.change):.1%}",
                "moderate" if worst.change.significant else "low",
                *(f"{r.samples} x {r.sequence_length} tokens: {shown(r.change)}" for r in mine),
            )
        )
    return principles


def from_transfer(rows: Sequence[Transfer]) -> list[Principle]:
    """Whether an order of recipes found here holds elsewhere."""
    principles = []
    for row in rows:
        if row.agreement is None:
            continue
        kendall = row.agreement.kendall
        if kendall.low > 0:
            statement = f"The order of recipes carries over to {row.what} {row.name}"
            confidence = _confidence(kendall.low, row.agreement.n)
        else:
            statement = f"The order of recipes is not seen to carry over to {row.what} {row.name}"
            confidence = "low"
        principles.append(
            _found(
                statement,
                confidence,
                f"Kendall {kendall}, n {row.agreement.n}; the best here is number "
                f"{row.best_here_rank_there} of {row.recipes} there",
            )
        )
    return principles


def shown(change: Interval) -> str:
    """A relative change with its interval, in percent."""
    return f"{change.change:+.1%} [{change.low:+.1%}, {change.high:+.1%}]"
