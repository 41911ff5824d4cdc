"""Scores by blocks of rows are those of the plain path, to the bit."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.evolution.grammar import DEFAULT, PAPER
from prunerzero.metric import (
    OPERATORS,
    TERMINALS,
    Call,
    Constant,
    Leaf,
    Metric,
    Node,
    Operator,
    Shape,
)
from prunerzero.metric import operators as operators_module
from prunerzero.metric.scoring import RowScorer, evaluate
from prunerzero.pruning.pattern import Pattern

ROWS, COLUMNS = 11, 24
CPU = torch.device("cpu")


def make_inputs(seed: int) -> dict[str, torch.Tensor]:
    """Statistics of one matrix, `W` on a coarse grid as quantised weights are."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {}
    for name, terminal in TERMINALS.items():
        rows = ROWS if terminal.shape is Shape.FULL else 1
        inputs[name] = torch.randn(rows, COLUMNS, generator=generator).abs()
    inputs["W"] = (inputs["W"] * 3).round() / 3
    return inputs


def scorer(node: Node, inputs: dict[str, torch.Tensor], **more) -> RowScorer:
    def read(name: str, rows: slice) -> torch.Tensor:
        values = inputs[name]
        return values if TERMINALS[name].shape is Shape.COLUMN else values[rows]

    return RowScorer(node, read, CPU, **more)


def by_blocks(one: RowScorer, step: int) -> torch.Tensor:
    blocks = [slice(row, min(row + step, ROWS)) for row in range(0, ROWS, step)]
    return torch.cat([one.rows(rows).expand(rows.stop - rows.start, COLUMNS) for rows in blocks])


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.shape == second.shape and torch.equal(
        first.contiguous().view(torch.int32), second.contiguous().view(torch.int32)
    )


@given(
    st.sampled_from([PAPER, DEFAULT]),
    st.integers(0, 2**31),
    st.integers(0, 2**31),
    st.integers(1, ROWS),
)
def test_random_trees(grammar, tree_seed: int, seed: int, step: int) -> None:
    node = grammar.tree(Random(tree_seed)).expression
    inputs = make_inputs(seed)
    expected = evaluate(node, inputs)
    one = scorer(node, inputs)
    assert same(one.rows(), expected)
    assert same(by_blocks(one, step), expected.expand(ROWS, COLUMNS))


@pytest.mark.parametrize("name", sorted(OPERATORS))
@pytest.mark.parametrize("args", ["W * F", "A * rowmean(F)", "X", "rowmax(W)", "colmean(W) * F"])
def test_every_operator_in_the_middle_of_a_formula(name: str, args: str) -> None:
    inner = Metric.parse(args).expression
    others = (Constant(0.75) if name == "power" else Metric.parse(f"{args} + W").expression,)
    call = Call(name, (inner, *others[: OPERATORS[name].arity - 1]))
    node = Call("sqrt", (Call("add", (Leaf("W"), Call("mul", (call, Leaf("F"))))),))
    inputs = make_inputs(0)
    assert same(by_blocks(scorer(node, inputs), 3), evaluate(node, inputs).expand(ROWS, COLUMNS))


def test_reductions_are_asked_for_once_and_may_be_remembered() -> None:
    node = Metric.parse("mms(F) * W + coln(W) * rowmean(F * colmax(W)) + A * colmax(W)").expression
    inputs = make_inputs(1)
    memory: dict[Node, tuple[torch.Tensor, ...]] = {}
    computed = []

    def recall(part, compute):
        if part not in memory:
            computed.append(str(part))
            memory[part] = compute()
        return memory[part]

    for _ in range(2):
        assert same(scorer(node, inputs, recall=recall).rows(), evaluate(node, inputs))
    assert sorted(computed) == [
        "A * colmax(W)", "colmax(W)", "coln(W)", "mms(F)", "rowmean(F * colmax(W))",
    ]  # fmt: skip
    assert all(part.numel() <= COLUMNS for parts in memory.values() for part in parts)


@pytest.fixture
def registry():
    before = dict(OPERATORS)
    yield operators_module.register
    OPERATORS.clear()
    OPERATORS.update(before)


def test_an_operator_that_does_not_say_it_is_row_local_sees_the_whole_matrix(registry) -> None:
    registry(Operator("flipped", 1, lambda x: x.flip(0) + 0.0, "rows upside down"))
    node = Metric.parse("W + flipped(W * F) * A").expression
    inputs = make_inputs(2)
    assert same(by_blocks(scorer(node, inputs), 4), evaluate(node, inputs))


@pytest.mark.parametrize("text", ["50%", "2:4"])
@pytest.mark.parametrize("step", [1, 4, 11])
def test_masks_of_blocks(text: str, step: int) -> None:
    pattern, node, inputs = (
        Pattern.parse(text),
        Metric.parse("W * rown(F)").expression,
        make_inputs(3),
    )
    one = scorer(node, inputs)
    blocks = [slice(row, min(row + step, ROWS)) for row in range(0, ROWS, step)]
    masks = torch.cat([pattern.mask(one.rows(rows)) for rows in blocks])
    assert torch.equal(masks, pattern.mask(evaluate(node, inputs)))
