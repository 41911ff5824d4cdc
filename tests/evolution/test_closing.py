from operator import sub
from types import SimpleNamespace

import pytest
import torch

from prunerzero import zoo
from prunerzero.data.splits import Split
from prunerzero.data.windows import Windows
from prunerzero.errors import InputError
from prunerzero.evaluation.perplexity import TextLoss, paired_interval
from prunerzero.evolution import closing as module
from prunerzero.evolution.closing import (
    FAMILY_AGREEMENT,
    UNDER_FOUND_ALLOCATION,
    WITHIN_REACH,
    Closer,
    choose_finalists,
    closing_json,
    mask_agreement,
    single_formulas,
)
from prunerzero.evolution.population import Individual
from prunerzero.pruning.allocation import UniformAllocation
from prunerzero.pruning.pattern import Pattern
from prunerzero.recipe import Recipe
from prunerzero.study import Candidate, Measurement, Study

HALF = Pattern.parse("50%")
ALLOCATION = {"name": "curves", "curves": {"q_proj": [-0.1, 0.1]}}


def windows(split, seed):
    return Windows(torch.full((4, 8), seed), split, "text", (f"document {seed}",))


VALIDATION, HELDOUT = windows(Split.VALIDATION, 1), windows(Split.HELDOUT, 2)


class Comparison:
    """Gives every recipe a loss of its own, and counts."""

    mixture = False

    def __init__(self, losses=()):
        self.measured = []
        self.given = dict(losses)

    def measure_dense(self, cut):
        self.measured.append(("dense", cut.split))
        return TextLoss((1.0, 1.1, 1.2, 1.3), 28)

    def measure(self, name, recipe, pattern, cut, *, remember=False):
        assert remember is (cut.split is Split.VALIDATION)
        name = name.split(", ")[-1]  # progress names the purpose before
        self.measured.append((name, cut.split))
        loss = self.given.get(name, 2.0 + len(recipe.expression) / 100)
        return SimpleNamespace(loss=TextLoss((loss, loss + 0.1, loss + 0.2, loss + 0.3), 28))


def individual(number, metric, fitness, **more):
    return Individual(number, Recipe.from_json({"metric": metric, **more}), fitness, 3)


FINALISTS = [
    individual(1, "W * A", -0.3),
    individual(2, "W * F", -0.2, allocation=ALLOCATION),
    individual(3, "W", -0.1),
]


@pytest.fixture
def study(tmp_path):
    with Study.create(tmp_path / "s.db", {}) as made:
        for finalist in FINALISTS:
            made.add_candidate(
                Candidate(
                    step=finalist.id,
                    key=str(finalist.id),
                    status="evaluated",
                    recipe=finalist.recipe.to_json(),
                    expression=finalist.recipe.expression,
                    size=finalist.size,
                    origin="guess",
                    fitness=finalist.fitness,
                ),
                [Measurement(purpose="fitness", windows="w", tokens=1, loss=1.0)],
            )
        yield made


def close(study, comparison, finalists=FINALISTS, formulas=()):
    closer = Closer(study, comparison, HALF, VALIDATION, HELDOUT)
    [closing] = module.close(study, [closer], finalists, formulas)
    return closing


def test_validation_chooses_and_heldout_is_read_for_the_winner_alone(study):
    comparison = Comparison({"candidate 2": 1.5})
    closing = close(study, comparison)
    assert closing.winner.id == 2
    assert [finalist.id for finalist, _ in closing.finalists] == [2, 3, 1]
    heldout = [name for name, split in comparison.measured if split is Split.HELDOUT]
    assert heldout == [
        "candidate 2",
        "dense",
        *(recipe.name for recipe in zoo.published()),
        "wanda under the found allocation of candidate 2",
    ]
    assert [name for name, split in comparison.measured if split is Split.VALIDATION] == [
        "candidate 1",
        "candidate 2",
        "candidate 3",
    ]


def test_baselines_have_uniform_allocation_and_wanda_is_shown_under_the_found_one(study):
    closing = close(study, Comparison({"candidate 2": 1.5}))
    assert {reading.name for reading in closing.baselines} == {
        recipe.name for recipe in zoo.published()
    }
    for reading in closing.baselines:
        assert reading.recipe.allocation == UniformAllocation()
        assert reading.recipe.group == Recipe.named(reading.name).group
    assert closing.reallocated.recipe.allocation == closing.winner.recipe.allocation
    assert closing.reallocated.recipe.metric == Recipe.named("wanda").metric
    document = closing_json(closing)
    assert UNDER_FOUND_ALLOCATION not in document["baselines"]
    assert document["wanda_under_found_allocation"]["heldout_perplexity"] > 1


def test_a_uniform_winner_needs_no_other_wanda(study):
    closing = close(study, Comparison({"candidate 1": 1.5}))
    assert closing.winner.id == 1
    assert closing.reallocated is None
    assert closing_json(closing)["wanda_under_found_allocation"] is None


def test_wanda_as_the_winner_is_not_measured_again(study):
    wanda = individual(2, "W * sqrt(X)", -0.2, allocation=ALLOCATION)
    comparison = Comparison()
    closing = close(study, comparison, [wanda])
    assert closing.reallocated.loss == closing.best.loss
    assert not [name for name, _ in comparison.measured if name.startswith("wanda under")]


def test_intervals_are_the_paired_ones(study):
    closing = close(study, Comparison({"candidate 2": 1.5}))
    names = {"dense", *(recipe.name for recipe in zoo.published()), closing.reallocated.name}
    assert closing.intervals.keys() == names
    for reading in (closing.dense, *closing.baselines, closing.reallocated):
        expected = paired_interval(closing.best.loss.losses, reading.loss.losses)
        assert closing.intervals[reading.name] == expected
    assert closing.intervals["wanda"].significant
    assert closing.intervals["wanda"].change < 0 < closing.intervals["dense"].change


