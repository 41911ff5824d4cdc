"""The methods of a comparison: from what the user names to recipes that fit the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prunerzero.cli.common import note, split_list
from prunerzero.errors import InputError

if TYPE_CHECKING:
    from prunerzero.models.blocks import Block
    from prunerzero.pruning.pattern import Pattern
    from prunerzero.recipe import Recipe

ALL = "all"

Methods = list[tuple[str, "Recipe"]]


def methods_of(metrics: str, group: str | None, update: str | None) -> Methods:
    """The recipes behind ``--metrics``, each with its name, once for each of ``--update``.

    Raises:
        InputError: one of them is wrong.
    """
    from prunerzero import zoo
    from prunerzero.recipe import Recipe

    names = list(zoo.names()) if metrics.strip() == ALL else split_list(metrics)
    chosen = [(name, Recipe.from_text(name, group)) for name in names]
    if update is not None:
        updates = split_list(update)
        chosen = [(name, recipe.with_update(one)) for name, recipe in chosen for one in updates]
    return chosen


def applicable(
    methods: Methods, patterns: Sequence[Pattern], blocks: list[Block], *, everything: bool
) -> dict[str, Methods]:
    """The methods that can prune a model, by pattern.

    Args:
        methods: what is wanted.
        patterns: with each of these.
        blocks: of the dense model.
        everything: whether the user wants whatever applies, and is told what does not.

    Raises:
        InputError: a method that was asked for by its name does not apply.
    """
    from prunerzero.pruning.pruner import plan_sparsities

    found: dict[str, Methods] = {}
    for pattern in patterns:
        mine = found.setdefault(str(pattern), [])
        for name, recipe in methods:
            try:
                plan_sparsities(blocks, recipe, pattern)
            except InputError as error:
                if not everything:
                    raise
                note(f"{name} is left out at {pattern}: {error}")
            else:
                mine.append((name, recipe))
    return found
