"""The experiments of an analysis: each measures recipes on a bench and returns records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import sub
from statistics import median
from typing import NamedTuple

import numpy as np

from prunerzero.analysis.bench import Bench, Reading
from prunerzero.analysis.claims import ADDITIONS, REMOVALS, Pair
from prunerzero.analysis.edits import ablations, edited
from prunerzero.analysis.inference import FEWEST, Mantel, mantel, rank_agreement
from prunerzero.analysis.records import (
    AblatedNode,
    Factorial,
    FamilyBest,
    MeasuredRecipe,
    ProxyAgreement,
    SensitivityReading,
    Transfer,
)
from prunerzero.analysis.similarity import (
    Families,
    Similarity,
    best_of_each,
    mask_families,
    similarity,
)
from prunerzero.evaluation.perplexity import paired_interval
from prunerzero.pruning.allocation import UniformAllocation
from prunerzero.recipe import Recipe

WANDA = "wanda"
PUT_IN = "with "


class Member(NamedTuple):
    """A recipe of the sample; fitness and rungs as far as the study has them."""

    name: str
    recipe: Recipe
    fitness: float | None
    rungs: tuple[float, ...]


class Likeness(NamedTuple):
    """How alike the recipes of the sample are.

    Attributes:
        names: the recipes, in the order of the matrices.
        matrices: pairwise likeness.
        families: their grouping by masks.
        mantel: mask distance (1 - Jaccard) against the difference of log perplexities.
        better_half: the same among the better half by perplexity; None for too few.
    """

    names: tuple[str, ...]
    matrices: Similarity
    families: Families
    mantel: Mantel
    better_half: Mantel | None


def likeness(
    bench: Bench, members: Sequence[Member], readings: Sequence[Reading], seed: int
) -> Likeness:
    """Compares masks and scores of measured recipes, at least two of them."""
    recipes = [member.recipe for member in members]
    matrices = similarity(bench.masker(recipes), recipes)
    losses = np.array([reading.log_perplexity for reading in readings])
    apart, distant = np.abs(losses[:, None] - losses), 1.0 - matrices.jaccard
    good = np.ix_(losses <= np.median(losses), losses <= np.median(losses))
    half = len(apart[good]) >= FEWEST
    return Likeness(
        tuple(member.name for member in members),
        matrices,
        mask_families(matrices.agreement),
        mantel(distant, apart, seed=seed),
        mantel(distant[good], apart[good], seed=seed) if half else None,
    )


def measured_rows(
    members: Sequence[Member], readings: Sequence[Reading], families: Sequence[int]
) -> list[MeasuredRecipe]:
    """One row a recipe, the lowest perplexity first."""
    rows = []
    for member, reading, family in zip(members, readings, families, strict=True):
        assert reading.proxies is not None
        rows.append(
            MeasuredRecipe(
                name=member.name,
                expression=member.recipe.expression,
                fitness=member.fitness,
                rungs=member.rungs,
                perplexity=reading.loss.perplexity,
                **reading.proxies._asdict(),
                family=family,
            )
        )
    return sorted(rows, key=lambda row: row.perplexity)


def proxy_agreements(
    pattern: str, members: Sequence[Member], readings: Sequence[Reading], seed: int
) -> list[ProxyAgreement]:
    """How far each cheap reading orders the recipes as their log perplexities do."""
    losses = [reading.log_perplexity for reading in readings]
    middle = median(losses)
    columns: dict[str, list[tuple[float, float]]] = {}
    for member, reading in zip(members, readings, strict=True):
        for name, value in _cheap_readings(member, reading).items():
            if value is not None:
                columns.setdefault(name, []).append((value, reading.log_perplexity))
    found = []
    for among, highest in (("all", max(losses)), ("better half", middle)):
        for name, pairs in columns.items():
            chosen = [pair for pair in pairs if pair[1] <= highest]
            if len(chosen) < FEWEST:
                continue
            agreement = rank_agreement(*zip(*chosen, strict=True), seed=seed)
            if agreement is not None:
                found.append(ProxyAgreement(pattern, name, among, agreement))
    return found


def _cheap_readings(member: Member, reading: Reading) -> dict[str, float | None]:
    assert reading.proxies is not None
    return {
        "reconstruction error": reading.proxies.reconstruction,
        "block divergence": reading.proxies.block_divergence,
        "score correlation with Wanda": reading.proxies.score_correlation,
        **{f"rung {rung} of the search": value for rung, value in enumerate(member.rungs)},
        "fitness of the search": member.fitness,
    }


def diverse_set(
    members: Sequence[Member], readings: Sequence[Reading], families: Sequence[int]
) -> list[FamilyBest]:
    """The best recipe of each mask family."""
    losses = [reading.log_perplexity for reading in readings]
    wanda = next(loss for member, loss in zip(members, losses, strict=True) if member.name == WANDA)
    return [
        FamilyBest(
            family=families[index],
            size=list(families).count(families[index]),
            name=members[index].name,
            expression=members[index].recipe.expression,
            perplexity=readings[index].loss.perplexity,
            beats_wanda=losses[index] < wanda,
        )
        for index in best_of_each(families, losses)
    ]


def edited_pairs(bench: Bench, recipes: Sequence[Recipe]) -> list[Pair]:
    """Measures recipes as they are, and with what the paper's claims are about out or in."""
    variants: list[dict[str, Recipe]] = []
    for recipe in recipes:
        found = {name: edited(recipe, edit, bench.pattern) for name, edit in REMOVALS.items()}
        for name, edit in ADDITIONS.items():
            if found[name] is None:
                found[PUT_IN + name] = edited(recipe, edit, bench.pattern)
        variants.append({name: one for name, one in found.items() if one is not None})
    flat = [recipe for edits in variants for recipe in edits.values()]
    measured = iter(bench.measure_all("pairs", [*recipes, *flat]))
    wholes = [next(measured) for _ in recipes]
    pairs = []
    for whole, edits in zip(wholes, variants, strict=True):
        readings = {name: next(measured) for name in edits}
        losses = {name: other.log_perplexity for name, other in readings.items() if other}
        if whole is not None:
            added = {
                name: losses.pop(PUT_IN + name) for name in ADDITIONS if PUT_IN + name in losses
            }
            pairs.append(Pair(whole.log_perplexity, losses, added))
    return pairs


