"""What ``prunerzero prune`` settles before it prunes: the recipe, measured or evolved at need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prunerzero.cli.common import note
from prunerzero.cli.methods import EVOLVED, Method, evolved_recipe
from prunerzero.errors import InputError

if TYPE_CHECKING:
    from prunerzero.data.windows import Windows
    from prunerzero.pruning.pattern import Pattern
    from prunerzero.recipe import Recipe

AUTO = "auto"


@dataclass
class Preparation:
    """How the recipe of a run comes about.

    Attributes:
        methods: the recipe, or those that one is chosen among.
        pattern: the run's.
        budget: seconds to choose in; None if there is nothing to choose.
        choice: what was chosen and why, once it is.
    """

    methods: list[Method]
    pattern: Pattern
    budget: float | None = None
    choice: dict[str, Any] | None = None

    @classmethod
    def of(
        cls,
        metric: str | None,
        recipe: str | None,
        group: str | None,
        update: str | None,
        allocation: str | None,
        allocation_budget: str,
        budget: str,
        pattern: Pattern,
    ) -> Preparation:
        """Reads the options of `prune`, before torch is loaded.

        Raises:
            InputError: one of them is wrong, or they do not go together.
        """
        from prunerzero import zoo
        from prunerzero.evolution.settings import Budget
        from prunerzero.recipe import Recipe

        if (metric is None) == (recipe is None):
            raise InputError(
                "give either --metric (a name, an expression or a JSON file) or --recipe FILE"
            )
        auto = metric is not None and metric.strip().lower() == AUTO
        if auto:
            chosen = [Method.of(name, zoo.load(name)) for name in zoo.names()]
        elif metric is not None:
            chosen = [Method.of(metric, Recipe.from_text(metric))]
        else:
            chosen = [Method.of(str(recipe), Recipe.load(str(recipe)))]
        if group:
            chosen = [replace(one, recipe=one.recipe.with_group(group)) for one in chosen]
        if update:
            chosen = [replace(one, recipe=one.recipe.with_update(update)) for one in chosen]
        if allocation:
            chosen = [one.under(allocation, allocation_budget) for one in chosen]
        if allocation == EVOLVED and pattern.is_nm:
            raise InputError(f"allocation '{EVOLVED}': {pattern} fixes every matrix's sparsity")
        return cls(chosen, pattern, Budget.parse(budget).seconds if auto else None)

    def streamed(self) -> Recipe:
        """The recipe where the model is streamed.

        Raises:
            InputError: it takes the whole model in memory to find it.
        """
        [method, *others] = self.methods
        if others:
            raise InputError(
                f"metric '{AUTO}': measures recipes on the whole model in memory; load it whole "
                "(--no-stream), or compare and name one"
            )
        if method.evolve is not None:
            raise InputError(
                f"allocation '{EVOLVED}': takes the whole model in memory (--no-stream); or search "
                "with --stream and prune by what it finds"
            )
        return method.recipe

    def recipe_for(self, model: Any, tokenizer: Any, options: dict[str, Any]) -> Recipe:
        """The recipe for a loaded model, which stays dense.

        Args:
            model: the model.
            tokenizer: its tokenizer.
            options: those of `prunerzero.prune`; where text is needed to judge by, its calibration
                documents are told from the others here, and drawn.

        Raises:
            InputError: none applies.
        """
        from prunerzero.data.documents import Split
        from prunerzero.data.sources import load_documents
        from prunerzero.data.windows import check_length, sample_windows
        from prunerzero.evaluation.automatic import VALIDATION_WINDOWS
        from prunerzero.evaluation.comparison import Comparison
        from prunerzero.models.blocks import find_blocks
        from prunerzero.models.compute import compute_for
        from prunerzero.models.loading import context_limit

        method = self.methods[0]
        if self.budget is None and method.evolve is None:
            return method.recipe
        model.eval()
        source, seed, length = (options[key] for key in ("calibration", "seed", "sequence_length"))
        check_length(length, context_limit(model))
        documents = load_documents(source)
        windows = sample_windows(
            documents, tokenizer, Split.CALIBRATION, options["samples"], length, seed
        )
        options["calibration"] = windows
        comparison = Comparison(
            model,
            find_blocks(model, options["selection"]),
            windows.tokens,
            compute_for(model, options["dtype"]),
            sequential=options["sequential"],
            report=options["report"],
        )
        if self.budget is not None:
            validation = sample_windows(
                documents, tokenizer, Split.VALIDATION, VALIDATION_WINDOWS, length, seed
            )
            method = self._chosen(comparison, validation)
        if method.evolve is None:
            return method.recipe
        note(f"evolving the allocation for {method.evolve:.0f} s")
        return evolved_recipe(
            comparison, method.recipe, self.pattern, tokenizer, source, method.evolve, seed
        )

    def foretell(self, model: Any, recipe: Recipe, options: dict[str, Any]) -> None:
        """Says what pruning a loaded model will take, if that is worth saying."""
        from prunerzero.data.windows import Windows
        from prunerzero.evaluation.estimate import WORTH_SAYING, cost_of_pruning
        from prunerzero.models.blocks import find_blocks
        from prunerzero.models.compute import compute_for
        from prunerzero.models.loading import context_limit
        from prunerzero.pruning.planning import needs_data
        from prunerzero.pruning.pruner import check_plan

        model.eval()
        blocks = find_blocks(model, options["selection"])
        check_plan(blocks, recipe, self.pattern)
        length, limit = options["sequence_length"], context_limit(model)
        if not needs_data(recipe, self.pattern) or (limit is not None and length > limit):
            return
        drawn = options["calibration"]
        cost = cost_of_pruning(
            model,
            blocks,
            recipe,
            compute_for(model, options["dtype"]),
            len(drawn) if isinstance(drawn, Windows) else options["samples"],
            length,
            sequential=options["sequential"],
        )
        if cost.seconds > WORTH_SAYING:
            note(f"pruning: {cost}")

    def _chosen(self, comparison: Any, windows: Windows) -> Method:
        from prunerzero.evaluation.automatic import choose
        from prunerzero.evaluation.estimate import duration
        from prunerzero.pruning.pruner import check_plan

        assert self.budget is not None
        candidates, left_out = [], {}
        for one in self.methods:
            try:
                check_plan(comparison.blocks, one.recipe, self.pattern)
                candidates.append((one.name, one.recipe))
            except InputError as error:
                left_out[one.name] = str(error)
        note(
            f"choosing among {len(candidates)} recipes on {len(windows)} validation windows of "
            f"{windows.source}, for at most {duration(self.budget)}"
        )
        choice = choose(
            comparison,
            candidates,
            self.pattern,
            windows,
            self.budget,
            left_out=left_out,
            tell=note,
        )
        for name, reason in choice.left_out.items():
            note(f"{name} is left out: {reason}")
        note(str(choice))
        self.choice = choice.to_json()
        [method] = [one for one in self.methods if one.name == choice.name]
        return replace(method, recipe=choice.recipe)
