import hashlib
from collections import Counter

import pytest

from prunerzero import zoo
from prunerzero.evolution.default import SEEDS, DefaultStrategy
from prunerzero.evolution.genome import FACTORS, Genome
from prunerzero.evolution.guidance import Guidance
from prunerzero.evolution.population import Individual
from prunerzero.evolution.strategies import Outcome
from prunerzero.metric import Metric
from prunerzero.pruning.allocation import CurvesAllocation, MatrixShape, UniformAllocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe

HALF, TWO_OF_FOUR = Pattern.parse("50%"), Pattern.parse("2:4")
BLOCKS = 4
FAMILIES = {"q_proj": "attention", "up_proj": "mlp"}
SHAPES = [
    MatrixShape(f"{block}.{kind}", kind, block, BLOCKS, 32, 32)
    for block in range(BLOCKS)
    for kind in FAMILIES
]
GUESS = Recipe.from_json(
    {"metric": "W * A ** 0.9", "allocation": {"name": "curves", "curves": {"q_proj": [0.1, -0.1]}}}
)
TWO = Recipe.from_json({"metric": {"attention": "W * A", "mlp": "W * F"}})
START = 5 + len(SEEDS) + DefaultStrategy.RANDOM_TREES
CHILDREN = {"crossover", "constant", "mutation", "factor", "shrink", "random", "group"}


def guide(_):
    """More A in attention, less in the rest; deep blocks cost more."""
    slopes = {kind: dict.fromkeys(FACTORS, 0.0) for kind in FAMILIES}
    slopes["q_proj"]["A"], slopes["up_proj"]["A"] = -1.0, 0.4
    return Guidance(0.5, {shape.name: 1.0 + shape.block for shape in SHAPES}, slopes)


def still(_):
    """No direction, so that a descent arrives where it began."""
    level = {kind: dict.fromkeys(FACTORS, 0.0) for kind in FAMILIES}
    return Guidance(0.5, {shape.name: 0.0 for shape in SHAPES}, level)


def default(seed=0, guesses=(), guide=guide, pattern=HALF, **more):
    return DefaultStrategy(seed, guesses, SHAPES, FAMILIES, guide, pattern, **more)


def chance(recipe):
    """A fitness out of nowhere, the same for the same recipe."""
    return int(hashlib.sha256(recipe.key(HALF).encode()).hexdigest()[:8], 16) / 2**32


class Driver:
    """Asks and tells, as the loop does.

    Fitness is a function of the recipe and the proposal's origin; None where the recipe cannot be
    measured.
    """

    def __init__(self, strategy, fitness=lambda recipe, origin: chance(recipe), pattern=HALF):
        self.strategy = strategy
        self.fitness = fitness
        self.pattern = pattern
        self.proposals = []
        self.known = {}
        self.best = None
        self.incumbents = []  # by step

    def run(self, steps):
        for _ in range(steps):
            self.step()
        return self.proposals

    def step(self):
        proposal = self.strategy.ask()
        self.proposals.append(proposal)
        key = proposal.recipe.key(self.pattern)
        if key in self.known:
            if self.known[key] is not None:
                self.strategy.tell(self.known[key], Outcome.KNOWN)
        else:
            self._measure(proposal, key)
        self.incumbents.append(self.best)
        return proposal

    def _measure(self, proposal, key):
        fitness = self.fitness(proposal.recipe, proposal.origin)
        if fitness is None:
            self.known[key] = None
            return
        size = sum(metric.size for metric in proposal.recipe.formulas.values())
        individual = Individual(len(self.known) + 1, proposal.recipe, fitness, size)
        self.known[key] = individual
        wins = self.best is None or fitness < self.best.fitness
        self.best = individual if wins else self.best
        self.strategy.tell(individual, Outcome.INCUMBENT if wins else Outcome.MEASURED)


def first_wins(_, origin):
    """Wanda is never beaten, but nothing is far behind."""
    return 0.01


def scripted(*descents, rest=0.01):
    """Fitness of each descent's recipe in turn, then ``rest``; the first candidate has 0."""
    left, others = iter(descents), iter([0.0])

    def fitness(_, origin):
        return next(left, rest) if origin == "descent" else next(others, 0.01)

    return fitness


def exponent_of_a(metric):
    """What a correction added to the exponent of A in Wanda's formula, 1."""
    head = "W * A ** "
    assert str(metric).startswith(head)
    return float(str(metric).removeprefix(head)) - 1


def origins(proposals):
    return [proposal.origin for proposal in proposals]


