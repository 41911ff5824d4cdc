"""What differs in a search whose candidates update the kept weights (`docs/updates.md`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prunerzero import zoo
from prunerzero.errors import InputError
from prunerzero.evolution.rungs import RungPlan
from prunerzero.evolution.settings import Preset
from prunerzero.pruning.allocation import UniformAllocation
from prunerzero.recipe import Recipe
from prunerzero.updates.names import VALUES, Update

# Tried after the rival: Wanda's score, and products that know of gradients.
SEEDS = ("W * A", "W ** 2 / Hfree * F ** 0.5", "W * sqrt(A * F)")


def check_update(update: Update, preset: Preset, *, stream: bool) -> None:
    """Checks that a search can be for recipes with this update.

    Raises:
        InputError: it cannot; the line says why.
    """
    if update == "none":
        return
    if update not in VALUES:
        raise InputError(
            f"update '{update}': a search takes none, {', '.join(sorted(VALUES))}; "
            f"prune --update {update} applies it to any recipe"
        )
    if preset != "default":
        raise InputError(f"preset '{preset}': judges masks alone, so leave out --update")
    if stream:
        raise InputError(
            f"update '{update}': a streamed search judges masks alone; give --no-stream"
        )


def plan_for(update: Update, plan: RungPlan) -> RungPlan:
    """The ladder for candidates with this update: one costs as much as a thousand tokens."""
    if update == "none":
        return plan
    return replace(plan, glance=4, screening=8, guidance=plan.challenge)


def rival(update: Update) -> Recipe:
    """The published recipe that a search with this update has to beat."""
    return Recipe.named("sparsegpt" if update in VALUES else "wanda")


def start(update: Update) -> Recipe:
    """The first candidate, which fitness is relative to; it has this update."""
    return rival(update) if update == rival(update).update else wanda_with(update)


def wanda_with(update: Update) -> Recipe:
    """Wanda's mask (or score), with this update."""
    return Recipe.named("wanda").with_update(update)


def baselines(update: Update, *, mixture: bool) -> Sequence[Recipe]:
    """What the closing table compares with, under uniform allocation, each by its own name."""
    published = zoo.published(mixture=mixture)
    if update == "none":
        chosen = published
    else:
        chosen = [recipe for recipe in published if recipe.name == "wanda"]
        named = wanda_with(update).model_copy(update={"name": f"wanda, {update}"})
        chosen += [named, rival(update)]
    return [recipe.model_copy(update={"allocation": UniformAllocation()}) for recipe in chosen]
