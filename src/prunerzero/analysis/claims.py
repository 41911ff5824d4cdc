"""The paper's five principles, each a function from data to a test (Pruner-Zero, section 5).

"x helps" is tested by taking x out of recipes that have it, or putting it into recipes that have
not, and measuring both: pairs that differ in nothing else. The recipes are those that no
measurement has tuned (published, given or random ones), since any edit of a tuned recipe is bound
to make it worse. How candidates with and without x differ is shown too, but decides nothing: they
differ in more than x, and descend from one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from prunerzero.analysis.edits import (
    GRADIENTS,
    WEIGHTS,
    Edit,
    with_operator,
    without_operators,
    without_squares,
    without_terminals,
)
from prunerzero.analysis.features import canonical_formulas, uses_gradients, uses_weights
from prunerzero.analysis.inference import (
    Effect,
    benjamini_hochberg,
    group_effect,
    paired_effect,
)
from prunerzero.analysis.records import Principle
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe

FEWEST_PAIRS = 6  # below, no signed-rank test can reach 5 %
SIGNIFICANT, CLEAR = 0.05, 0.01
MANY_PAIRS = 12
LOG_RATIO = "log ratio of perplexities, with over without"

REMOVALS: Mapping[str, Edit] = {
    "gradients": without_terminals(GRADIENTS),
    "weights": without_terminals(WEIGHTS),
    "min-max": without_operators(("mms",)),
    "squares": without_squares,
}
# For recipes that have nothing to take out, and where there is one way to put it in.
ADDITIONS: Mapping[str, Edit] = {
    "min-max": with_operator("mms", GRADIENTS),
    "squares": with_operator("sqr", WEIGHTS),
}


class Scored(NamedTuple):
    """A distinct candidate of the study and its fitness, lower is better."""

    recipe: Recipe
    fitness: float


class Pair(NamedTuple):
    """Log perplexities of a recipe as it is, and with things taken out of it or put in.

    Attributes:
        whole: of the recipe.
        without: by the name in `REMOVALS`; what cannot be taken out, or changes no mask, is
            missing.
        added: by the name in `ADDITIONS`, where there was nothing to take out.
    """

    whole: float
    without: Mapping[str, float]
    added: Mapping[str, float] = {}


class RandomComparison(NamedTuple):
    """The best of equally many distinct candidates of a search and of random search.

    Attributes:
        candidates: how many of each.
        evolved: losses of the search's best on the analysis's windows.
        random: losses of random search's best on them.
    """

    candidates: int
    evolved: tuple[float, ...]
    random: tuple[float, ...]


class ClaimData(NamedTuple):
    """All that the claims are tested on."""

    pattern: Pattern
    candidates: Sequence[Scored]
    pairs: Sequence[Pair]
    random: RandomComparison | None


class ClaimTest(NamedTuple):
    """One claim's test.

    Attributes:
        statement: the claim.
        effect: the deciding effect, negative in the claim's favour; None where there is none.
        decides: whether it may confirm or refute the claim: it compares like with like.
        repeated: whether chance in the search itself is averaged out.
        evidence: all numbers, a line each.
    """

    statement: str
    effect: Effect | None
    decides: bool
    repeated: bool
    evidence: tuple[str, ...]


def gradients_matter(data: ClaimData) -> ClaimTest:
    """Gradients are in all top metrics: recipes are better with them."""
    return _with_and_without(
        "Gradients matter", data, _differences(data.pairs, "gradients"), uses_gradients
    )


def min_max_helps(data: ClaimData) -> ClaimTest:
    """Min-max scaling helps: recipes with ``mms`` are better."""
    return _with_and_without(
        "Min-max scaling helps",
        data,
        _differences(data.pairs, "min-max"),
        lambda recipe: _has_operator(recipe, data.pattern, "mms"),
    )


def combining_helps(data: ClaimData) -> ClaimTest:
    """Weights and gradients together beat either: the better of the two halves is compared."""
    differences = [
        pair.whole - min(pair.without["gradients"], pair.without["weights"])
        for pair in data.pairs
        if {"gradients", "weights"} <= pair.without.keys()
    ]
    return _with_and_without(
        "Weights and gradients together beat either alone",
        data,
        differences,
        lambda recipe: uses_gradients(recipe) and uses_weights(recipe),
    )


def squares_help(data: ClaimData) -> ClaimTest:
    """Squared forms damp extremes: recipes with squares that change masks are better."""
    return _with_and_without(
        "Squared forms help by damping extremes",
        data,
        _differences(data.pairs, "squares"),
        lambda recipe: _has_operator(recipe, data.pattern, "sqr"),
    )


def evolution_beats_random(data: ClaimData) -> ClaimTest:
    """Evolution beats random search: the best of equally many candidates, window by window."""
    statement = "Evolution beats random search"
    if data.random is None:
        evidence: tuple[str, ...] = ("no random search to compare with (--random)",)
        return ClaimTest(statement, None, False, False, evidence)
    both = zip(data.random.evolved, data.random.random, strict=True)
    differences = [evolved - random for evolved, random in both]
    effect = paired_effect(differences, "log ratio of perplexities, evolved over random")
    evidence = (
        f"best of {data.random.candidates} distinct candidates each: {_shown(effect)}",
        "one search of each kind: other seeds may say otherwise",
    )
    return ClaimTest(statement, effect, effect is not None, False, evidence)


CLAIMS: tuple[Callable[[ClaimData], ClaimTest], ...] = (
    gradients_matter,
    min_max_helps,
    combining_helps,
    squares_help,
    evolution_beats_random,
)


def judge_claims(tests: Sequence[ClaimTest]) -> list[Principle]:
    """Verdicts on claims, their p values corrected for the number of tests (Benjamini-Hochberg)."""
    effects = [test.effect for test in tests if test.effect is not None]
    corrected = iter(benjamini_hochberg([effect.p for effect in effects]))
    q_values = [None if test.effect is None else next(corrected) for test in tests]
    return [
        Principle(
            statement=test.statement,
            source="paper",
            verdict=verdict(test, q),
            confidence=confidence(test, q),
            evidence=test.evidence,
            effect=test.effect,
            q=q,
        )
        for test, q in zip(tests, q_values, strict=True)
    ]


def verdict(test: ClaimTest, q: float | None) -> str:
    """What a test says of its claim, in whose favour negative effects are."""
    if test.effect is None or not test.decides or q is None or q >= SIGNIFICANT:
        return "not decided"
    return "confirmed" if test.effect.value < 0 else "refuted"


def confidence(test: ClaimTest, q: float | None) -> str:
    """How far a verdict can be relied on."""
    if test.effect is None or not test.repeated or verdict(test, q) == "not decided":
        return "low"
    return "high" if (q or 0.0) < CLEAR and test.effect.n >= MANY_PAIRS else "moderate"


def _differences(pairs: Sequence[Pair], thing: str) -> list[float]:
    """Log perplexity with the thing minus without."""
    return [
        *(pair.whole - pair.without[thing] for pair in pairs if thing in pair.without),
        *(pair.added[thing] - pair.whole for pair in pairs if thing in pair.added),
    ]


def _with_and_without(
    statement: str,
    data: ClaimData,
    differences: Sequence[float],
    has: Callable[[Recipe], bool],
) -> ClaimTest:
    paired = paired_effect(differences, LOG_RATIO)
    having = [scored.fitness for scored in data.candidates if has(scored.recipe)]
    others = [scored.fitness for scored in data.candidates if not has(scored.recipe)]
    grouped = group_effect(having, others)
    evidence = (
        f"{len(differences)} pairs that differ in it alone: {_shown(paired)}",
        f"{len(having)} candidates with it, {len(others)} without: {_shown(grouped)}",
    )
    decides = paired is not None and paired.n >= FEWEST_PAIRS
    return ClaimTest(statement, paired if decides else grouped, decides, decides, evidence)


def _has_operator(recipe: Recipe, pattern: Pattern, operator: str) -> bool:
    return any(
        getattr(node, "operator", None) == operator
        for metric in canonical_formulas(recipe, pattern)
        for node in metric.expression.nodes()
    )


def _shown(effect: Effect | None) -> str:
    if effect is None:
        return "nothing to compare"
    value, low, high = effect.value, effect.low, effect.high
    return f"{effect.measure} {value:+.3f} [{low:+.3f}, {high:+.3f}], p {effect.p:.2g}"
