import hashlib

import pytest

from prunerzero import zoo
from prunerzero.evolution.population import Individual
from prunerzero.evolution.settings import PAPER_ITERATIONS, PAPER_POPULATION
from prunerzero.evolution.strategies import SEEDS, DefaultStrategy, Outcome, PaperStrategy
from prunerzero.metric import Metric
from prunerzero.pruning.allocation import MatrixShape, UniformAllocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe

HALF = Pattern.parse("50%")
SHAPES = [
    MatrixShape(f"{block}.{kind}", kind, block, 4, 32, 32)
    for block in range(4)
    for kind in ("q_proj", "up_proj")
]
GUESS = Recipe.from_json(
    {"metric": "W * A ** 0.9", "allocation": {"name": "depth-kind", "linear": 0.1}}
)
COSTS = {shape.name: 1.0 + shape.block for shape in SHAPES}


def fitness_of(recipe):
    """A fitness out of nowhere, the same for the same recipe."""
    return int(hashlib.sha256(recipe.key(HALF).encode()).hexdigest()[:8], 16) / 2**32


def drive(strategy, steps, fitness=fitness_of):
    """Asks and tells, as the loop does; returns proposals, individuals and incumbents by step."""
    proposals, known, incumbents, best = [], {}, [], None
    for _ in range(steps):
        proposal = strategy.ask()
        proposals.append(proposal)
        key = proposal.recipe.key(HALF)
        if key in known:
            strategy.tell(known[key], Outcome.KNOWN)
        else:
            size = sum(metric.size for metric in proposal.recipe.formulas.values())
            individual = Individual(len(known) + 1, proposal.recipe, fitness(proposal.recipe), size)
            known[key] = individual
            wins = best is None or individual.fitness < best.fitness
            best = individual if wins else best
            strategy.tell(individual, Outcome.INCUMBENT if wins else Outcome.MEASURED)
        incumbents.append(best)
    return proposals, list(known.values()), incumbents


def default(seed=0, guesses=(), guide=lambda _: COSTS):
    return DefaultStrategy(seed, guesses, SHAPES, guide)


