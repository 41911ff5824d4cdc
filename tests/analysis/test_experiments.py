import pytest

from prunerzero.analysis.bench import Reading
from prunerzero.analysis.experiments import Member, diverse_set, proxy_agreements
from prunerzero.analysis.proxies import ProxyReading
from prunerzero.evaluation.perplexity import TextLoss
from prunerzero.recipe import Recipe


def measured(losses, cheap, names=None, rungs=None):
    names = names or [f"candidate {number}" for number in range(len(losses))]
    members = [
        Member(name, Recipe.named("wanda"), None, (rungs or {}).get(name, ())) for name in names
    ]
    readings = [
        Reading(TextLoss((loss,), 10), ProxyReading(value, None, 0.5))
        for loss, value in zip(losses, cheap, strict=True)
    ]
    return members, readings


def test_agreement_of_all_and_of_the_better_half():
    # The proxy tells the worse half from the better, in which its order is upside down.
    members, readings = measured([1, 2, 3, 4, 5, 6, 7, 8], [4, 3, 2, 1, 5, 6, 7, 8])
    whole, half = proxy_agreements("50%", members, readings, seed=0)
    assert (whole.proxy, whole.among, whole.agreement.n) == ("reconstruction error", "all", 8)
    assert whole.agreement.kendall.value == pytest.approx((28 - 2 * 6) / 28)
    assert (half.among, half.agreement.n) == ("better half", 4)
    assert half.agreement.kendall.value == pytest.approx(-1)


def test_a_rung_counts_for_those_that_reached_it():
    names = [f"candidate {number}" for number in range(6)]
    rungs = {name: (float(n), float(-n)) for n, name in enumerate(names) if n < 4}
    members, readings = measured([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6], names, rungs)
    found = {
        row.proxy: row.agreement
        for row in proxy_agreements("50%", members, readings, seed=0)
        if row.among == "all"
    }
    assert found["rung 0 of the search"].n == 4
    assert found["rung 1 of the search"].kendall.value == pytest.approx(-1)
    assert "fitness of the search" not in found


def test_the_best_of_each_family():
    names = ["candidate 1", "wanda", "candidate 3", "candidate 4"]
    members, readings = measured([2.0, 1.5, 1.0, 1.8], [1, 2, 3, 4], names)
    rows = diverse_set(members, readings, [0, 0, 1, 2])
    assert [(row.name, row.size, row.beats_wanda) for row in rows] == [
        ("candidate 3", 1, True),
        ("wanda", 2, False),
        ("candidate 4", 1, False),
    ]
