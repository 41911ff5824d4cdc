"""The methods of a comparison: from what the user names to recipes that fit the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prunerzero.cli.common import note, split_list
from prunerzero.errors import InputError

if TYPE_CHECKING:
    from prunerzero.evaluation.comparison import Comparison
    from prunerzero.evaluation.trials import Trial
    from prunerzero.models.blocks import Block
    from prunerzero.pruning.pattern import Pattern
    from prunerzero.recipe import Recipe

ALL = "all"
FIRST = "wanda"  # of all: the others are read against it

EVOLVED = "evolved"
ALLOCATIONS = ("uniform", "owl", EVOLVED)


@dataclass(frozen=True)
class Method:
    """A recipe under the name that the user gave it.

    Attributes:
        name: the name.
        recipe: what it prunes by.
        allocation: what the user calls its allocation.
        evolve: seconds to evolve the allocation in, once the model is there; None takes the
            recipe's.
    """

    name: str
    recipe: Recipe
    allocation: str
    evolve: float | None = None

    @classmethod
    def of(cls, name: str, recipe: Recipe) -> Method:
        """A recipe with its own allocation."""
        return cls(name, recipe, recipe.allocation.name)

    def under(self, allocation: str, budget: str) -> Method:
        """The same under another allocation.

        Args:
            allocation: one of `ALLOCATIONS`, or a recipe (a name, or a JSON file) whose is taken.
            budget: the time to evolve one.

        Raises:
            InputError: it is none of these, or the time is none.
        """
        from prunerzero.evolution.settings import Budget
        from prunerzero.pruning.allocation import OwlAllocation, UniformAllocation
        from prunerzero.recipe import Recipe

        seconds, label = None, allocation
        if allocation == "owl":
            chosen: Any = OwlAllocation()
        elif allocation in ("uniform", EVOLVED):
            chosen = UniformAllocation()
            seconds = Budget.parse(budget).seconds if allocation == EVOLVED else None
        else:
            try:
                chosen = Recipe.from_text(allocation).allocation
            except InputError as error:
                raise InputError(
                    f"allocation '{allocation}': not one of {', '.join(ALLOCATIONS)}, and no "
                    f"recipe to take it from ({error})"
                ) from None
            label = f"of {allocation}"
        if seconds is not None and self.recipe.group == "model":
            raise InputError("group 'model': sets the allocation, so none can be evolved under it")
        return replace(
            self, recipe=self.recipe.with_allocation(chosen), allocation=label, evolve=seconds
        )


Methods = list[Method]


def methods_of(
    metrics: str,
    group: str | None,
    update: str | None,
    allocation: str | None = None,
    budget: str = "2m",
) -> Methods:
    """The recipes behind ``--metrics``, once for each of ``--update`` and ``--allocation``.

    Raises:
        InputError: one of them is wrong.
    """
    from prunerzero import zoo
    from prunerzero.recipe import Recipe

    everything = metrics.strip() == ALL
    names = (
        sorted(zoo.names(), key=lambda name: name != FIRST) if everything else split_list(metrics)
    )
    chosen = [Method.of(name, Recipe.from_text(name, group)) for name in names]
    if update is not None:
        updates = split_list(update)
        chosen = [
            replace(one, recipe=one.recipe.with_update(each)) for one in chosen for each in updates
        ]
    if allocation is not None:
        allocations = split_list(allocation)
        chosen = [one.under(each, budget) for one in chosen for each in allocations]
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
    from prunerzero.pruning.pruner import check_plan

    found: dict[str, Methods] = {}
    for pattern in patterns:
        mine = found.setdefault(str(pattern), [])
        for method in methods:
            try:
                check_plan(blocks, method.recipe, pattern)
                if method.evolve is not None and pattern.is_nm:
                    raise InputError(
                        f"allocation '{EVOLVED}': {pattern} fixes every matrix's sparsity"
                    )
            except InputError as error:
                if not everything:
                    raise
                note(f"{method.name} is left out at {pattern}: {error}")
            else:
                mine.append(method)
    return found


def allocator(tokenizer: Any, sources: Sequence[str]) -> Callable[[Comparison, Trial, str], Recipe]:
    """What evolves the allocations of a comparison's trials.

    Args:
        tokenizer: the model's.
        sources: calibration texts; allocations are judged on their selection documents.

    Raises:
        InputError: a text is used whole, so nothing is left of it for that.
    """
    from prunerzero.data.sources import is_named

    for source in sources:
        if not is_named(source):
            raise InputError(
                f"allocation '{EVOLVED}': calibration '{source}' is used whole, so nothing is left "
                "to judge by; give a named text"
            )

    def allocate(comparison: Comparison, trial: Trial, label: str) -> Recipe:
        assert trial.evolve is not None
        return evolved_recipe(
            comparison,
            trial.recipe,
            trial.pattern,
            tokenizer,
            trial.calibration,
            trial.evolve,
            trial.seed,
            f"{label}: ",
        )

    return allocate


def evolved_recipe(
    comparison: Comparison,
    recipe: Recipe,
    pattern: Pattern,
    tokenizer: Any,
    source: str,
    seconds: float,
    seed: int,
    label: str = "",
) -> Recipe:
    """A recipe with an allocation evolved for it, on a text's selection documents.

    Args:
        comparison: the dense model and its calibration windows.
        recipe: any recipe.
        pattern: unstructured.
        tokenizer: the model's.
        source: the text's name.
        seconds: time to spend.
        seed: of windows and trades.
        label: how the names of its steps begin.

    Raises:
        InputError: as `prunerzero.evolution.allocating.evolve_allocation`.
    """
    from prunerzero.evolution.allocating import evolve_allocation, selection_windows
    from prunerzero.pruning.planning import formula_terminals

    evolved = evolve_allocation(
        comparison.model,
        comparison.blocks,
        recipe,
        pattern,
        comparison.shared.dense(formula_terminals(recipe)),
        comparison.compute,
        selection_windows(source, tokenizer, seed),
        seconds=seconds,
        seed=seed,
        dense=comparison.dense,
        report=lambda step, done, total: comparison.report(f"{label}{step}", done, total),
    )
    return recipe.model_copy(
        update={"allocation": evolved.allocation, "provenance": evolved.provenance_of(recipe)}
    )
