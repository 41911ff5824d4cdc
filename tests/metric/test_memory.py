"""No formula within the limits holds more matrices at once than `docs/reliability.md` says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest
import torch
from torch.autograd.profiler import profile

from prunerzero.errors import InputError, UnusableScores
from prunerzero.metric import OPERATORS, Call, Constant, Leaf, Metric, Node, Operator, Shape
from prunerzero.metric import operators as operators_module
from prunerzero.metric.expression import MAX_DEPTH, MAX_SIZE
from prunerzero.metric.scoring import ColumnScorer, RowScorer, evaluate, most_matrices, plan

ROWS, COLUMNS = 256, 512
MATRIX = 4 * ROWS * COLUMNS  # bytes
MOST_INTERMEDIATE = 10  # matrices
MOST_OF_ONE_OPERATION = 4  # that it takes beside its arguments and result
MOST = MOST_INTERMEDIATE + MOST_OF_ONE_OPERATION

BINARY = ("add", "sub", "mul", "ratio", "div")
UNARY = ("sqrt", "log", "exp", "tanh", "mms", "zsn", "rown", "coln", "abs", "neg")


def leaf(index: int) -> Node:
    """A subexpression of its own for every index, of three nodes."""
    return Call("mul", (Leaf("W"), Constant(1.0 + index / 1000)))


def balanced(leaves: list[Node], operator: str = "add") -> Node:
    while len(leaves) > 1:
        pairs = zip(leaves[::2], leaves[1::2], strict=False)
        rest = leaves[-1:] if len(leaves) % 2 else []
        leaves = [Call(operator, pair) for pair in pairs] + rest
    return leaves[0]


def chain(leaves: list[Node], operator: str = "add") -> Node:
    """As deep as may be: every left argument waits for all that is to its right."""
    node = leaves[-1]
    for one in reversed(leaves[:-1]):
        node = Call(operator, (one, node))
    return node


def needed_twice() -> Node:
    """Every subexpression is computed for the left half, and wanted again in the right one."""
    leaves = [leaf(index) for index in range(120)]
    return Call("sub", (balanced(leaves), balanced(leaves, "mul")))


LARGEST = {
    "balanced": balanced([leaf(index) for index in range(250)]),
    "ratios": balanced([leaf(index) for index in range(250)], "ratio"),
    "chain": chain([leaf(index) for index in range(MAX_DEPTH - 1)]),
    "chain of powers": chain(
        [Call("power", (leaf(index), Constant(1.75))) for index in range(MAX_DEPTH - 2)]
    ),
    "needed twice": needed_twice(),
    "reduced": Call("mul", (Leaf("W"), Call("colstd", (needed_twice(),)))),
    "reduced at every level": chain(
        [Call("mms", (Call("coln", (leaf(index),)),)) for index in range(MAX_DEPTH - 3)], "div"
    ),
}


def peak(work: Callable[[], object]) -> int:
    """Bytes that torch holds at most while it works, beside what it held before."""
    with profile(profile_memory=True) as found:
        work()
    events = [one for one in found.kineto_results.events() if one.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def make_inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"W": torch.rand(ROWS, COLUMNS, generator=generator) + 0.1}


def by_rows(node: Node, inputs: dict[str, torch.Tensor], step: int) -> torch.Tensor:
    def read(name: str, rows: slice) -> torch.Tensor:
        return inputs[name][rows].abs()

    scorer = RowScorer(node, read, torch.device("cpu"), Memory())
    rows = range(0, ROWS, step)
    return torch.stack([scorer.rows(slice(row, row + step)).amax() for row in rows])


class Memory(dict):
    """Remembers what has to be known of the whole matrix."""

    def __call__(self, node, compute):
        if node not in self:
            self[node] = compute()
        return self[node]


def test_what_is_measured_is_there():
    w = make_inputs()["W"]
    assert 3 * MATRIX <= peak(lambda: w.square().sqrt() + w.exp()) < 3.01 * MATRIX
    assert all(node.size <= MAX_SIZE and node.depth <= MAX_DEPTH for node in LARGEST.values())


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_formulas(name: str):
    node, inputs = LARGEST[name], make_inputs()
    assert peak(lambda: evaluate(node, inputs)) <= MOST * MATRIX
    assert peak(lambda: by_rows(node, inputs, ROWS)) <= MOST * MATRIX
    if "reduced" not in name:  # nothing is needed of the whole matrix
        assert peak(lambda: by_rows(node, inputs, ROWS // 16)) <= MOST * MATRIX / 16


def test_random_formulas_of_all_sizes():
    random = Random(0)
    for _ in range(30):
        made = [random.choice([leaf(random.randrange(40)), Leaf("A"), Leaf("F")]) for _ in range(9)]
        with suppress(InputError):  # up to the limits
            while True:
                if random.random() < 0.6:
                    args = tuple(random.choices(made, k=2))
                    made.append(Call(random.choice(BINARY), args))
                else:
                    made.append(Call(random.choice(UNARY), (random.choice(made),)))
        assert most_matrices(plan(made[-1])) <= MOST_INTERMEDIATE


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_no_operator_takes_more(operator: str):
    inputs = make_inputs()
    large = Call("add", (Leaf("W"), Constant(1e38)))  # a mean of these takes float64
    args = (large, Constant(1.75) if operator == "power" else leaf(1))
    node = Call(operator, args[: OPERATORS[operator].arity])
    assert peak(lambda: evaluate(node, inputs)) <= (3 + MOST_OF_ONE_OPERATION) * MATRIX


@pytest.fixture
def registry():
    before = dict(OPERATORS)
    yield operators_module.register
    OPERATORS.clear()
    OPERATORS.update(before)


def test_operators_that_see_the_whole_matrix(registry):
    registry(Operator("flipped", 1, lambda x: x.flip(0), "rows upside down"))
    leaves = [Call("flipped", (leaf(index),)) for index in range(200)]
    inputs = make_inputs()
    node = balanced(leaves)
    assert peak(lambda: by_rows(node, inputs, ROWS // 16)) <= MOST * MATRIX
    found, expected = by_rows(node, inputs, ROWS // 16), evaluate(node, inputs)
    assert torch.equal(found, expected.view(16, -1).amax(1))
    with pytest.raises(UnusableScores, match="more than 8 operators that need a whole matrix"):
        ColumnScorer(node, inputs)
    few = balanced(leaves[:8])
    scores = ColumnScorer(few, inputs).columns(slice(0, 7), inputs["W"][:, :7])
    assert torch.equal(scores, evaluate(few, inputs)[:, :7])


def test_equal_subexpressions_are_computed_once_where_that_is_cheap():
    node = Metric.parse("sqrt(W * A) + log(W * A) * rowmean(W * A)").expression
    steps = plan(node)
    assert len(steps) == len({step.node for step in steps})
    assert {step.node.shape for step in steps} == {Shape.FULL, Shape.COLUMN, Shape.ROW}
