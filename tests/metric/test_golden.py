"""The public reference evaluator's scores and masks on seeded inputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prunerzero.metric import Metric

DATA = Path(__file__).parents[1] / "data"
TREES = json.loads((DATA / "reference-scores.json").read_text())["trees"]
TENSORS = load_file(DATA / "reference-scores.safetensors")
INPUTS = {name: TENSORS[name] for name in "WGX"}

# The contract is an absolute tolerance of 1e-6 of the largest score. Tree 23, mms(tanh(exp(G))),
# spreads values within 0.035 of one another over [0, 1], so that one unit in the last place of
# tanh (6e-8) becomes 1.8e-6. CPUs without AVX-512 differ from the reference's machine by that unit
# in 22 of 512 elements, one of which lies outside the contract. The test below shows that the
# reference's own formula gives exactly our scores on the machine at hand.
ATOL = {23: 2e-6}


@pytest.mark.parametrize("index", range(len(TREES)))
def test_scores_and_masks_are_the_references(index: int) -> None:
    metric = Metric.from_tree(TREES[index]["tree"])
    expected = TENSORS[f"score.{index}"]
    scores = metric.score(**INPUTS)
    finite = expected.isfinite()
    assert torch.equal(scores[~finite].nan_to_num(), expected[~finite].nan_to_num())
    assert torch.equal(scores.isnan(), expected.isnan())
    largest = expected[finite].abs().max().item() if finite.any() else 0.0
    atol = ATOL.get(index, 1e-6) * largest
    torch.testing.assert_close(scores[finite], expected[finite], rtol=1e-4, atol=atol)

    if f"pruned_50.{index}" not in TENSORS:
        assert not TREES[index]["finite"]
        return
    pruned = TENSORS[f"pruned_50.{index}"].bool()
    order = scores.argsort(dim=1, stable=True)
    mine = torch.zeros_like(pruned).scatter(1, order[:, :16], True)
    ranked = expected.sort(dim=1).values
    gap = (ranked[:, 16] - ranked[:, 15]) / ranked.abs().amax(dim=1)
    # Equal scores are settled by index, so their mask is exact; a gap of roundings is not.
    clear = (gap == 0) | (gap >= 1e-6)
    assert torch.equal(mine[clear], pruned[clear])


def test_there_are_sixty() -> None:
    assert len(TREES) == 60


def test_trees_survive_both_forms() -> None:
    for entry in TREES:
        metric = Metric.from_tree(entry["tree"])
        assert metric.to_tree() == entry["tree"]
        assert Metric.parse(str(metric)) == metric
        assert metric.size == entry["size"]


def test_tree_23_differs_by_no_more_than_this_machines_tanh() -> None:
    spread = torch.tanh(torch.exp(INPUTS["G"].clamp(max=100)))
    literal = (spread - spread.min()) / (spread.max() - spread.min())
    scores = Metric.from_tree(TREES[23]["tree"]).score(**INPUTS)
    assert torch.equal(scores, literal)
    far = (scores - TENSORS["score.23"]).abs() > 1e-4 * TENSORS["score.23"] + 1e-6
    assert far.sum() <= 1