def ablation(bench: Bench, recipe: Recipe, count: int) -> list[AblatedNode]:
    """Measures the smallest edits of a recipe (`edits.ablations`), the dearest first."""
    variants = ablations(recipe, bench.pattern)[:count]
    whole, *measured = bench.measure_all("ablation", [recipe, *(v.recipe for v in variants)])
    if whole is None:
        return []
    rows = [
        AblatedNode(
            variant.label,
            variant.kinds,
            reading.loss.perplexity,
            paired_interval(reading.loss.losses, whole.loss.losses),
        )
        for variant, reading in zip(variants, measured, strict=True)
        if reading is not None
    ]
    return sorted(rows, key=lambda row: row.change.change, reverse=True)


def factorial(bench: Bench, name: str, recipe: Recipe) -> Factorial | None:
    """Wanda's formula and a found one, under the uniform and the found allocation.

    Returns:
        None where the recipe has the uniform allocation or Wanda's formula, or scores cannot rank.
    """
    uniform, wanda = UniformAllocation(), Recipe.named(WANDA)
    found = recipe.allocation
    if found.key() == uniform.key():
        return None
    formulas = {WANDA: wanda, "found": recipe}
    cells = {
        (formula, place): one.model_copy(update={"allocation": allocation})
        for formula, one in formulas.items()
        for place, allocation in (("uniform", uniform), ("found", found))
    }
    if len({one.key(bench.pattern) for one in cells.values()}) < len(cells):
        return None
    readings = bench.measure_all("formula against allocation", list(cells.values()))
    if any(reading is None for reading in readings):
        return None
    losses = {cell: r.loss for cell, r in zip(cells, readings, strict=True) if r is not None}
    base = losses[WANDA, "uniform"].losses
    by_formula = losses["found", "uniform"].losses
    by_allocation = losses[WANDA, "found"].losses
    both = losses["found", "found"].losses
    return Factorial(
        name=name,
        perplexity={
            formula: {place: losses[formula, place].perplexity for place in ("uniform", "found")}
            for formula in formulas
        },
        formula=paired_interval(by_formula, base),
        allocation=paired_interval(by_allocation, base),
        both=paired_interval(both, base),
        interaction=paired_interval(
            tuple(map(sub, both, by_allocation)), tuple(map(sub, by_formula, base))
        ),
    )


def sensitivity(
    own: Bench, make: Callable[[int, int], Bench], shapes: Sequence[tuple[int, int]],
    recipes: Mapping[str, Recipe],
) -> list[SensitivityReading]:  # fmt: skip
    """Measures recipes with statistics of other calibrations, on the same windows.

    Args:
        own: the bench with the study's own calibration.
        make: gives a bench for a number of calibration windows and their length.
        shapes: those to try.
        recipes: by name.
    """
    before = own.measure_all("sensitivity", list(recipes.values()))
    own.release()
    rows = []
    for samples, length in shapes:
        bench = make(samples, length)
        step = f"sensitivity, {samples} x {length}"
        after = bench.measure_all(step, list(recipes.values()))
        bench.release()
        rows += [
            SensitivityReading(
                name,
                samples,
                length,
                reading.loss.perplexity,
                paired_interval(reading.loss.losses, base.loss.losses),
            )
            for name, base, reading in zip(recipes, before, after, strict=True)
            if base is not None and reading is not None
        ]
    return rows


def transfer(
    what: str,
    name: str,
    bench: Bench,
    members: Sequence[Member],
    readings: Sequence[Reading],
    seed: int,
) -> tuple[Transfer, list[ProxyAgreement]]:
    """Measures the sample elsewhere.

    Recipes that fit the other model or pattern and are distinct there count. Under another pattern
    the cheap readings are compared with the perplexity too; those of the search are left out.

    Args:
        what: ``pattern``, ``text`` or ``model``.
        name: which one.
        bench: measures there.
        members: the recipes.
        readings: what was read of them here.
        seed: seed of the resampling.
    """
    fitting: dict[str, tuple[Member, Reading]] = {}
    for member, reading in zip(members, readings, strict=True):
        recipe = bench.fitting(member.recipe)
        if recipe is not None:
            moved = Member(member.name, recipe, None, ())
            fitting.setdefault(recipe.key(bench.pattern), (moved, reading))
    proxies = what == "pattern"
    measured = bench.measure_all(
        f"transfer to {name}", [member.recipe for member, _ in fitting.values()], proxies=proxies
    )
    bench.release()
    both = [
        (member, before, after)
        for (member, before), after in zip(fitting.values(), measured, strict=True)
        if after is not None
    ]
    here = [reading.log_perplexity for _, reading, _ in both]
    there = [reading.log_perplexity for *_, reading in both]
    best = there[here.index(min(here))] if here else 0.0
    row = Transfer(
        what,
        name,
        rank_agreement(here, there, seed=seed),
        1 + sum(loss < best for loss in there),
        len(both),
    )
    agreements = []
    if proxies:
        agreements = proxy_agreements(
            name, [member for member, *_ in both], [reading for *_, reading in both], seed
        )
    return row, agreements