@pytest.mark.parametrize("make", [PaperStrategy, default])
def test_a_strategy_is_deterministic_in_its_seed(make):
    first, again, other = (drive(make(seed), 150)[0] for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("make", [PaperStrategy, default])
def test_every_proposal_can_rank(make):
    for proposal in drive(make(0), 300)[0]:
        for metric in proposal.recipe.formulas.values():
            metric.check_rankable()
        assert Recipe.from_json(proposal.recipe.to_json()) == proposal.recipe
        assert proposal.parents == tuple(proposal.parents)


# The published algorithm


def test_the_papers_numbers():
    assert (PAPER_POPULATION, PAPER_ITERATIONS) == (50, 300)
    assert (PaperStrategy.PARENTS, PaperStrategy.MUTATION_PROBABILITY) == (10, 0.5)


def test_the_papers_search_starts_at_random_and_then_breeds_one_at_a_time():
    strategy = PaperStrategy(0)
    proposals, individuals, _ = drive(strategy, 350)
    assert {p.origin for p in proposals[:50]} == {"random"}
    assert all(not p.parents for p in proposals[:50])
    later = proposals[50:]
    assert sum(p.origin == "crossover" for p in later) > 200
    assert len(strategy._population.members) == 50
    ids = {individual.id: individual for individual in individuals}
    for proposal in later:
        if proposal.origin == "crossover":
            assert len(proposal.parents) == 2
            parents = [ids[number].recipe.metric for number in proposal.parents]
            assert proposal.recipe.metric not in parents
        assert proposal.recipe.terminals <= {"W", "G", "X"}
        assert isinstance(proposal.recipe.allocation, UniformAllocation)
        assert proposal.recipe.metric == proposal.recipe.metric.simplify(mode="paper")


def test_the_papers_population_gets_better():
    strategy = PaperStrategy(0)
    drive(strategy, 50)
    before = sorted(member.fitness for member in strategy._population.members)
    worst = strategy._population.capacity - 1
    for _ in range(100):
        proposal = strategy.ask()
        individual = Individual(1000, proposal.recipe, fitness_of(proposal.recipe), 1)
        strategy.tell(individual, Outcome.MEASURED)
    after = sorted(member.fitness for member in strategy._population.members)
    assert after[worst] < before[worst]
    assert after[0] <= before[0]


def test_a_child_equal_to_a_parent_becomes_a_fresh_tree(monkeypatch):
    strategy = PaperStrategy(0)
    drive(strategy, 50)
    monkeypatch.setattr(
        "prunerzero.evolution.variation.crossover", lambda first, second, random: first
    )
    monkeypatch.setattr(
        "prunerzero.evolution.variation.mutate_node", lambda metric, grammar, random: metric
    )
    for _ in range(20):
        proposal = strategy.ask()
        assert (proposal.origin, proposal.parents) == ("random", ())


# Ours


def test_it_starts_from_wanda_the_zoo_guesses_and_products():
    proposals, _, _ = drive(default(guesses=[GUESS]), 5 + 1 + len(SEEDS) + 4, lambda _: 0.0)
    names = ["wanda", *(name for name in zoo.names() if name != "wanda")]
    for name, proposal in zip(names, proposals, strict=False):
        assert proposal.origin == "zoo"
        assert proposal.recipe.key(HALF) == Recipe.named(name).key(HALF)
        assert not proposal.recipe.name
    assert [p.recipe for p in proposals if p.origin == "guess"] == [GUESS]
    assert [str(p.recipe.metric) for p in proposals if p.origin == "seed"] == [
        str(Metric.parse(text)) for text in SEEDS
    ]
    assert [p.origin for p in proposals].count("random") == 4


def test_children_are_judged_under_the_best_allocation_known():
    proposals, individuals, incumbents = drive(default(), 600)
    ids = {individual.id: individual for individual in individuals}
    formulas = [
        (proposal, incumbents[step - 1])
        for step, proposal in enumerate(proposals)
        if proposal.origin in {"crossover", "constant", "mutation", "factor", "shrink"}
    ]
    assert len(formulas) > 100
    inherited = [p.recipe.allocation == best.recipe.allocation for p, best in formulas]
    assert sum(inherited) / len(inherited) > 0.75
    for proposal, best in formulas:
        others = [ids[number].recipe.allocation for number in proposal.parents]
        assert proposal.recipe.allocation in [best.recipe.allocation, *others]


def test_each_new_incumbent_is_asked_for_its_gradient():
    asked = []

    def guide(recipe):
        asked.append(recipe)
        return COSTS

    proposals, _, incumbents = drive(default(guide=guide), 400)
    steps = [(step, p) for step, p in enumerate(proposals) if p.origin == "gradient"]
    assert steps
    for step, proposal in steps:
        best = incumbents[step - 1]
        assert proposal.parents == (best.id,)
        assert proposal.recipe.metric == best.recipe.metric
        before, after = best.recipe.allocation, proposal.recipe.allocation
        assert getattr(after, "linear", 0) <= getattr(before, "linear", 0)  # deep blocks cost more
    assert asked[0] == incumbents[len(zoo.names()) + len(SEEDS) + 3].recipe
    # Again and again at one incumbent, as the costs are noisy.
    assert len(asked) > len({incumbent.id for incumbent in incumbents})


def test_later_costs_are_averaged_with_earlier_ones():
    strategy = default(guide=lambda _: dict.fromkeys(COSTS, 1.0))
    first = Individual(1, Recipe.named("wanda"), 0.0, 1)
    strategy._guided(first)
    strategy._guide = lambda _: dict.fromkeys(COSTS, 3.0)
    strategy._guided(first)
    assert set(strategy._costs.values()) == {2.0}


def test_steps_from_an_old_incumbent_are_dropped():
    strategy = default()
    drive(strategy, 5 + len(SEEDS) + 4)
    first = strategy.ask()
    assert first.origin == "gradient"
    assert [p.origin for p in strategy._queue] == ["gradient"]
    strategy.tell(Individual(99, first.recipe, -1.0, 3), Outcome.INCUMBENT)
    assert not strategy._queue
    assert strategy.ask().parents == (99,)


def test_where_the_pattern_fixes_sparsities_no_allocation_is_tried():
    proposals, _, _ = drive(default(guide=None), 500)
    assert all(isinstance(p.recipe.allocation, UniformAllocation) for p in proposals)
    assert not {p.origin for p in proposals} & {"gradient", "allocation"}


def test_allocations_and_groups_change_too():
    proposals, _, _ = drive(default(), 800)
    changed = [p for p in proposals if p.origin == "allocation"]
    assert len(changed) > 40
    assert len({p.recipe.allocation.key() for p in changed}) > 30
    assert {p.recipe.group for p in proposals} == {"row", "matrix"}


def test_a_guess_with_two_formulas_keeps_them_while_its_allocation_changes():
    two = Recipe.from_json({"metric": {"attention": "W * A", "mlp": "W * F"}})
    proposals, _, _ = drive(
        default(guesses=[two]), 300, lambda r: 0.0 if len(r.formulas) == 2 else 1.0
    )
    kept = [p for p in proposals if len(p.recipe.formulas) == 2]
    assert {p.origin for p in kept} >= {"guess", "gradient", "allocation"}


def test_duplicates_do_not_crowd_the_population():
    strategy = default()
    _, individuals, _ = drive(strategy, 300)
    members = [member.id for member in strategy._population.members]
    assert len(members) == len(set(members)) == DefaultStrategy.POPULATION
    assert min(individuals, key=lambda i: i.fitness).id in members
