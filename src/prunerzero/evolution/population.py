"""The population: who is in it, who breeds, who leaves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from prunerzero.recipe import Recipe

# A node more must buy this much fitness: of formulas that do equally well the shorter one breeds.
NODE_COST = 5e-4


@dataclass(frozen=True)
class Individual:
    """A measured candidate.

    Attributes:
        id: its row in the study.
        recipe: what it prunes by.
        fitness: lower is better.
        size: nodes of its formulas.
    """

    id: int
    recipe: Recipe
    fitness: float
    size: int


class Population:
    """At most ``capacity`` individuals; the worst leaves when one more comes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.members: list[Individual] = []

    def add(self, individual: Individual) -> None:
        """Adds an individual; beyond capacity the one with the highest fitness value leaves."""
        self.members.append(individual)
        if len(self.members) > self.capacity:
            self.members.remove(max(self.members, key=lambda member: member.fitness))

    def best_of_sample(self, random: Random, share: float, best: int) -> list[Individual]:
        """The paper's parents' pool: the ``best`` of a random sample of the population."""
        size = max(2, round(share * len(self.members)))
        sample = random.sample(self.members, min(size, len(self.members)))
        return sorted(sample, key=lambda member: member.fitness)[:best]

    def tournament(self, random: Random, contestants: int = 3) -> Individual:
        """The best of a few random members, where each node of a formula costs a little."""
        chosen = random.sample(self.members, min(contestants, len(self.members)))
        return min(chosen, key=lambda member: member.fitness + NODE_COST * member.size)


def best_per_size(individuals: Iterable[Individual]) -> list[Individual]:
    """The front of size against fitness: each is better than every shorter one."""
    front: list[Individual] = []
    for individual in sorted(individuals, key=lambda member: (member.size, member.fitness)):
        if not front or individual.fitness < front[-1].fitness:
            front.append(individual)
    return front
