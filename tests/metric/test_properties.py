"""Properties on random trees and random tensors."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from prunerzero.errors import InputError
from prunerzero.metric import OPERATORS, TERMINALS, Call, Constant, Leaf, Metric, Node
from prunerzero.metric.scoring import evaluate

ROWS, COLUMNS = 6, 24
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32, allow_subnormal=False)
CONSTANTS = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0])


def trees(constants: st.SearchStrategy[float] = CONSTANTS) -> st.SearchStrategy[Node]:
    leaves = st.sampled_from(sorted(TERMINALS)).map(Leaf) | constants.map(Constant)

    def calls(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        def call(name: str) -> st.SearchStrategy[Node]:
            operator = OPERATORS[name]
            if operator.constant_exponent:
                args = st.tuples(children, constants.map(Constant))
            else:
                args = st.tuples(*[children] * operator.arity)
            return args.map(lambda values: Call(name, values))

        products = st.sampled_from(["mul", "mul", "add", "ratio"])
        return (st.sampled_from(sorted(OPERATORS)) | products).flatmap(call)

    return st.recursive(leaves, calls, max_leaves=6)


@st.composite
def matrices(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Inputs of one matrix, smooth or on a coarse grid (ties), some with empty rows."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    grid = draw(st.sampled_from([0, 0, 3, 8]))
    inputs = {}
    for name, terminal in TERMINALS.items():
        rows = ROWS if terminal.shape.spans_rows else 1
        tensor = torch.randn(rows, COLUMNS, generator=generator).abs()
        if grid:
            tensor = (tensor * grid / 2).round() / grid
        inputs[name] = tensor * draw(st.sampled_from([0.02, 1.0, 1.0, 30.0]))
    if draw(st.booleans()):
        inputs["W"][draw(st.integers(0, ROWS - 1))] = 0.0
    return inputs


def scores(node: Node, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return evaluate(node, inputs).expand(ROWS, COLUMNS)


def is_tame(node: Node, inputs: dict[str, torch.Tensor]) -> bool:
    """Whether no intermediate value overflows, or is so small that it loses digits."""
    for part in set(node.nodes()):
        values = evaluate(part, inputs)
        small = (values != 0) & (values.abs() < 1e-30)
        if small.any() or not values.isfinite().all() or (values.abs() > 1e30).any():
            return False
    return True


def pruned(scores_: torch.Tensor, pruned_of: int) -> torch.Tensor:
    """The mask by its definition: the first of a stable ascending sort of each row."""
    order = scores_.argsort(dim=1, stable=True)
    return torch.zeros_like(scores_, dtype=torch.bool).scatter(1, order[:, :pruned_of], True)


def excess(original: torch.Tensor, mask: torch.Tensor) -> float:
    """By how many units in the last place a pruned score exceeds a kept one, at most."""
    highest = original.masked_fill(~mask, -torch.inf).amax(dim=1)
    lowest = original.masked_fill(mask, torch.inf).amin(dim=1)
    largest = torch.maximum(highest.abs(), lowest.abs())
    unit = torch.nextafter(largest, torch.tensor(torch.inf)) - largest
    return ((highest - lowest).double() / unit.double()).max().item()


@given(trees(FINITE))
def test_text_and_json_give_the_same_tree_back(node: Node) -> None:
    metric = Metric(node)
    assert Metric.parse(str(metric)) == metric
    assert Metric.from_tree(metric.to_tree()) == metric
    assert hash(Metric.parse(str(metric))) == hash(metric)
    assert pickle.loads(pickle.dumps(metric)) == metric  # noqa: S301 (our own bytes)


@given(st.text(alphabet="WGX09.e-+*/(), sqrtlog", max_size=30))
def test_any_text_parses_or_is_refused_in_one_line(text: str) -> None:
    message = ""
    try:
        metric = Metric.parse(text)
    except InputError as error:
        message = str(error)
    if message:
        assert message.startswith("metric, column ")
        assert "\n" not in message
    else:
        assert Metric.parse(str(metric)) == metric


@given(trees(), matrices())
def test_static_types_hold(node: Node, inputs: dict[str, torch.Tensor]) -> None:
    values = evaluate(node, inputs)
    rows = ROWS if node.shape.spans_rows else 1
    columns = COLUMNS if node.shape.spans_columns else 1
    assert values.shape == (rows, columns)
    assert values.dtype == torch.float32
    finite = values[values.isfinite()]
    if finite.numel():
        slack = 1e-4 * (1 + finite.abs().max().item())
        assert finite.min() >= node.bounds.low - slack
        assert finite.max() <= node.bounds.high + slack
    if node.bounds.non_negative:
        assert not (finite < 0).any()


@settings(max_examples=100, suppress_health_check=[HealthCheck.filter_too_much])
@given(trees(), matrices())
def test_default_simplification_keeps_the_scores(
    node: Node, inputs: dict[str, torch.Tensor]
) -> None:
    simpler = Metric(node).simplify().expression
    assert simpler.size <= node.size
    assert Metric(simpler).simplify().expression == simpler
    assume(simpler != node and is_tame(node, inputs))
    before, after = scores(node, inputs), scores(simpler, inputs)
    assert simpler.shape is node.shape
    torch.testing.assert_close(after, before, rtol=1e-6, atol=0)


@given(trees())
def test_paper_simplification_ends_and_shrinks(node: Node) -> None:
    simpler = Metric(node).simplify("paper")
    assert simpler.size <= node.size
    assert simpler.simplify("paper") == simpler


@pytest.mark.parametrize("group", ["row", "2:4", "matrix", "model"])
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(trees(), matrices(), matrices(), st.integers(1, 9))
def test_the_canonical_mask_is_valid(
    group: Any,
    node: Node,
    inputs: dict[str, torch.Tensor],
    others: dict[str, torch.Tensor],
    tenths: int,
) -> None:
    nm = group == "2:4"
    canonical = Metric(node).canonical("matrix" if nm else group, nm=nm).expression
    assume(canonical != node and is_tame(node, inputs) and is_tame(canonical, inputs))
    original, ranked = scores(node, inputs), scores(canonical, inputs)
    if group == "2:4":
        original, ranked = original.reshape(-1, 4), ranked.reshape(-1, 4)
    elif group == "matrix":
        original, ranked = original.reshape(1, -1), ranked.reshape(1, -1)
    elif group == "model":
        assume(is_tame(node, others) and is_tame(canonical, others))
        original = torch.cat([original, scores(node, others)]).reshape(1, -1)
        ranked = torch.cat([ranked, scores(canonical, others)]).reshape(1, -1)
    count = 2 if nm else ranked.shape[1] * tenths // 10
    assert excess(original, pruned(ranked, count)) <= 4


@given(trees(), st.sampled_from(["row", "matrix", "model"]))
def test_canonical_forms_shrink_and_ignore_operand_order(node: Node, group: Any) -> None:
    def swapped(part: Node) -> Node:
        if not isinstance(part, Call):
            return part
        args = tuple(swapped(arg) for arg in part.args)
        return Call(part.operator, args[::-1] if OPERATORS[part.operator].commutative else args)

    metric = Metric(node)
    assert metric.canonical(group).size <= metric.size + 1  # sqr(x) becomes abs(x); neg may stay
    assert Metric(swapped(node)).canonical(group) == metric.canonical(group)


@given(trees(), st.data())
def test_replacing_a_node(node: Node, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, node.size - 1))
    nodes = list(node.nodes())
    assert len(nodes) == node.size
    assert nodes[0] is node
    assert node.replace(index, nodes[index]) == node
    before = hash(node)
    exponents = [
        part.args[1] for part in nodes if isinstance(part, Call) and part.operator == "power"
    ]
    assume(not any(nodes[index] is exponent for exponent in exponents))
    changed = node.replace(index, Leaf("W"))
    assert list(changed.nodes())[index] == Leaf("W")
    assert changed.size == node.size - nodes[index].size + 1
    assert hash(node) == before
