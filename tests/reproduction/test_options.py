import pytest

from prunerzero.errors import InputError
from prunerzero.reproduction.options import Options


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experiments": ("methods", "nonsense")}, "experiment 'nonsense'"),
        ({"experiments": ()}, "experiments: give at least one"),
        ({"methods": ("wanda", "wanda")}, "methods: one is given twice"),
        ({"methods": ("wnada",)}, "did you mean 'wanda'"),
        ({"patterns": ("4:4",)}, "4:4"),
        ({"sparsities": ("2:4",)}, "sparsity '2:4'"),
        ({"sample_counts": (0, 2)}, "sample counts"),
        ({"seeds": 0}, "seeds 0: give 1 or more"),
        ({"limit": 1}, "limit 1: give 2 or more"),
        ({"proposals": 10, "population": 20}, "fewer than the population of 20"),
    ],
)
def test_bad_options(changes, message):
    with pytest.raises(InputError, match=message):
        Options(**changes)


def test_the_papers_sizes_are_the_defaults():
    options = Options()
    assert (options.proposals, options.population) == (350, 50)
    assert options.sparsities == tuple(f"{n}%" for n in range(10, 81, 10))
    assert options.pattern == "50%"
    assert list(options.all_seeds) == [0, 1, 2]