def test_it_is_deterministic_in_its_seed():
    first, again, other = (Driver(default(seed)).run(100) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("pattern", [HALF, TWO_OF_FOUR])
def test_every_proposal_can_rank(pattern):
    proposals = Driver(default(guesses=[TWO], pattern=pattern), pattern=pattern).run(200)
    for proposal in proposals:
        for metric in proposal.recipe.formulas.values():
            metric.check_rankable()
        assert Recipe.from_json(proposal.recipe.to_json()) == proposal.recipe
    assert set(origins(proposals)) >= CHILDREN - {"group"} | {"zoo", "guess", "seed", "descent"}


def test_it_starts_from_wanda_the_zoo_guesses_and_products():
    proposals = Driver(default(guesses=[GUESS, TWO]), first_wins).run(START + 2)
    assert origins(proposals) == [
        *["zoo"] * 5,
        *["guess"] * 2,
        *["seed"] * len(SEEDS),
        *["random"] * DefaultStrategy.RANDOM_TREES,
    ]
    names = ["wanda", *(recipe.name for recipe in zoo.published() if recipe.name != "wanda")]
    for name, proposal in zip(names, proposals, strict=False):
        assert proposal.recipe.key(HALF) == Recipe.named(name).key(HALF)
        assert not proposal.recipe.name
    assert [p.recipe for p in proposals[5:7]] == [GUESS, TWO]
    assert [p.recipe.metric for p in proposals[7:-4]] == [Metric.parse(text) for text in SEEDS]
    assert not any(proposal.parents for proposal in proposals)


def test_a_descent_takes_some_steps_from_the_incumbent_and_proposes_where_it_arrives():
    asked = []

    def watched(recipe):
        asked.append(recipe)
        return guide(recipe)

    driver = Driver(default(guide=watched), first_wins)
    driver.run(START)
    assert not asked  # gradients are gathered after the first candidate at the earliest
    descent = driver.step()
    assert (descent.origin, descent.parents) == ("descent", (driver.best.id,))
    assert len(asked) == DefaultStrategy.STEPS
    assert asked[0] == driver.best.recipe
    assert len({recipe.key(HALF) for recipe in [*asked, descent.recipe]}) == len(asked) + 1
    attention = [recipe.formulas["q_proj"] for recipe in [*asked[1:], descent.recipe]]
    mlp = [recipe.formulas["up_proj"] for recipe in [*asked[1:], descent.recipe]]
    exponents = list(map(exponent_of_a, attention))
    assert 0 < exponents[0] < 0.1 < 0.2 < exponents[-1] < 0.4
    assert exponents == sorted(exponents)
    assert list(map(exponent_of_a, mlp)) == pytest.approx([-e for e in exponents], abs=0.01)
    offsets = [descent.recipe.allocation.offset(shape) for shape in SHAPES]
    assert offsets == sorted(offsets, reverse=True)
    assert offsets[0] > 0.01 > -0.01 > offsets[-1]


def test_descents_follow_one_another_while_they_win_and_then_come_children():
    driver = Driver(default(), scripted(-0.1, -0.2, 0.0, -0.3, 0.02))
    driver.run(START)
    burst = DefaultStrategy.CHILDREN
    proposals = driver.run(3 + burst + 2 + burst)[START:]
    runs = [origin == "descent" for origin in origins(proposals)]
    assert runs == [True] * 3 + [False] * burst + [True] * 2 + [False] * burst
    assert set(origins(proposals)) - {"descent"} <= CHILDREN


def test_a_descent_goes_on_from_where_it_stands():
    asked = []

    def watched(recipe):
        asked.append(recipe)
        return guide(recipe)

    driver = Driver(default(guide=watched), scripted(-0.1, -0.09, -0.2))
    driver.run(START + 2)  # the second loses, but not by much
    second = driver.proposals[-1].recipe
    driver.run(DefaultStrategy.CHILDREN + 1)
    assert driver.proposals[-1].origin == "descent"
    assert asked[2 * DefaultStrategy.STEPS] == second
    assert second != driver.incumbents[-2].recipe


def test_a_descent_that_goes_astray_starts_again_from_the_incumbent():
    asked = []

    def watched(recipe):
        asked.append(recipe)
        return guide(recipe)

    driver = Driver(default(guide=watched), scripted(-0.1, 0.5))
    driver.run(START + 2)
    best = driver.best.recipe
    proposals = driver.run(DefaultStrategy.CHILDREN + 1)
    assert driver.best.recipe == best
    assert asked[2 * DefaultStrategy.STEPS] == best
    assert proposals[-1].parents == (driver.best.id,)


def test_a_descent_that_cannot_be_measured_does_not_stop_the_search():
    def fitness(_, origin):
        return None if origin == "descent" else first_wins(_, origin)

    asked = []

    def watched(recipe):
        asked.append(recipe)
        return guide(recipe)

    driver = Driver(default(guide=watched), fitness)
    proposals = driver.run(START + 3 * (DefaultStrategy.CHILDREN + 1))[START:]
    runs = [origin == "descent" for origin in origins(proposals)]
    assert runs == ([True] + [False] * DefaultStrategy.CHILDREN) * 3
    # Each starts from the incumbent again, not from where nothing can be measured.
    starts = asked[:: DefaultStrategy.STEPS]
    assert starts == [driver.incumbents[START].recipe] * 3


def test_a_descent_to_a_known_recipe_is_over():
    guess = Recipe.from_text("W * A")
    driver = Driver(
        default(guide=still, guesses=[guess]), lambda recipe, _: -float(recipe == guess)
    )
    proposals = driver.run(START + 2 + DefaultStrategy.CHILDREN)[START + 1 :]
    assert proposals[0].recipe.key(HALF) == driver.best.recipe.key(HALF) == guess.key(HALF)
    assert origins(proposals).count("descent") == 1


def test_some_children_are_single_formulas():
    driver = Driver(default(), scripted(-0.1, -0.2, -0.19, rest=-0.19))
    children = [p for p in driver.run(400)[START:] if p.origin not in ("descent", "random")]
    alone = [
        p.recipe
        for p in children
        if len(p.recipe.formulas) == 1 and p.recipe.allocation == UniformAllocation()
    ]
    assert 0.15 < len(alone) / len(children) < 0.4


def test_children_inherit_what_the_descent_has_reached(monkeypatch):
    monkeypatch.setattr(DefaultStrategy, "ALONE", 0.0)
    driver = Driver(default(), scripted(-0.1, -0.2, -0.19, rest=-0.19))
    driver.run(START + 3)
    allocation = driver.proposals[-1].recipe.allocation
    assert allocation != driver.best.recipe.allocation
    proposals = driver.run(12 * (DefaultStrategy.CHILDREN + 1))[START + 3 :]
    inherited, corrected, changed = 0, 0, 0
    for proposal in proposals:
        if proposal.origin == "descent":
            allocation = proposal.recipe.allocation
        elif proposal.origin not in ("random", "group"):
            changed += 1
            inherited += proposal.recipe.allocation == allocation
            corrected += len(proposal.recipe.formulas) == len(FAMILIES)
    assert changed > 100
    assert 0.7 < inherited / changed < 1  # some take that of their parent instead
    assert 0.7 < corrected / changed < 1


def test_children_descend_from_those_whose_formulas_they_have():
    driver = Driver(default())
    driver.run(250)
    known = {individual.id for individual in driver.known.values()}
    parents = Counter()
    for proposal in driver.proposals[START:]:
        assert known.issuperset(proposal.parents)
        expected = {"random": {0}, "crossover": {1, 2}}.get(proposal.origin, {1})
        assert len(proposal.parents) in expected
        parents.update(proposal.parents)
    assert len(parents) > 20


@pytest.mark.parametrize(("group", "other"), [("row", "matrix"), ("matrix", "row")])
def test_a_child_may_change_the_group(group, other):
    def fitness(recipe, _):
        return chance(recipe) + (recipe.group != group)

    changed = [p.recipe.group for p in Driver(default(), fitness).run(400) if p.origin == "group"]
    assert changed.count(other) > max(2, changed.count(group))


def test_there_is_no_group_to_change_where_the_pattern_has_its_own():
    driver = Driver(default(pattern=TWO_OF_FOUR), pattern=TWO_OF_FOUR)
    assert "group" not in origins(driver.run(250))


def test_a_new_incumbent_among_children_is_where_the_next_descent_begins():
    asked = []

    def watched(recipe):
        asked.append(recipe)
        return guide(recipe)

    children = iter([0.01] * 3 + [-1.0])

    def fitness(_, origin):
        if origin == "descent" or driver.strategy._queue:
            return 0.02
        return next(children, 0.02)

    driver = Driver(default(guide=watched), fitness)
    driver.run(START + 2 + DefaultStrategy.CHILDREN)
    assert driver.best.fitness == -1.0
    assert driver.proposals[-1].origin == "descent"
    assert driver.proposals[-1].parents == (driver.best.id,)
    assert asked[-DefaultStrategy.STEPS] == driver.best.recipe


def test_where_the_pattern_fixes_sparsities_only_formulas_move():
    driver = Driver(default(pattern=TWO_OF_FOUR), scripted(-0.1, -0.2), TWO_OF_FOUR)
    for proposal in driver.run(START + 2)[START:]:
        assert proposal.origin == "descent"
        assert proposal.recipe.formulas.keys() == FAMILIES.keys()
        assert proposal.recipe.formulas["q_proj"] != proposal.recipe.formulas["up_proj"]
    proposals = driver.run(100)
    assert all(isinstance(p.recipe.allocation, UniformAllocation) for p in proposals)


def test_where_an_allocation_is_free_kinds_differ_from_the_start():
    driver = Driver(default(), scripted(-0.1))
    proposals = driver.run(START + 1)
    assert proposals[-1].recipe.formulas.keys() == FAMILIES.keys()
    assert isinstance(proposals[-1].recipe.allocation, CurvesAllocation)


@pytest.mark.parametrize("pattern", [HALF, TWO_OF_FOUR])
def test_formula_only_gives_one_formula_under_uniform_allocation(pattern):
    guesses = [TWO, GUESS] if pattern is HALF else [TWO]
    strategy = default(guesses=guesses, pattern=pattern, formula_only=True)
    driver = Driver(strategy, pattern=pattern)
    proposals = driver.run(200)
    assert {"descent", "crossover", "guess"} <= set(origins(proposals))
    for proposal in proposals:
        assert isinstance(proposal.recipe.metric, Metric)
        assert proposal.recipe.allocation == UniformAllocation()
    guessed = [str(p.recipe.metric) for p in proposals if p.origin == "guess"]
    assert guessed == ["W * A", "W * F", *["W * A ** 0.9"] * (len(guesses) - 1)]


def test_formulas_of_one_family_alone_change_too():
    driver = Driver(default(guide=still), first_wins)
    driver.run(START)
    wanda = driver.best.recipe.metric
    two = [p.recipe for p in driver.run(250)[START:] if len(p.recipe.formulas) == 2]
    changed = Counter(
        kind for recipe in two for kind, formula in recipe.formulas.items()
        if str(formula) not in (str(wanda), "W * A")
    )  # fmt: skip
    assert min(changed[kind] for kind in FAMILIES) > 5
    # Most leave the other family as it was.
    assert changed.total() < 1.5 * len(two)


def test_a_guess_with_two_formulas_keeps_them_while_the_descent_corrects_them():
    def fitness(recipe, origin):
        return -1.0 if len(recipe.formulas) == 2 else 1.0

    driver = Driver(default(guesses=[TWO]), fitness)
    driver.run(START + 2)
    descent = driver.proposals[-1]
    assert descent.origin == "descent"
    attention, mlp = (str(descent.recipe.formulas[kind]) for kind in FAMILIES)
    assert attention.startswith("W * A ** 1.")
    assert mlp.startswith("W * F * A ** -0.")
    kept = [p for p in driver.run(200) if len(p.recipe.formulas) == 2]
    assert {p.origin for p in kept} >= {"guess", "descent", "constant"}


def test_a_model_of_one_family_can_be_searched():
    shapes = [MatrixShape(f"{n}.in_proj", "in_proj", n, 2, 8, 8) for n in range(2)]

    def slight(_):
        costs = {"0.in_proj": 1.0, "1.in_proj": 2.0}
        return Guidance(1.0, costs, {"in_proj": dict.fromkeys(FACTORS, 0.1)})

    strategy = DefaultStrategy(0, [], shapes, {"in_proj": "mlp"}, slight, HALF)
    proposals = Driver(strategy).run(120)
    assert all(proposal.recipe.metric_for("in_proj", "mlp") for proposal in proposals)


def test_duplicates_do_not_crowd_the_population():
    driver = Driver(default())
    driver.run(150)
    members = [member.id for member in driver.strategy._population.members]
    assert len(members) == len(set(members)) == DefaultStrategy.POPULATION
    assert driver.best.id in members


def test_the_genome_of_a_duplicate_is_not_taken_for_that_of_the_known_one():
    driver = Driver(default())
    driver.run(200)
    for number, genome in driver.strategy._genomes.items():
        recipe = next(i.recipe for i in driver.known.values() if i.id == number)
        assert isinstance(genome, Genome)
        assert genome.recipe() == recipe


def test_if_nothing_can_be_measured_fresh_trees_follow():
    driver = Driver(default(), lambda recipe, origin: None)
    assert set(origins(driver.run(START + 30)[START:])) == {"random"}
