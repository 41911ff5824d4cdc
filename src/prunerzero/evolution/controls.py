"""What the default search is compared with: random search, and a search of allocations alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from prunerzero.errors import InputError
from prunerzero.evolution.genome import Genome
from prunerzero.evolution.grammar import DEFAULT, Grammar
from prunerzero.evolution.population import Individual
from prunerzero.evolution.strategies import Outcome, PaperStrategy, Proposal, Strategy, bare
from prunerzero.pruning.allocation import CurvesAllocation, MatrixShape
from prunerzero.recipe import Recipe


class RandomStrategy(Strategy):
    """Wanda, then nothing but fresh random trees, each under a random allocation if that is free.

    Args:
        seed: seed of everything random here.
        shapes: the model's prunable matrices.
        allocate: the pattern leaves the sparsity of single matrices free.
        grammar: what trees are made of.
    """

    KNOTS = 4
    SPREAD = 0.06  # of the offsets, as wide as what searches find

    def __init__(
        self,
        seed: int,
        shapes: Sequence[MatrixShape],
        *,
        allocate: bool,
        grammar: Grammar = DEFAULT,
    ) -> None:
        self._grammar = grammar
        self._random = Random(seed)
        self._kinds = list(dict.fromkeys(shape.kind for shape in shapes))
        self._allocate = allocate
        self._begun = False

    def ask(self) -> Proposal:
        """See `Strategy.ask`."""
        if not self._begun:
            self._begun = True
            return Proposal(bare(Recipe.named("wanda")), "zoo")
        recipe = Recipe(metric=self._grammar.tree(self._random).simplify())
        if self._allocate and self._random.random() < 0.5:
            curves = {
                kind: tuple(
                    round(self._random.gauss(0.0, self.SPREAD), 4) for _ in range(self.KNOTS)
                )
                for kind in self._kinds
            }
            recipe = recipe.model_copy(update={"allocation": CurvesAllocation(curves=curves)})
        return Proposal(recipe, "random")

    def tell(
        self, individual: Individual, outcome: Outcome, proposal: Proposal | None = None
    ) -> None:
        """See `Strategy.tell`; chance learns nothing."""


class PaperRandomStrategy(PaperStrategy):
    """Nothing but random trees of the paper's space, to compare `PaperStrategy` with.

    Of one seed both begin with the same trees, as many as the population holds.
    """

    def ask(self) -> Proposal:
        """See `Strategy.ask`."""
        return self.fresh()


STEP = 0.05  # what a trade moves, as a share of a matrix
MOST_PAIRS = 3


def traded(allocation: CurvesAllocation, random: Random) -> CurvesAllocation:
    """A child in the manner of EvoPress: pairs of matrices of one kind trade sparsity.

    Args:
        allocation: the parent, with a value for every block.
        random: source of chance.

    Returns:
        The parent with one to three trades, mostly one: of two blocks' matrices of one kind one
        becomes sparser and the other as much denser, so that the total stays.
    """
    curves = {kind: list(knots) for kind, knots in allocation.curves.items()}
    pairs = min(random.randint(1, MOST_PAIRS) for _ in range(2))
    for _ in range(pairs):
        knots = curves[random.choice(list(curves))]
        sparser, denser = random.sample(range(len(knots)), 2)
        knots[sparser] = round(knots[sparser] + STEP, 4)
        knots[denser] = round(knots[denser] - STEP, 4)
    return CurvesAllocation(curves={kind: tuple(knots) for kind, knots in curves.items()})


class EvoPressStrategy(Strategy):
    """Wanda's formula under an evolved allocation, in the manner of EvoPress (arXiv 2410.14649).

    A child is the best allocation so far with one to three trades (`traded`). The selection in
    several steps is the judge's: few tokens for all children, more and fresh ones for those that
    may beat the parent.

    Args:
        seed: seed of everything random here.
        shapes: the model's prunable matrices.
    """

    def __init__(
        self, seed: int, shapes: Sequence[MatrixShape], families: Mapping[str, str]
    ) -> None:
        self._random = Random(seed)
        blocks = shapes[0].blocks
        if blocks < 2:
            raise InputError("preset 'evopress': a model of one block has no pairs to trade")
        kinds = dict.fromkeys(shape.kind for shape in shapes)
        wanda = Genome.of(bare(Recipe.named("wanda")), families)
        flat = CurvesAllocation(curves=dict.fromkeys(kinds, (0.0,) * blocks))
        self._parent = replace(wanda, allocation=flat)
        self._best: int | None = None

    def ask(self) -> Proposal:
        """See `Strategy.ask`."""
        if self._best is None:
            self._asked = self._parent
            return Proposal(bare(Recipe.named("wanda")), "zoo", note=self._asked)
        assert isinstance(self._parent.allocation, CurvesAllocation)
        allocation = traded(self._parent.allocation, self._random)
        self._asked = replace(self._parent, allocation=allocation)
        return Proposal(self._asked.recipe(), "swap", (self._best,), self._asked)

    def tell(
        self, individual: Individual, outcome: Outcome, proposal: Proposal | None = None
    ) -> None:
        """See `Strategy.tell`."""
        if outcome is Outcome.INCUMBENT:
            self._parent = proposal.note if proposal else self._asked
            self._best = individual.id
