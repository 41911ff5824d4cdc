import hashlib

from prunerzero.evolution.population import Individual
from prunerzero.evolution.settings import PAPER_ITERATIONS, PAPER_POPULATION
from prunerzero.evolution.strategies import (
    Outcome,
    PaperStrategy,
    bare,
    first_formula,
)
from prunerzero.pruning.allocation import UniformAllocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe

HALF = Pattern.parse("50%")


def fitness_of(recipe):
    """A fitness out of nowhere, the same for the same recipe."""
    return int(hashlib.sha256(recipe.key(HALF).encode()).hexdigest()[:8], 16) / 2**32


def drive(strategy, steps):
    """Asks and tells, as the loop does; returns proposals and individuals."""
    proposals, known, best = [], {}, None
    for _ in range(steps):
        proposal = strategy.ask()
        proposals.append(proposal)
        key = proposal.recipe.key(HALF)
        if key in known:
            strategy.tell(known[key], Outcome.KNOWN)
        else:
            size = sum(metric.size for metric in proposal.recipe.formulas.values())
            individual = Individual(
                len(known) + 1, proposal.recipe, fitness_of(proposal.recipe), size
            )
            known[key] = individual
            wins = best is None or individual.fitness < best.fitness
            best = individual if wins else best
            strategy.tell(individual, Outcome.INCUMBENT if wins else Outcome.MEASURED)
    return proposals, list(known.values())


def test_it_is_deterministic_in_its_seed():
    first, again, other = (drive(PaperStrategy(seed), 150)[0] for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_every_proposal_can_rank():
    for proposal in drive(PaperStrategy(0), 300)[0]:
        for metric in proposal.recipe.formulas.values():
            metric.check_rankable()
        assert Recipe.from_json(proposal.recipe.to_json()) == proposal.recipe


def test_the_papers_numbers():
    assert (PAPER_POPULATION, PAPER_ITERATIONS) == (50, 300)
    assert (PaperStrategy.PARENTS, PaperStrategy.MUTATION_PROBABILITY) == (10, 0.5)


def test_the_papers_search_starts_at_random_and_then_breeds_one_at_a_time():
    strategy = PaperStrategy(0)
    proposals, individuals = drive(strategy, 350)
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


def test_a_bare_recipe_prunes_alike_and_has_no_history():
    wanda = Recipe.named("wanda")
    assert wanda.name
    assert not bare(wanda).name
    assert bare(wanda).key(HALF) == wanda.key(HALF)
    document = {
        "metric": "W",
        "group": "matrix",
        "allocation": {"name": "curves", "curves": {"q_proj": [0.1]}},
    }
    recipe = Recipe.from_json(document | {"name": "x", "note": "y", "provenance": {"seed": 1}})
    assert bare(recipe) == Recipe.from_json(document)


def test_the_first_of_several_formulas():
    two = Recipe.from_json({"metric": {"mlp": "W * F", "attention": "W * A"}})
    assert str(first_formula(two)) == "W * F"
    assert str(first_formula(Recipe.from_json({"metric": "W"}))) == "W"