def test_what_was_measured_is_not_measured_again(study):
    first = close(study, Comparison({"candidate 2": 1.5}))
    again = Comparison({"candidate 2": 9.9})
    second = close(study, again)
    assert again.measured == []
    assert second == first
    assert len(study.events("heldout")) == 2  # the reading is counted, whoever made it
    # Another winner is one more measurement; the baselines' stay.
    third = close(study, again, FINALISTS[:1])
    assert again.measured == [("candidate 1", Split.HELDOUT)]
    assert third.baselines == first.baselines
    assert study.check() == []


def test_an_interrupted_closing_goes_on(study):
    class Fragile(Comparison):
        def measure(self, name, *args, **options):
            if name.endswith("ria"):
                raise KeyboardInterrupt
            return super().measure(name, *args, **options)

    fragile, rest = Fragile(), Comparison()
    with pytest.raises(KeyboardInterrupt):
        close(study, fragile)
    closing = close(study, rest)
    assert not set(fragile.measured) & set(rest.measured)
    assert ("ria", Split.HELDOUT) in rest.measured
    other = Comparison()
    assert close(study, other) == closing
    assert other.measured == []


def test_splits_are_kept_apart(study):
    with pytest.raises(InputError, match="for heldout, not for validation"):
        Closer(study, Comparison(), HALF, HELDOUT, HELDOUT)
    with pytest.raises(InputError, match="not for heldout"):
        Closer(study, Comparison(), HALF, VALIDATION, windows(Split.SELECTION, 3))


def test_finalists_are_of_distinct_mask_families(bench):
    masker = bench().masker
    individuals = [
        individual(1, "W * A", -0.30),
        individual(2, "W * A ** 1.001", -0.29),
        individual(3, "2 * W * A + W * 0", -0.28),
        individual(4, "W * F", -0.27),
        individual(5, "W * sqrt(F)", -0.26),
        individual(6, "W", -0.26),
    ]
    chosen = choose_finalists(individuals, individuals[0], masker, sub)
    assert [finalist.id for finalist in chosen] == [1, 4, 5]
    masks = [masker.probe_masks(finalist.recipe) for finalist in chosen]
    for n, one in enumerate(masks):
        for other in masks[:n]:
            assert mask_agreement(one, other) < FAMILY_AGREEMENT


def test_the_incumbent_comes_first_whatever_others_were_lucky_to_get(bench):
    individuals = [individual(1, "W * F", -0.34), individual(2, "W * A", -0.3)]
    chosen = choose_finalists(individuals, individuals[1], bench().masker, sub)
    assert [finalist.id for finalist in chosen] == [2, 1]
    one = choose_finalists(individuals, individuals[0], bench().masker, sub, count=1)
    assert one == individuals[:1]


def test_candidates_far_behind_are_no_finalists(bench):
    individuals = [individual(1, "W * F", -0.5), individual(2, "W", -0.5 + 1.1 * WITHIN_REACH)]
    masker = bench().masker
    assert choose_finalists(individuals, individuals[0], masker, sub) == individuals[:1]


def test_agreement_is_the_share_of_equal_entries():
    first = [torch.tensor([[True, False]]), torch.tensor([[True, True, False, False]])]
    second = [torch.tensor([[True, True]]), torch.tensor([[True, True, False, True]])]
    assert mask_agreement(first, second) == pytest.approx(4 / 6)
    assert mask_agreement(first, first) == 1.0


def test_the_best_single_formula_is_read_too(study):
    alone = individual(1, "W * A ** 2", -0.1)
    comparison = Comparison({"candidate 1": 1.7, "candidate 2": 1.5})
    closing = close(study, comparison, FINALISTS, [alone])
    assert ("candidate 1", Split.HELDOUT) in comparison.measured
    document = closing_json(closing)
    assert document["formula_alone"]["candidate"] == 1
    assert document["formula_alone"]["expression"] == "W * A ** 2"
    assert document["formula_alone"]["heldout_perplexity"] > closing.best.loss.perplexity
    for reading in closing.baselines:
        expected = paired_interval(closing.formula_alone.loss.losses, reading.loss.losses)
        shown = document["baselines"][reading.name]["formula_against_it"]
        assert shown == {**expected.to_json(), "significant": expected.significant}
    assert closing_json(close(study, comparison))["formula_alone"] is None


def test_of_several_single_formulas_validation_text_chooses(study):
    first, second, third = FINALISTS
    comparison = Comparison({"candidate 1": 1.9, "candidate 2": 1.7})
    closing = close(study, comparison, [third], [first, second])
    assert closing.formula == closing.winner == second
    assert ("candidate 1", Split.VALIDATION) in comparison.measured
    assert ("candidate 1", Split.HELDOUT) not in comparison.measured


def test_single_formulas_are_one_and_no_published_one():
    def key(recipe):
        return recipe.key(HALF)

    two = individual(1, {"attention": "W * A", "mlp": "W * F"}, -0.5)
    allocated = individual(2, "W * A ** 2", -0.4, allocation=ALLOCATION)
    first, second = individual(3, "W * F", -0.2), individual(4, "W * F ** 2", -0.3)
    wanda = individual(5, "W * sqrt(X)", -0.35)
    assert single_formulas([two, allocated, first, second, wanda], key) == [first, second]
    assert single_formulas([two, allocated], key) == []
