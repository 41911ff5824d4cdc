"""What is tried next, and the published algorithm (`PaperStrategy`).

Ours is `prunerzero.evolution.default.DefaultStrategy`; what it is compared with is in `controls`.

A strategy is deterministic in its seed and in what it is told, so a search that goes on asks the
same questions again and finds the answers in the study.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import TYPE_CHECKING, Any

from prunerzero.evolution import variation
from prunerzero.evolution.grammar import PAPER
from prunerzero.evolution.population import Individual, Population
from prunerzero.evolution.settings import PAPER_POPULATION
from prunerzero.metric import Metric
from prunerzero.recipe import Recipe

if TYPE_CHECKING:
    from prunerzero.evolution.guidance import Guidance


@dataclass(frozen=True)
class Proposal:
    """A recipe to try, how it came about, and the candidates that it descends from.

    Attributes:
        recipe: what to prune by.
        origin: how it came about.
        parents: the candidates that it descends from.
        note: the strategy's own, for when it is told of this proposal while others are out.
    """

    recipe: Recipe
    origin: str
    parents: tuple[int, ...] = ()
    note: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Question:
    """A recipe at which a strategy wants to know the derivatives."""

    recipe: Recipe


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
    def tell(
        self, individual: Individual, outcome: Outcome, proposal: Proposal | None = None
    ) -> None:
        """Takes note of a candidate and its fitness.

        Args:
            individual: the candidate.
            outcome: what became of the proposal.
            proposal: which one, where several are out at once; None for the last one.
        """

    # Several at once

    def ask_ahead(self) -> Proposal | Question:
        """What to do next while the answers to earlier proposals and questions are still out."""
        return self.ask()

    def answer(self, guidance: Guidance | None) -> None:
        """Takes note of the derivatives that it asked for; None if they cannot be measured."""
        raise NotImplementedError

    def fail(self, proposal: Proposal) -> None:  # noqa: B027  most need not know
        """Takes note that nothing will be told of a proposal: it could not be measured."""


class PaperStrategy(Strategy):
    """Pruner-Zero's search as published (arXiv 2406.02924, section 3 and appendix).

    Population 50; then steady state, one child an iteration: two parents from the best 10 of a
    random sample, subtree crossover, node mutation with probability 0.5, opposing operations
    removed; a child equal to a parent becomes a fresh tree; the worst individual leaves. The size
    of the sample is not published; ours is half the population.

    Args:
        seed: seed of everything random here.
        population: its size.
        simplified: remove opposing operations; without, trees stay as they come.
    """

    SAMPLE_SHARE = 0.5
    PARENTS = 10
    MUTATION_PROBABILITY = 0.5

    def __init__(
        self, seed: int, population: int = PAPER_POPULATION, *, simplified: bool = True
    ) -> None:
        self._random = Random(seed)
        self._population = Population(population)
        self._simplified = simplified

    @property
    def members(self) -> Sequence[Individual]:
        """The population; a proposal equal to a known candidate is in it as that candidate."""
        return self._population.members

    def ask(self) -> Proposal:
        """See `Strategy.ask`."""
        if len(self._population.members) < self._population.capacity:
            return self.fresh()
        pool = self._population.best_of_sample(self._random, self.SAMPLE_SHARE, self.PARENTS)
        first, second = self._random.sample(pool, 2)
        parents = [first_formula(first.recipe), first_formula(second.recipe)]
        child = variation.crossover(parents[0], parents[1], self._random)
        if self._random.random() < self.MUTATION_PROBABILITY:
            child = variation.mutate_node(child, PAPER, self._random)
        child = self._as_kept(child)
        if child in parents or not child.shape.spans_columns:
            return self.fresh()
        return Proposal(Recipe(metric=child), "crossover", (first.id, second.id))

    def tell(
        self, individual: Individual, _outcome: Outcome, _proposal: Proposal | None = None
    ) -> None:
        """See `Strategy.tell`; the published algorithm does not tell duplicates apart."""
        self._population.add(individual)

    def fresh(self) -> Proposal:
        """A random tree of the paper's space."""
        while True:
            tree = self._as_kept(PAPER.tree(self._random))
            if tree.shape.spans_columns:
                return Proposal(Recipe(metric=tree), "random")

    def _as_kept(self, tree: Metric) -> Metric:
        return tree.simplify(mode="paper") if self._simplified else tree


def bare(recipe: Recipe) -> Recipe:
    """What of a recipe decides masks, without its name and history."""
    return Recipe(
        metric=recipe.metric,
        group=recipe.group,
        allocation=recipe.allocation,
        update=recipe.update,
    )


def first_formula(recipe: Recipe) -> Metric:
    """The recipe's formula; of several the first."""
    return next(iter(recipe.formulas.values()))
