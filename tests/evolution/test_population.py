from random import Random

from hypothesis import given
from hypothesis import strategies as st

from prunerzero.evolution.population import NODE_COST, Individual, Population, best_per_size
from prunerzero.recipe import Recipe

WANDA = Recipe.named("wanda")


def individual(number, fitness, size=3):
    return Individual(number, WANDA, fitness, size)


FITNESSES = st.lists(st.floats(-1, 1), min_size=2, max_size=40)


@given(FITNESSES, st.integers(1, 10))
def test_the_worst_leaves(fitnesses, capacity):
    population = Population(capacity)
    for number, fitness in enumerate(fitnesses):
        population.add(individual(number, fitness))
    kept = sorted(member.fitness for member in population.members)
    assert kept == sorted(fitnesses)[:capacity]


@given(FITNESSES, st.integers(0, 2**32))
def test_parents_are_the_best_of_a_sample(fitnesses, seed):
    population = Population(100)
    for number, fitness in enumerate(fitnesses):
        population.add(individual(number, fitness))
    pool = population.best_of_sample(Random(seed), 0.5, 10)
    assert 2 <= len(pool) <= 10
    assert [member.fitness for member in pool] == sorted(member.fitness for member in pool)
    everyone = population.best_of_sample(Random(seed), 1.0, 10)
    assert [member.fitness for member in everyone] == sorted(fitnesses)[:10]


def test_a_tournament_weighs_fitness_against_size():
    population = Population(10)
    population.add(individual(1, -0.1, size=5))
    population.add(individual(2, -0.1 - 5 * NODE_COST, size=9))
    population.add(individual(3, -0.1 - 5 * NODE_COST, size=11))
    assert population.tournament(Random(0)).id == 2
    assert population.tournament(Random(0), contestants=9).id == 2


def test_a_tournament_of_some_does_not_always_give_the_best():
    population = Population(40)
    for number in range(40):
        population.add(individual(number, float(number)))
    random = Random(0)
    winners = [population.tournament(random).id for _ in range(500)]
    assert 0 in winners
    assert max(winners) < 38  # of three the worst two never win
    assert 5 < sum(winners) / len(winners) < 14  # mean of the least of three of 40 is 9.25


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(-1, 1)), max_size=40))
def test_the_front_holds_what_nothing_shorter_beats(pairs):
    everyone = [individual(n, fitness, size) for n, (size, fitness) in enumerate(pairs)]
    front = best_per_size(everyone)
    for member in everyone:
        beaten = any(o.size <= member.size and o.fitness <= member.fitness for o in front)
        assert beaten
    sizes, fitnesses = [m.size for m in front], [m.fitness for m in front]
    assert sizes == sorted(set(sizes))
    assert fitnesses == sorted(set(fitnesses), reverse=True)
