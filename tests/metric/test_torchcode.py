from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunerzero.errors import InputError
from prunerzero.evolution.grammar import DEFAULT, PAPER
from prunerzero.metric import OPERATORS, Metric, Operator, operators

GENERATOR = torch.Generator().manual_seed(0)
TENSORS = {
    "W": torch.randn(5, 8, generator=GENERATOR),
    "G": torch.rand(5, 8, generator=GENERATOR),
    "F": torch.rand(5, 8, generator=GENERATOR),
    "X": torch.rand(8, generator=GENERATOR),
    "A": torch.rand(1, 8, generator=GENERATOR),
}


def load(source: str, folder: Path) -> ModuleType:
    """The module of a source, as another project would import it."""
    file = folder / "found_metric.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("found_metric", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@given(st.sampled_from([PAPER, DEFAULT]), st.randoms(use_true_random=False))
def test_function_and_source_give_the_scores(tmp_path_factory, grammar, random) -> None:
    metric = grammar.tree(random)
    tensors = {name: TENSORS[name] for name in metric.terminals}
    expected = metric.score(**tensors)
    function = metric.to_torch()
    same = {"rtol": 0, "atol": 0, "equal_nan": True}
    torch.testing.assert_close(function(**tensors), expected, **same)
    in_order = [tensors[name] for name in function.arguments]
    torch.testing.assert_close(function(*in_order), expected, **same)
    module = load(function.source, tmp_path_factory.mktemp("source"))
    torch.testing.assert_close(module.score(*in_order), expected, **same)
    assert "prunerzero" not in function.source.split('"""', 2)[2]


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_source_of_every_operator(tmp_path: Path, name: str) -> None:
    operator = OPERATORS[name]
    text = {1: f"{name}(W * A)", 2: f"{name}(W, A)"}[operator.arity]
    metric = Metric.parse("W ** 0.3 + (W * A) ** 1.75" if operator.constant_exponent else text)
    module = load(metric.to_torch().source, tmp_path)
    found = module.score(TENSORS["W"], TENSORS["A"])
    expected = metric.score(W=TENSORS["W"], A=TENSORS["A"])
    assert found.shape == (5, 8)
    assert torch.equal(found, expected.expand(5, 8))


def test_constants_and_a_bare_terminal(tmp_path: Path) -> None:
    assert torch.equal(
        load(Metric.parse("0.1 * W + 1e-3").to_torch().source, tmp_path).score(TENSORS["W"]),
        Metric.parse("0.1 * W + 1e-3").score(W=TENSORS["W"]),
    )
    weight = TENSORS["W"].clone()
    found = Metric.parse("W").to_torch()(weight)
    assert torch.equal(found, weight.abs())
    assert torch.equal(weight, TENSORS["W"])


def test_wrong_arguments() -> None:
    function = Metric.parse("W * A").to_torch()
    assert function.arguments == ("W", "A")
    with pytest.raises(InputError, match="takes W, A, got 3"):
        function(*[TENSORS["W"]] * 3)
    with pytest.raises(InputError, match="W is given twice"):
        function(TENSORS["W"], W=TENSORS["W"])
    with pytest.raises(InputError, match="needs terminal 'A'"):
        function(TENSORS["W"])


@pytest.fixture
def softsign() -> Iterator[None]:
    operators.register(Operator("softsign", 1, lambda x: x / (1 + x.abs()), "x / (1 + |x|)"))
    yield
    del OPERATORS["softsign"]


@pytest.mark.usefixtures("softsign")
def test_an_operator_of_ones_own_has_no_source() -> None:
    function = Metric.parse("softsign(W)").to_torch()
    assert torch.equal(function(torch.tensor([[-1.0, 3.0]])), torch.tensor([[0.5, 0.75]]))
    with pytest.raises(InputError, match="operator 'softsign': is your own"):
        _ = function.source
