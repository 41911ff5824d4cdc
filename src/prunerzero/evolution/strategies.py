"""What is tried next. `PaperStrategy` is the published algorithm, `DefaultStrategy` ours.

A strategy is deterministic in its seed and in what it is told, so a search that goes on asks the
same questions again and finds the answers in the study.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random

from prunerzero import zoo
from prunerzero.evolution import allocating, variation
from prunerzero.evolution.grammar import DEFAULT, PAPER
from prunerzero.evolution.population import Individual, Population
from prunerzero.evolution.settings import PAPER_POPULATION
from prunerzero.metric import Metric
from prunerzero.pruning.allocation import MatrixShape
from prunerzero.recipe import Recipe

# Marginal cost of sparsity by matrix name, measured at a recipe (see `guidance`).
Guide = Callable[[Recipe], Mapping[str, float]]


@dataclass(frozen=True)
class Proposal:
    """A recipe to try, how it came about, and the candidates that it descends from."""

    recipe: Recipe
    origin: str
    parents: tuple[int, ...] = ()


class Outcome(Enum):
    """What became of a proposal."""

    MEASURED = "measured"
    INCUMBENT = "measured, and the one to beat now"
    KNOWN = "equal to one measured before, which is told instead"


class Strategy(ABC):
    """Asks for candidates and is told how they did."""

    @abstractmethod
    def ask(self) -> Proposal:
        """The next candidate."""

    @abstractmethod
    def tell(self, individual: Individual, outcome: Outcome) -> None:
        """Takes note of a candidate and its fitness."""


class PaperStrategy(Strategy):
    """Pruner-Zero's search as published (arXiv 2406.02924, section 3 and appendix).

    Population 50; then steady state, one child an iteration: two parents from the best 10 of a
    random sample, subtree crossover, node mutation with probability 0.5, opposing operations
    removed; a child equal to a parent becomes a fresh tree; the worst individual leaves. The size
    of the sample is not published; ours is half the population.
    """

    SAMPLE_SHARE = 0.5
    PARENTS = 10
    MUTATION_PROBABILITY = 0.5

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._population = Population(PAPER_POPULATION)

    def ask(self) -> Proposal:
        """See `Strategy.ask`."""
        if len(self._population.members) < PAPER_POPULATION:
            return self._fresh()
        pool = self._population.best_of_sample(self._random, self.SAMPLE_SHARE, self.PARENTS)
        first, second = self._random.sample(pool, 2)
        parents = [_formula(first.recipe), _formula(second.recipe)]
        child = variation.crossover(parents[0], parents[1], self._random)
        if self._random.random() < self.MUTATION_PROBABILITY:
            child = variation.mutate_node(child, PAPER, self._random)
        child = child.simplify(mode="paper")
        if child in parents or not child.shape.spans_columns:
            return self._fresh()
        return Proposal(Recipe(metric=child), "crossover", (first.id, second.id))

    def tell(self, individual: Individual, _outcome: Outcome) -> None:
        """See `Strategy.tell`; the published algorithm does not tell duplicates apart."""
        self._population.add(individual)

    def _fresh(self) -> Proposal:
        while True:
            tree = PAPER.tree(self._random).simplify(mode="paper")
            if tree.shape.spans_columns:
                return Proposal(Recipe(metric=tree), "random")


# Products of powers: what the published metrics have in common. The exponents are starting points.
SEEDS = (
    "W * A * F ** 0.25",
    "W * sqrt(A * F)",
    "W * sqrt(A)",
    "W * A * sqrt(coln(F))",
    "W * (rown(F) + coln(F)) ** 0.5 * A",
    "W * A / sqrt(colmean(W))",
    "W * A * sqrt(rown(W))",
    "W * F",
)


class DefaultStrategy(Strategy):
    """Steady-state evolution of recipes, helped by a measured gradient of the allocation.

    It starts from the user's guesses, the zoo, products of powers and a few random trees. Then each
    child changes the formula, the allocation, or both at once, mostly from the incumbent or a
    tournament's winner. Where the pattern leaves sparsities free, every new incumbent's marginal
    costs are measured (`guidance`), and the next candidates step down that gradient.

    Args:
        seed: seed of everything random here.
        guesses: the user's own recipes.
        shapes: the model's prunable matrices.
        guide: measures marginal costs at a recipe; None where the allocation is fixed.
    """

    POPULATION = 40
    RANDOM_TREES = 4
    STEPS = (0.06, 0.03)
    MEMORY = 0.5  # weight of earlier marginal costs against the latest
    GUIDE_EVERY = 12

    def __init__(
        self,
        seed: int,
        guesses: Sequence[Recipe],
        shapes: Sequence[MatrixShape],
        guide: Guide | None,
    ) -> None:
        self._random = Random(seed)
        self._shapes = shapes
        self._guide = guide
        self._population = Population(self.POPULATION)
        self._incumbent: Individual | None = None
        self._costs: dict[str, float] = {}
        self._guided_from: Individual | None = None
        self._since_guide = 0
        self._queue = deque(self._start(guesses))

    def ask(self) -> Proposal:
        """See `Strategy.ask`."""
        if self._queue:
            return self._queue.popleft()
        if self._incumbent is None:
            return self._fresh()
        if self._guide is not None:
            if self._incumbent is not self._guided_from or self._since_guide >= self.GUIDE_EVERY:
                self._queue.extend(self._guided(self._incumbent))
                return self._queue.popleft()
            self._since_guide += 1
        return self._vary()

    def tell(self, individual: Individual, outcome: Outcome) -> None:
        """See `Strategy.tell`."""
        if outcome is Outcome.KNOWN:
            return
        self._population.add(individual)
        if outcome is Outcome.INCUMBENT:
            self._incumbent = individual
            # Steps from the old incumbent would lead away from the new one.
            self._queue = deque(p for p in self._queue if p.origin != "gradient")

    def _start(self, guesses: Sequence[Recipe]) -> list[Proposal]:
        # Wanda first: fitness is relative to the first candidate.
        known = [Recipe.named("wanda"), *(r for r in zoo.entries() if r.name != "wanda")]
        return [
            *(Proposal(_bare(recipe), "zoo") for recipe in known),
            *(Proposal(recipe, "guess") for recipe in guesses),
            *(Proposal(Recipe(metric=Metric.parse(text)), "seed") for text in SEEDS),
            *(self._fresh() for _ in range(self.RANDOM_TREES)),
        ]

    def _fresh(self) -> Proposal:
        return Proposal(Recipe(metric=DEFAULT.tree(self._random).simplify()), "random")

    def _guided(self, incumbent: Individual) -> list[Proposal]:
        assert self._guide is not None
        latest = self._guide(incumbent.recipe)
        earlier = self._costs or latest
        self._costs = {
            name: self.MEMORY * earlier[name] + (1 - self.MEMORY) * cost
            for name, cost in latest.items()
        }
        self._guided_from = incumbent
        self._since_guide = 0
        parameters = allocating.parameters_of(incumbent.recipe.allocation, self._shapes)
        moved = [
            allocating.descend(parameters, self._costs, self._shapes, step) for step in self.STEPS
        ]
        return [
            Proposal(self._with(incumbent.recipe, numbers), "gradient", (incumbent.id,))
            for numbers in moved
        ]

    def _vary(self) -> Proposal:
        assert self._incumbent is not None
        random = self._random
        chance = random.random()
        if chance < 0.03:
            return self._fresh()
        first = self._incumbent if random.random() < 0.5 else self._population.tournament(random)
        second = self._population.tournament(random)
        if self._guide is not None and chance < 0.20:
            return self._vary_allocation(first, second)
        formula, other = _formula(first.recipe), _formula(second.recipe)
        if chance < 0.40:
            child, origin = variation.crossover(formula, other, random), "crossover"
        elif chance < 0.65:
            child, origin = variation.mutate_constant(formula, random), "constant"
        elif chance < 0.75:
            child, origin = variation.mutate_node(formula, DEFAULT, random), "mutation"
        elif chance < 0.85:
            child, origin = variation.mutate_subtree(formula, DEFAULT, random), "mutation"
        elif chance < 0.95:
            child, origin = variation.insert_factor(formula, DEFAULT, random), "factor"
        else:
            child, origin = variation.shrink(formula, random), "shrink"
        child = child.simplify()
        if not child.shape.spans_columns:
            return self._fresh()
        # A formula is judged under the best allocation known, or it could not win.
        donor = self._incumbent.recipe if random.random() < 0.8 else first.recipe
        group = first.recipe.group
        recipe = Recipe(metric=child, group=group, allocation=donor.allocation)
        return Proposal(recipe, origin, tuple(sorted({first.id, second.id})))

    def _vary_allocation(self, first: Individual, second: Individual) -> Proposal:
        random = self._random
        own = allocating.parameters_of(first.recipe.allocation, self._shapes)
        if random.random() < 0.3 and second.id != first.id:
            other = allocating.parameters_of(second.recipe.allocation, self._shapes)
            recipe = self._with(first.recipe, allocating.blend(own, other, random))
            return Proposal(recipe, "allocation", tuple(sorted({first.id, second.id})))
        recipe = self._with(first.recipe, allocating.random_step(own, random))
        if random.random() < 0.1:
            recipe = recipe.with_group("matrix" if recipe.group == "row" else "row")
        return Proposal(recipe, "allocation", (first.id,))

    def _with(self, recipe: Recipe, parameters: allocating.Parameters) -> Recipe:
        return recipe.model_copy(update={"allocation": allocating.allocation_from(parameters)})


def _bare(recipe: Recipe) -> Recipe:
    """What of a recipe decides masks, without its name and history."""
    return Recipe(
        metric=recipe.metric,
        group=recipe.group,
        allocation=recipe.allocation,
        update=recipe.update,
    )


def _formula(recipe: Recipe) -> Metric:
    """The recipe's formula; of several the first."""
    return next(iter(recipe.formulas.values()))
