"""Our strategy: gradient descent on exponents and allocation, genetic programming on formulas."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from prunerzero import zoo
from prunerzero.evolution import variation
from prunerzero.evolution.descent import Descent
from prunerzero.evolution.genome import Genome
from prunerzero.evolution.grammar import DEFAULT, Grammar
from prunerzero.evolution.guidance import Guidance, Guide
from prunerzero.evolution.population import Individual, Population
from prunerzero.evolution.strategies import Outcome, Proposal, Question, Strategy, bare
from prunerzero.evolution.updating import SEEDS as UPDATE_SEEDS
from prunerzero.evolution.updating import start
from prunerzero.metric import Metric
from prunerzero.pruning.allocation import MatrixShape
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import FAMILIES, Group, Recipe
from prunerzero.updates.names import Update

# Products of powers, and sums that favour F where it is large: what the published metrics have in
# common. Exponents and coefficients are starting points.
SEEDS = (
    "W * A * F ** 0.25",
    "W * sqrt(A * F)",
    "W * A / sqrt(colmean(W))",
    "coln(W) * A",
    "coln(W) * sqrt(A)",
    "W * (A + 100 * F)",
    "W * (A + 1000 * F)",
    "W * sqrt(A) * (W * A ** 2 + 10 * F)",
)


class DefaultStrategy(Strategy):
    """Alternates between descents and bursts of children.

    It starts from Wanda, the rest of the zoo, the user's guesses, products of powers and a few
    random trees. A descent takes a few steps down the measured derivatives (`guidance`) and
    proposes where it arrives; while that makes a new incumbent, another follows. Then a burst of
    children varies the base formula by genetic programming. Children inherit the exponents and the
    allocation that the descent has reached, or no other formula could win. Some are bred from
    single formulas alone, for the best of these is a result too.

    Asked ahead, it makes children while the answers of a descent are out; they count for the burst
    that follows.

    Args:
        seed: seed of everything random here.
        guesses: the user's own recipes; where the result shall be one formula, each of theirs is
            tried by itself.
        shapes: the model's prunable matrices.
        families: the family of every kind of matrix.
        guide: measures the derivatives at a recipe.
        pattern: what may be zero.
        formula_only: the result shall be one formula under uniform allocation.
        mixture: the model is a mixture of experts.
        update: what happens to the kept weights of every candidate.
        grammar: what random trees and mutations are made of.
    """

    POPULATION = 40
    RANDOM_TREES = 4
    STEPS = 4  # of one descent
    CHILDREN = 12  # of one burst
    UPDATED_CHILDREN = 4  # where each costs an update
    ALONE = 0.25  # share of children that are single formulas
    # A descent that arrives this much above the incumbent (log ratio) has lost its way.
    ASTRAY = 0.03

    def __init__(
        self,
        seed: int,
        guesses: Sequence[Recipe],
        shapes: Sequence[MatrixShape],
        families: Mapping[str, str],
        guide: Guide,
        pattern: Pattern,
        *,
        formula_only: bool = False,
        mixture: bool = False,
        update: Update = "none",
        grammar: Grammar = DEFAULT,
    ) -> None:
        self._grammar = grammar
        self._update = update
        self._random = Random(seed)
        self._families = families
        self._guide = guide
        self._formula_only = formula_only
        self._mixture = mixture
        self._spread = None if pattern.is_nm or formula_only else pattern
        self._population = Population(self.POPULATION)
        self._alone = Population(self.POPULATION)  # those that are one formula and nothing else
        self._genomes: dict[int, Genome] = {}
        self._incumbent: Individual | None = None
        self._point: Genome | None = None  # where the descent stands
        self._descent = Descent(shapes, tied=formula_only, spread=self._spread)
        self._children_left = 0
        self._children_ahead = 0  # made during the present descent
        self._walker: Genome | None = None  # where a descent is that has not arrived yet
        self._steps_left = 0
        self._waiting = False  # for the answer to a question, or to the proposal of the arrival
        self._arrival: Proposal | None = None
        self._queue = deque(self._start(guesses))

    def ask(self) -> Proposal:
        """See `Strategy.ask`."""
        if self._arrival is not None:
            self.fail(self._arrival)  # nothing was told of it
        while isinstance(wanted := self.ask_ahead(), Question):
            self.answer(self._guide(wanted.recipe))
        return wanted

    def ask_ahead(self) -> Proposal | Question:
        """See `Strategy.ask_ahead`."""
        if self._queue:
            genome, origin = self._queue.popleft()
            return self._proposal(genome, origin)
        if self._incumbent is None:
            return self._proposal(self._fresh(), "random")
        if self._walker is None:
            if self._children_left:
                self._children_left -= 1
                return self._vary(self._incumbent)
            self._walker = self._point or self._genomes[self._incumbent.id]
            self._steps_left, self._children_ahead = self.STEPS, 0
        if self._waiting:
            self._children_ahead += 1
            return self._vary(self._incumbent)
        self._waiting = True
        if self._steps_left:
            return Question(self._walker.recipe())
        self._point = self._walker
        self._arrival = self._proposal(self._walker, "descent", self._incumbent)
        return self._arrival

    def answer(self, guidance: Guidance | None) -> None:
        """See `Strategy.answer`."""
        assert self._walker is not None
        if guidance is not None:
            self._walker = self._descent.step(self._walker, guidance)
        self._steps_left -= 1
        self._waiting = False

    def tell(
        self, individual: Individual, outcome: Outcome, proposal: Proposal | None = None
    ) -> None:
        """See `Strategy.tell`."""
        genome = proposal.note if proposal else self._asked
        if outcome is not Outcome.KNOWN:
            self._genomes[individual.id] = genome
            self._population.add(individual)
            metric = genome.metric
            if isinstance(metric, Metric) and genome == self._genome(Recipe(metric=metric)):
                self._alone.add(individual)
        if outcome is Outcome.INCUMBENT:
            self._incumbent = individual
            self._point = genome
        if self._arrival is not None and (proposal is None or proposal is self._arrival):
            assert self._incumbent is not None
            behind = individual.fitness - self._incumbent.fitness
            self._end_descent(astray=behind > self.ASTRAY, again=outcome is Outcome.INCUMBENT)

    def fail(self, proposal: Proposal) -> None:
        """See `Strategy.fail`."""
        if proposal is self._arrival:
            self._end_descent(astray=True)

    def _end_descent(self, *, astray: bool, again: bool = False) -> None:
        self._walker = self._arrival = None
        self._waiting = False
        if astray:
            self._point = None
        if not again:
            dear = self._update != "none"
            burst = self.UPDATED_CHILDREN if dear else self.CHILDREN
            self._children_left = max(0, burst - self._children_ahead)

    def _start(self, guesses: Sequence[Recipe]) -> list[tuple[Genome, str]]:
        # The rival first: fitness is relative to the first candidate.
        known = [start(self._update)]
        seeds: Sequence[str] = UPDATE_SEEDS
        fresh = 0  # an update is dear
        if self._update == "none":
            published = zoo.published(mixture=self._mixture)
            known += [recipe for recipe in published if recipe.name != known[0].name]
            seeds, fresh = SEEDS, self.RANDOM_TREES
        if self._formula_only:
            guesses = [
                Recipe(metric=formula, group=guess.group)
                for guess in guesses
                for formula in guess.formulas.values()
            ]
        return [
            *((self._genome(bare(recipe)), "zoo") for recipe in known),
            *((self._genome(recipe), "guess") for recipe in guesses),
            *((self._genome(Recipe(metric=Metric.parse(text))), "seed") for text in seeds),
            *((self._fresh(), "random") for _ in range(fresh)),
        ]

    def _genome(self, recipe: Recipe) -> Genome:
        return replace(Genome.of(recipe, self._families), update=self._update)

    def _fresh(self) -> Genome:
        return self._genome(Recipe(metric=self._grammar.tree(self._random).simplify()))

    def _proposal(self, genome: Genome, origin: str, *parents: Individual) -> Proposal:
        self._asked = genome
        ids = tuple(sorted({parent.id for parent in parents}))
        return Proposal(genome.recipe(), origin, ids, genome)

    def _vary(self, incumbent: Individual) -> Proposal:
        random = self._random
        chance = random.random()
        if chance < 0.04:
            return self._proposal(self._fresh(), "random")
        if self._alone.members and random.random() < self.ALONE:
            first, second = (self._alone.tournament(random) for _ in range(2))
            return self._bred(self._genomes[first.id], None, first, second, chance)
        best = random.random() < 0.5
        first = incumbent if best else self._population.tournament(random)
        second = self._population.tournament(random)
        donor = self._point or self._genomes[incumbent.id]
        if random.random() < 0.2:
            donor = self._genomes[first.id]
        if chance < 0.08 and self._spread is not None:
            group: Group = "matrix" if donor.group == "row" else "row"
            return self._proposal(replace(donor, group=group), "group", first)
        family = None if self._formula_only or random.random() < 0.6 else random.choice(FAMILIES)
        if family not in self._families.values():
            family = None
        return self._bred(donor, family, first, second, chance)

    def _bred(
        self,
        donor: Genome,
        family: str | None,
        first: Individual,
        second: Individual,
        chance: float,
    ) -> Proposal:
        """The donor with a formula bred from two individuals' in one family, or in all."""
        child, origin = self._changed(
            self._formula(first, family), self._formula(second, family), chance
        )
        child = child.simplify()
        if not child.shape.spans_columns:
            return self._proposal(self._fresh(), "random")
        parents = (first, second) if origin == "crossover" else (first,)
        return self._proposal(donor.with_formula(child, family), origin, *parents)

    def _formula(self, individual: Individual, family: str | None) -> Metric:
        genome = self._genomes[individual.id]
        kinds = [kind for kind, of in self._families.items() if family in (None, of)]
        return genome.formula_for(kinds[0])

    def _changed(self, formula: Metric, other: Metric, chance: float) -> tuple[Metric, str]:
        random = self._random
        if chance < 0.25:
            return variation.crossover(formula, other, random), "crossover"
        if chance < 0.45:
            return variation.mutate_constant(formula, random), "constant"
        if chance < 0.55:
            return variation.mutate_node(formula, self._grammar, random), "mutation"
        if chance < 0.65:
            return variation.mutate_subtree(formula, self._grammar, random), "mutation"
        if chance < 0.95:
            return variation.insert_factor(formula, self._grammar, random), "factor"
        return variation.shrink(formula, random), "shrink"
