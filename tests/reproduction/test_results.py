"""What follows from finished cells, on numbers that are made up."""

import csv
import math
import random
from dataclasses import replace

import pytest

from prunerzero.evaluation.perplexity import Interval
from prunerzero.evaluation.zeroshot.results import Accuracy, TaskResult
from prunerzero.reproduction import arms, perplexities, simplification, zero_shot
from prunerzero.reproduction.cells import Cells
from prunerzero.reproduction.claims import judge
from prunerzero.reproduction.methods import METHODS
from prunerzero.reproduction.search import SEARCH
from prunerzero.reproduction.simplification import SIMPLIFICATION
from prunerzero.reproduction.writing import columns_of, markdown_table, write_sections
from prunerzero.reproduction.zero_shot import MEAN, ZERO_SHOT

NOTHING_PUBLISHED = lambda *_: None  # noqa: E731


@pytest.fixture
def cells(tmp_path):
    return Cells(tmp_path / "cells", {})


def add_perplexity(cells, options, method, seed, losses):
    cell = perplexities.cell(options, method, "50%", options.samples, seed)
    result = {"losses": losses, "tokens": 10, "sparsity": 0.5, "seconds": 2.0 * (seed + 1)}
    cells.add(cell, result, 1.0, 0)


def test_a_row_averages_seeds_and_pairs_windows(cells, tiny_options):
    for seed, shift in ((0, 0.0), (1, 0.2)):
        add_perplexity(cells, tiny_options, "wanda", seed, [1.0 + shift, 3.0 + shift])
        add_perplexity(cells, tiny_options, "pruner-zero", seed, [1.1 + 2 * shift, 3.1 + 2 * shift])
    row = perplexities.row(cells, tiny_options, "pruner-zero", "50%", 2, lambda *_: 9.5)
    assert row.seeds == 2
    assert row.perplexity == pytest.approx(math.exp(2.3))
    assert (row.lowest, row.highest) == pytest.approx((math.exp(2.1), math.exp(2.5)))
    # Every window is worse by 0.1 with one seed and by 0.3 with the other.
    assert row.change == Interval(*[pytest.approx(math.expm1(0.2))] * 3)
    assert row.seed_changes == pytest.approx((math.expm1(0.1), math.expm1(0.3)))
    assert (row.sparsity, row.seconds, row.published) == (0.5, 3.0, 9.5)
    wanda = perplexities.row(cells, tiny_options, "wanda", "50%", 2)
    assert (wanda.change, wanda.seed_changes) == (None, ())
    assert perplexities.row(cells, tiny_options, "wanda", "50%", 1) is None
    section = METHODS.section(cells, tiny_options, NOTHING_PUBLISHED)
    assert [row.method for row in section.tables["methods"]] == ["wanda", "pruner-zero"]
    [claim] = section.claims
    assert (claim.verdict, claim.confidence) == ("refuted", "moderate")


def test_a_failed_seed_is_left_out(cells, tiny_options):
    add_perplexity(cells, tiny_options, "wanda", 0, [1.0])
    failed = perplexities.cell(tiny_options, "wanda", "50%", 2, 1)
    cells.add(failed, {"failed": "not finite"}, 1.0, 0)
    assert perplexities.row(cells, tiny_options, "wanda", "50%", 2).seeds == 1


@pytest.mark.parametrize(
    ("interval", "seeds", "verdict", "confidence"),
    [
        ((-0.2, -0.3, -0.1), [-0.2, -0.1, -0.3], "confirmed", "high"),
        ((-0.2, -0.3, -0.1), [-0.2], "confirmed", "low"),
        ((-0.2, -0.3, -0.1), [-0.5, 0.1], "not decided", "low"),
        ((-0.2, -0.5, 0.1), [-0.2, -0.1], "not decided", "low"),
        ((0.2, 0.1, 0.3), [0.2, 0.1], "refuted", "moderate"),
    ],
)
def test_verdicts(interval, seeds, verdict, confidence):
    claim = judge("x", Interval(*interval), seeds, [])
    assert (claim.verdict, claim.confidence) == (verdict, confidence)
    turned = judge("x", Interval(*interval), seeds, [], negative_confirms=False)
    turn = {"confirmed": "refuted", "refuted": "confirmed"}
    assert turned.verdict == turn.get(verdict, verdict)
    assert judge("x", None, [], []).verdict == "not decided"


def add_arm(cells, options, arm, seed, **result):
    known = {"proposals": 14, "expression": "W", "references": {"wanda": 30.0}}
    cells.add(arms.cell(options, arm, seed), {**known, **result}, 1.0, 0)


