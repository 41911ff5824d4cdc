import pytest

from prunerzero.evolution.controls import MOST_PAIRS, STEP, EvoPressStrategy, RandomStrategy
from prunerzero.evolution.population import Individual
from prunerzero.evolution.strategies import Outcome
from prunerzero.pruning.allocation import CurvesAllocation, MatrixShape, UniformAllocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe

HALF = Pattern.parse("50%")
BLOCKS = 5
FAMILIES = {"q_proj": "attention", "up_proj": "mlp", "down_proj": "mlp"}
SHAPES = [
    MatrixShape(f"{block}.{kind}", kind, block, BLOCKS, 32, 32)
    for block in range(BLOCKS)
    for kind in FAMILIES
]
WANDA = Recipe.named("wanda")


def chance_search(seed=0, allocate=True):
    return RandomStrategy(seed, SHAPES, allocate=allocate)


def evopress(seed=0):
    return EvoPressStrategy(seed, SHAPES, FAMILIES)


def drive(strategy, steps, wins=lambda step: step == 0):
    """Asks and tells; returns proposals."""
    proposals = []
    for step in range(steps):
        proposals.append(strategy.ask())
        outcome = Outcome.INCUMBENT if wins(step) else Outcome.MEASURED
        strategy.tell(Individual(step + 1, proposals[-1].recipe, 0.0, 3), outcome)
    return proposals


@pytest.mark.parametrize("make", [chance_search, evopress])
def test_it_is_deterministic_in_its_seed(make):
    first, again, other = (drive(make(seed), 40) for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("make", [chance_search, evopress])
def test_wanda_comes_first(make):
    first = make().ask()
    assert (first.origin, first.parents) == ("zoo", ())
    assert first.recipe.key(HALF) == WANDA.key(HALF)
    assert not first.recipe.name


# Random search


def test_random_search_learns_nothing():
    never = drive(chance_search(), 60)
    always = drive(chance_search(), 60, wins=lambda step: True)
    assert never == always
    assert {(p.origin, p.parents) for p in never[1:]} == {("random", ())}
    assert len({p.recipe.key(HALF) for p in never}) > 50
    for proposal in never:
        proposal.recipe.metric.check_rankable()
        assert Recipe.from_json(proposal.recipe.to_json()) == proposal.recipe


def test_random_search_draws_allocations_where_they_are_free():
    allocations = [p.recipe.allocation for p in drive(chance_search(), 201)[1:]]
    curves = [one for one in allocations if isinstance(one, CurvesAllocation)]
    assert len(curves) == pytest.approx(100, abs=30)
    assert all(one.curves.keys() == FAMILIES.keys() for one in curves)
    knots = [knot for one in curves for of_kind in one.curves.values() for knot in of_kind]
    assert len(knots) == len(curves) * len(FAMILIES) * RandomStrategy.KNOTS
    spread = (sum(knot**2 for knot in knots) / len(knots)) ** 0.5
    assert spread == pytest.approx(RandomStrategy.SPREAD, rel=0.1)
    fixed = drive(chance_search(allocate=False), 100)
    assert all(p.recipe.allocation == UniformAllocation() for p in fixed)


# A search of allocations


def offsets_of(recipe):
    if recipe.allocation == UniformAllocation():
        return dict.fromkeys((shape.name for shape in SHAPES), 0.0)
    return {shape.name: recipe.allocation.offset(shape) for shape in SHAPES}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_children_move_sparsity_within_a_kind(share):
    """Whether they win seldom or always."""
    proposals = drive(evopress(), 200, wins=lambda step: step % 10 < max(10 * share, step == 0))
    for proposal in proposals[1:]:
        assert proposal.origin == "swap"
        assert proposal.recipe.metric == WANDA.metric
        assert proposal.recipe.group == WANDA.group
        offsets = offsets_of(proposal.recipe)
        for kind in FAMILIES:
            total = sum(offsets[shape.name] for shape in SHAPES if shape.kind == kind)
            assert total == pytest.approx(0.0, abs=1e-9)


def test_a_child_differs_from_the_incumbent_by_a_few_swaps():
    incumbents = {0, 7, 8, 30}
    proposals = drive(evopress(), 60, wins=incumbents.__contains__)
    best, moved = 0, set()
    for step, proposal in enumerate(proposals[1:], start=1):
        assert proposal.parents == (best + 1,)
        before, after = (offsets_of(proposals[n].recipe) for n in (best, step))
        changes = [after[name] - before[name] for name in after]
        steps = [change / STEP for change in changes]
        assert steps == pytest.approx([round(change) for change in steps], abs=1e-6)
        pairs = sum(abs(round(change)) for change in steps) // 2
        moved.add(pairs)
        if step in incumbents:
            best = step
    assert {1, 2} <= moved <= set(range(MOST_PAIRS + 1))


def test_the_model_loses_as_much_as_it_shall():
    last = drive(evopress(), 120, wins=lambda step: True)[-1].recipe
    sparsities = last.allocation.sparsities(SHAPES, HALF)
    assert sum(sparsities.values()) / len(SHAPES) == HALF.sparsity
    assert max(sparsities.values()) > 0.6
    assert min(sparsities.values()) < 0.4
