"""The genome: what the search varies. `Genome.recipe` is what it stands for."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from prunerzero.metric import Metric
from prunerzero.metric.expression import Call, Constant, Node
from prunerzero.pruning.allocation import Allocation, UniformAllocation
from prunerzero.recipe import Group, Recipe
from prunerzero.updates.names import VALUES, Update

# What a formula may be multiplied by, to a power that depends on the kind of matrix. Factors that
# are constant in a row are missing, because they change no mask.
FACTORS: Mapping[str, Metric] = {
    text: Metric.parse(text) for text in ("A", "F", "colmean(W)", "colmean(F)")
}
# And where an update follows, by what the update can make up for.
UPDATE_FACTORS: Mapping[str, Metric] = {**FACTORS, "Hfree": Metric.parse("Hfree")}
SQUARED = Metric.parse("X").expression
# Exponents nearer to zero than this are left out of formulas.
NEGLIGIBLE = 0.005
DECIMALS = 3
REMEMBERED = 1 << 14  # products; a search proposes the same ones in ever new recipes

# Exponent of each factor, by kind of matrix.
Powers = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Genome:
    """A base formula, corrections of it for each kind of matrix, and an allocation.

    Attributes:
        metric: one formula, or one for each kind or family of matrices, as in `Recipe`.
        powers: exponents of `FACTORS` that the formula is multiplied by, for every kind of matrix
            of the model; empty for none.
        allocation: how sparsity is spread.
        group: which weights are ranked against one another.
        families: the family, ``attention`` or ``mlp``, of every kind of matrix of the model.
        update: what happens to the kept weights.
    """

    metric: Metric | Mapping[str, Metric]
    powers: Powers = field(default_factory=dict)
    allocation: Allocation = field(default_factory=UniformAllocation)
    group: Group = "row"
    families: Mapping[str, str] = field(default_factory=dict)
    update: Update = "none"

    @classmethod
    def of(cls, recipe: Recipe, families: Mapping[str, str]) -> Genome:
        """The genome without corrections that stands for a recipe."""
        return cls(recipe.metric, {}, recipe.allocation, recipe.group, families, recipe.update)

    def recipe(self) -> Recipe:
        """The recipe: one formula where all kinds have the same one."""
        metric: Metric | dict[str, Metric]
        if isinstance(self.metric, Metric) and not self.powers:
            metric = self.metric
        elif not self.powers:
            assert not isinstance(self.metric, Metric)
            metric = dict(self.metric)
        else:
            formulas = {
                kind: times_powers(self.formula_for(kind), self.powers.get(kind, {}))
                for kind in self.families
            }
            distinct = set(formulas.values())
            metric = formulas if len(distinct) > 1 else distinct.pop()
        return Recipe(
            metric=metric, group=self.group, allocation=self.allocation, update=self.update
        )

    def formula_for(self, kind: str) -> Metric:
        """The base formula of a kind of matrix."""
        if isinstance(self.metric, Metric):
            return self.metric
        return self.metric.get(kind) or self.metric[self.families[kind]]

    def with_formula(self, formula: Metric, family: str | None = None) -> Genome:
        """The same with another base formula, for one family of matrices or for all."""
        if family is None:
            return replace(self, metric=formula)
        others = self.metric
        if isinstance(others, Metric):
            others = dict.fromkeys(self.families.values(), others)
        kept = {
            name: other for name, other in others.items() if self.families.get(name, name) != family
        }
        return replace(self, metric=kept | {family: formula})


def factors_of(update: Update) -> Mapping[str, Metric]:
    """What a formula may be multiplied by where that update follows."""
    return UPDATE_FACTORS if update in VALUES else FACTORS


def times_powers(metric: Metric, powers: Mapping[str, float]) -> Metric:
    """A formula times powers of `FACTORS`; exponents of factors that it has already are added.

    `X` counts as `A` squared, which it is but for a factor that is the same for all weights.

    Args:
        metric: the formula.
        powers: exponent by the factor's name.
    """
    return _times(metric, tuple(powers.items()))


@functools.lru_cache(REMEMBERED)
def _times(metric: Metric, powers: tuple[tuple[str, float], ...]) -> Metric:
    signed: list[Node] = []
    exponents: dict[Node, float] = {}

    def add(base: Node, exponent: float) -> None:
        if base == SQUARED:
            base, exponent = FACTORS["A"].expression, 2 * exponent
        exponents[base] = exponents.get(base, 0.0) + exponent

    for factor in _factors(metric.expression):
        if not factor.bounds.non_negative:
            signed.append(factor)
        else:
            add(*_base_and_exponent(factor))
    for name, exponent in powers:
        add(UPDATE_FACTORS[name].expression, exponent)
    product = [
        base if round(exponent, DECIMALS) == 1 else _power(base, exponent)
        for base, exponent in exponents.items()
        if abs(exponent) >= NEGLIGIBLE
    ]
    operands = signed + product
    if not any(operand.shape.spans_columns for operand in operands):
        return metric  # what is left cannot rank weights
    return Metric(functools.reduce(lambda left, right: Call("mul", (left, right)), operands))


def _factors(node: Node) -> list[Node]:
    """The operands of the product at the root."""
    if isinstance(node, Call) and node.operator == "mul":
        return [factor for arg in node.args for factor in _factors(arg)]
    return [node]


def _power(base: Node, exponent: float) -> Node:
    return Call("power", (base, Constant(round(exponent, DECIMALS))))


def _base_and_exponent(node: Node) -> tuple[Node, float]:
    """A power as its base and exponent; roots and powers of signed values are left whole."""
    if isinstance(node, Call) and node.args[0].bounds.non_negative:
        if node.operator == "power":
            exponent = node.args[1]
            assert isinstance(exponent, Constant)
            return node.args[0], exponent.value
        if node.operator == "sqrt":
            return node.args[0], 0.5
    return node, 1.0