def test_evolution_against_chance(cells, tiny_options):
    for seed, worse in ((0, 0.1), (1, 0.2)):
        add_arm(
            cells, tiny_options, arms.EVOLUTION, seed, fitness=[9.0, 4.0, 2.0], losses=[1.0, 2.0]
        )
        add_arm(
            cells, tiny_options, arms.RANDOM, seed, fitness=[9.0, 5.0, 8.0],
            losses=[1.0 + worse, 2.0 + worse],
        )  # fmt: skip
    section = SEARCH.section(cells, tiny_options, NOTHING_PUBLISHED)
    first, second = section.tables["search"]
    assert (first.evolution_fitness, first.random_fitness, first.wanda_fitness) == (2.0, 5.0, 30.0)
    assert first.candidates == 3
    assert first.evolution_heldout == pytest.approx(math.exp(1.5))
    assert second.change.change == pytest.approx(math.expm1(-0.2))
    [claim] = section.claims
    # Two searches of each kind say little, whatever the interval over windows.
    assert (claim.verdict, claim.confidence) == ("confirmed", "low")
    [figure] = section.figures
    assert [line.y for line in figure.lines] == [
        pytest.approx((9.0, 4.0, 2.0)), pytest.approx((9.0, 5.0, 5.0)),
    ]  # fmt: skip


def test_diversity_needs_several_populations(cells, tiny_options):
    options = replace(tiny_options, populations=6)
    for number, (own, other) in enumerate([(5, 4), (5, 3), (4, 3)] * 2):
        for simplified, distinct in ((True, own), (False, other)):
            cell = simplification._initial_cell(options, number, simplified)
            cells.add(cell, {"distinct": distinct, "formulas": 5, "drawn": 5}, 1.0, 0)
    for arm, share in ((arms.EVOLUTION, 0.5), (arms.UNSIMPLIFIED, 0.75)):
        add_arm(cells, options, arm, 0, shares=[1.0, 1.0, share])
    section = SIMPLIFICATION.section(cells, options, NOTHING_PUBLISHED)
    initial, evolved = section.tables["simplification"]
    assert (initial.with_it, initial.without) == pytest.approx((14 / 15, 10 / 15))
    assert initial.difference.mean == pytest.approx(4 / 15)
    assert (evolved.with_it, evolved.without, evolved.populations) == (0.5, 0.75, 1)
    assert [claim.verdict for claim in section.claims] == ["confirmed", "not decided"]
    fewer = SIMPLIFICATION.section(cells, replace(options, populations=5), NOTHING_PUBLISHED)
    assert [claim.verdict for claim in fewer.claims] == ["not decided"] * 2


def test_accuracies_are_paired_by_item(cells, tiny_options):
    options = replace(tiny_options, tasks=("one", "two"))
    draw = random.Random(0)
    right = {"dense": 0.9, "wanda": 0.5, "pruner-zero": 0.7, "magnitude": 0.3}
    for task in ("one", "two"):
        for method, share in right.items():
            items = tuple(int(draw.random() < share) for _ in range(400))
            scores = {name: Accuracy(items, 0.25) for name in ("acc", "acc_norm")}
            result = TaskResult(scores, 500, f"hash of {task}", 0, "1")
            assert zero_shot.restored(zero_shot.kept(result)) == result
            cells.add(zero_shot.cell(options, method, task, 0), zero_shot.kept(result), 1, 0)
    section = ZERO_SHOT.section(cells, options, NOTHING_PUBLISHED)
    rows = {(row.method, row.task, row.metric): row for row in section.tables["zero-shot"]}
    own, wanda = (rows[name, MEAN, "acc"] for name in ("pruner-zero", "wanda"))
    assert own.accuracy == pytest.approx(
        (rows["pruner-zero", "one", "acc"].accuracy + rows["pruner-zero", "two", "acc"].accuracy)
        / 2
    )
    assert own.minus_wanda.change == pytest.approx(own.accuracy - wanda.accuracy)
    assert own.minus_wanda.low < own.minus_wanda.change < own.minus_wanda.high
    single = rows["pruner-zero", "one", "acc"].minus_wanda
    assert own.minus_wanda.high - own.minus_wanda.low < 0.8 * (single.high - single.low)
    assert wanda.minus_wanda is None
    assert rows["dense", MEAN, "acc"].minus_dense is None
    assert [claim.verdict for claim in section.claims] == ["confirmed"] * 2
    assert {claim.confidence for claim in section.claims} == {"low"}


def test_tables_leave_out_empty_columns_and_keep_full_precision(cells, tiny_options, tmp_path):
    add_perplexity(cells, tiny_options, "wanda", 0, [1.0])
    section = METHODS.section(cells, tiny_options, NOTHING_PUBLISHED)
    rows = section.tables["methods"]
    assert "published" not in columns_of(rows)
    assert "| wanda | 50% | 2 | 1 | 2.718 |" in markdown_table(rows)
    write_sections([section], "# Head\n", tmp_path / "out")
    with (tmp_path / "out" / "tables" / "methods.csv").open() as file:
        [line] = csv.DictReader(file)
    assert float(line["perplexity"]) == math.exp(1.0)
    page = (tmp_path / "out" / "results.md").read_text()
    assert page.startswith("# Head\n")
    assert "![" in page
    assert (tmp_path / "out" / "figures" / "methods.svg").read_text().startswith("<?xml")
